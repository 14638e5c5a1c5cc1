"""An arm that brings a cast of the target: in any family, with its note and its identity, and its simulated speed."""

from __future__ import annotations

import json

import pytest
import torch

import sdbench
from sdbench.errors import InputError
from sdbench.harness.arm_models import bring
from sdbench.harness.build import Roles
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.harness.run import run
from sdbench.harness.simulate import simulate, table
from sdbench.harness.simulated_cast import share_of
from sdbench.lm.transformer import Transformer
from sdbench.models.spec import family_specs
from tests.conftest import random_model

CAST = {"derive": {"from": "target", "quantize": "mxfp4"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    words = ["arms=[ar,ml_specqd,ml_specqd_three]", "limit=2", "max_new_tokens=16", "tracker=none"]
    plan = prepare(compose([*words, f"out={tmp_path_factory.mktemp('casts') / 'run'}"]))
    return plan, *run(plan)[:2]


def test_both_arms_give_the_targets_tokens(made):
    plan, _, summary = made
    for arm in ("ml_specqd", "ml_specqd_three"):
        assert summary["arms"][arm]["lossless"]
        assert summary["arms"][arm]["agreement"]["identical"] == 1
    assert set(summary["arms"]["ml_specqd_three"]["edges"]) == {"draft>mxfp4", "mxfp4>target"}
    assert any("cast to the values of MXFP4" in note and "acceptance is real" in note for note in plan.notes)
    assert plan.identities["mxfp4"] == f"{plan.identities['target']} derived quantize=mxfp4 skip=head"
    assert "qualifier" not in plan.specs


def test_the_speed_of_a_stored_cast_is_simulated(made):
    _, out, _ = made
    document = simulate(out, ["draft=mxfp4"])
    assert document["outcomes_of"] == "ml_specqd"
    assert document["latencies"]["source"] == "modelled"
    methods = {row["method"] for row in document["methods"]}
    assert {"ar", "sd", "pyramid"} <= methods
    assert "pyramid" in table(document)

    def best(document):
        return max(row["speedup"] for row in document["methods"] if row["method"] == "sd")

    slower = simulate(out, ["draft=mxfp4", "latency.draft=1000"])
    assert best(slower) < 1 < best(document)
    with pytest.raises(InputError, match=r"In no arm of this run qualifier alone drafts"):
        simulate(out, ["draft=qualifier"])
    with pytest.raises(InputError, match="no role 'mxfp'; did you mean 'mxfp4'"):
        simulate(out, ["draft=mxfp"])


def test_the_share_of_the_stored_bytes(made):
    """By hand, on the tiny target: its linear layers but the head at 4.25 bits, everything else as it was."""
    plan, _, _ = made
    model = load(plan)["target"].model
    head = model.get_output_embeddings()
    cast = sum(
        part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head
    )
    whole = sum(weight.numel() for weight in model.parameters())
    for dtype, item in (("float32", 4), ("bfloat16", 2)):
        expected = ((whole - cast) * item + cast * 4.25 / 8) / (whole * item)
        assert share_of(plan.specs["mxfp4"], dtype) == pytest.approx(expected)
    # Half of the layers, cast: fewer bytes than all layers cast.
    fewer = family_specs({**plan.config["models"], "half": {"derive": {**CAST["derive"], "layers": 4}}})["half"]
    assert share_of(fewer, "float32") < share_of(plan.specs["mxfp4"], "float32")


def test_an_arm_brings_a_model_and_the_familys_own_goes_first():
    assert compose(["arms=[ml_specqd]"])["models"]["mxfp4"]["derive"]["from"] == "target"
    assert "mxfp4" not in compose(["arms=[ar]"])["models"]
    skipping = compose(["arms=[ml_specqd]", "arms.ml_specqd.models.mxfp4.derive.skip=[head,q_proj]"])
    assert skipping["models"]["mxfp4"]["derive"]["skip"] == ["head", "q_proj"]
    own = compose(["arms=[ml_specqd]", "+models.mxfp4.path=a/b"])
    assert own["models"]["mxfp4"] == {"path": "a/b"}
    assert all("models" not in arm for arm in own["arms"].values())


def test_two_arms_with_different_models_of_one_name_are_refused():
    same = {"one": {"models": {"cast": CAST}}, "two": {"models": {"cast": CAST}}}
    assert bring({}, same) == ({"cast": CAST}, {"one": {}, "two": {}})
    other = {**same, "two": {"models": {"cast": {"derive": {"from": "target", "layers": 2}}}}}
    with pytest.raises(InputError, match=r"arms.two and arms.one bring different models in the role cast"):
        bring({}, other)
    with pytest.raises(InputError, match=r"arms.one.models must map roles to models"):
        bring({}, {"one": {"models": "cast"}})


def test_from_python():
    model = random_model("llama")
    arguments = {"prompt": [5, 6, 7, 8], "max_new_tokens": 8}
    wanted = sdbench.decode(model, None, method="ar", **arguments)
    assert sdbench.decode(model, None, method="ml_specqd", **arguments) == wanted
    assert sdbench.decode(model, random_model("llama", layers=2), method="ml_specqd_three", **arguments) == wanted


def test_a_role_with_a_number_is_an_early_exit():
    target = Transformer("target", random_model("llama"))
    roles = Roles({"target": target}, "arm")
    assert roles["target"] is target
    assert roles["target[2]"].name == "target[2]"
    with pytest.raises(InputError, match=r"needs a model that this family lacks, in the role 'draft'"):
        roles["draft[2]"]


def test_an_early_exit_needs_its_whole_model_in_the_arm():
    with pytest.raises(
        InputError, match=r"steps qualifier\[2\], which reads the cache of qualifier, but not qualifier itself"
    ):
        prepare(compose(["arms=[hierarchy]", "limit=1", "arms.hierarchy.proposer.levels=['qualifier[2]',draft]"]))
    with pytest.raises(InputError, match=r"levels is \[1\]; it must be a list of roles"):
        prepare(compose(["arms=[hierarchy]", "limit=1", "arms.hierarchy.proposer.levels=[1]"]))


def test_a_derived_role_is_recorded(made):
    _, out, _ = made
    assert "quantize=mxfp4" in json.loads((out / "environment.json").read_text())["weights"]["mxfp4"]


def test_a_role_that_no_arm_uses_needs_no_weights(tmp_path):
    words = [
        f"+models.trained.derive={{from: target, weights: {tmp_path / 'missing'}, made_by: make models}}",
        "limit=1",
    ]
    plan = prepare(compose(["arms=[ar]", *words]))
    assert "trained" not in plan.specs
    with pytest.raises(InputError, match=r"holds no model\.safetensors; `make models` makes it"):
        prepare(compose(["arms=[ar,sd]", "arms.sd.proposer.model=trained", *words]))
