"""A model with recurrent layers through a whole run, and the arms that are refused before any work."""

import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.harness.tune import tune
from sdbench.runs.record import load as load_run
from tests.lm.recurrent_models import recurrent_model
from tests.tasks.tokenizers_made import byte_level


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurrent")
    recurrent_model("qwen3_5", layers=2, width=258, eos_token_id=1).save_pretrained(folder)
    byte_level(258, ["<pad>", "<eos>"]).save_pretrained(folder)
    return folder


def test_a_run(bench, folder, tmp_path):
    models = [f"models.target.path={folder}", "~models.qualifier", f"models.draft.path={folder}"]
    assert bench.call("run", tmp_path / "out", *models, "arms=[ar,sd,lookup]", "batch_size=2") == 0
    run = load_run(tmp_path / "out")
    for name, arm in run.summary["arms"].items():
        assert arm["identity"] == {"identical": 4, "ties": 0, "mismatches": 0, "tie_positions": 0}, name
    assert run.summary["arms"]["sd"]["acceptance_rate"] == 1.0  # it drafts for itself


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arms=[ar,early_exit]"], "do not support early exits"),
        (["arms=[ar,mcsd]"], "do not support token trees"),
        (["arms=[ar,lookahead]"], "do not support token trees"),
        (["arms=[ar,ssd]", "hardware=cpu_pair"], "do not support a server of drafts"),
        (["arms=[ar,sd]", "hardware.execution=compile"], "do not support hardware.execution=compile"),
    ],
)
def test_what_it_cannot_run_is_refused(bench, folder, tmp_path, words, said):
    models = [f"models.target.path={folder}", f"models.draft.path={folder}", f"models.qualifier.path={folder}"]
    with pytest.raises(InputError, match=rf"The arm '\w+' cannot run: \w+ has recurrent layers, which {said}"):
        prepare(compose(bench.words(tmp_path / "out", *models, *words)))


def test_tune_says_what_it_compares(folder):
    models = [f"models.{role}.path={folder}" for role in ("target", "draft", "qualifier")]
    with pytest.raises(InputError, match="target has recurrent layers, and tune compares token trees and early exits"):
        tune([*models, "limit=2", "max_new_tokens=32"])
