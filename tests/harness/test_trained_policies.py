"""Length policies with a trained network in a run: their files define it, and the network of another draft is refused."""

from __future__ import annotations

import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.models.identity import model_identity
from sdbench.models.spec import family_specs
from tests.drafting.trained import written


@pytest.fixture(scope="module")
def folder(bench, tmp_path_factory):
    draft = family_specs({"draft": {"path": str(bench.paths["draft"])}})["draft"]
    return written(tmp_path_factory.mktemp("policy"), draft=model_identity(draft))


def planned(bench, folder, *words):
    return prepare(compose(bench.words(folder, *words)))


ARMS = {
    "sd": "lengths@arms.sd.lengths=decision_model",
    "ssd": "lengths@arms.ssd.lengths=decision_model",
    "dynasd": "+lengths@arms.dynasd.policy=decision_model",
}


@pytest.mark.parametrize("arm", ARMS)
def test_its_files_define_the_run(bench, folder, arm, tmp_path):
    part = "policy" if arm == "dynasd" else "lengths"
    plan = planned(bench, tmp_path, f"arms=[ar,{arm}]", ARMS[arm], f"arms.{arm}.{part}.weights={folder}")
    names = [name.rpartition("/")[2] for name in plan.drafting_files]
    assert names == ["model.safetensors", "policy.json"]
    assert planned(bench, tmp_path, f"arms=[ar,{arm}]").drafting_files == {}


def test_the_network_of_another_draft_is_refused(bench, folder, tmp_path):
    words = ["arms=[ar,sd]", ARMS["sd"], f"arms.sd.lengths.weights={folder}", "arms.sd.proposer.model=qualifier"]
    with pytest.raises(InputError, match=r"arm 'sd': lengths\.weights belongs to another draft than qualifier"):
        planned(bench, tmp_path, *words)


def test_a_run_without_weights_is_refused(bench, tmp_path):
    with pytest.raises(InputError, match="weights"):
        planned(bench, tmp_path, "arms=[ar,sd]", ARMS["sd"])
