"""A run over a masked diffusion model, and the refusals of models and arms of different classes."""

from __future__ import annotations

import json
import shutil

import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.harness.verify import verify
from sdbench.runs.record import load

ARMS = "arms=[diffusion,diffusion_ssd]"


@pytest.fixture(scope="module")
def diffusing(bench, tmp_path_factory):
    """The words of a run of the bench's target, read in both directions."""
    folder = tmp_path_factory.mktemp("diffusing") / "target"
    shutil.copytree(bench.paths["target"], folder)
    edited(folder, is_causal=False, mask_token_id=257)

    def words(out, *more):
        return [*bench.words(out), f"models.target.path={folder}", "limit=3", "batch_size=2", *more]

    return words


def edited(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_run_counts_the_answers_of_both_arms(diffusing, bench, tmp_path):
    words = diffusing(tmp_path / "run", ARMS, "arms.diffusion_ssd.width=2", "ignore_eos=true")
    assert bench.call("run", tmp_path / "run", *words) == 0
    run = load(tmp_path / "run")
    stepwise, speculative = (run.summary["arms"][name] for name in ("diffusion", "diffusion_ssd"))
    assert speculative["identity"] == {"identical": 3, "ties": 0, "mismatches": 0, "tie_positions": 0}
    assert stepwise["tokens_per_target_call"] == 1.0
    assert speculative["tokens_per_target_call"] >= 1.0
    assert speculative["lossless"]
    assert not speculative["void"]
    assert speculative["model_time_fraction"] > 0
    trees = speculative["edges"]["self>target"]["trees"]
    assert 0 < trees["nodes_per_call"] <= 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("arms=[ar]",), "The arm 'ar' decodes token by token, but target is a masked diffusion model"),
        (("arms=[sd]",), "The arm 'sd' decodes token by token, but target is a masked diffusion model"),
        ((ARMS, "sampling.temperature=0.5"), "is 0.5, but a masked diffusion model is decoded greedily here"),
        ((ARMS, "hardware.execution=compile"), "The arm 'diffusion' runs eagerly"),
    ],
)
def test_what_a_plan_refuses(diffusing, tmp_path, more, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        prepare(compose(diffusing(tmp_path, *more)))


def test_an_autoregressive_target_is_refused(bench, tmp_path):
    with pytest.raises(
        InputError, match=r"needs a masked diffusion model, but the config\.json of target lacks is_causal=false"
    ):
        prepare(compose(bench.words(tmp_path, ARMS)))


def test_verify_refuses_and_names_the_run_that_compares(diffusing, tmp_path):
    with pytest.raises(InputError, match="does not decode a masked diffusion model: sdbench run"):
        verify(prepare(compose(diffusing(tmp_path, ARMS))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_token_id": None}, "so its mask_token_id must be a token from 0 to 257; it is None"),
        ({"mask_token_id": 900}, "must be a token from 0 to 257; it is 900"),
    ],
)
def test_an_incomplete_config_is_refused(bench, tmp_path, values, message):
    folder = tmp_path / "target"
    shutil.copytree(bench.paths["target"], folder)
    edited(folder, is_causal=False, **values)
    with pytest.raises(InputError, match=message):
        prepare(compose(bench.words(tmp_path, f"models.target.path={folder}", ARMS)))
