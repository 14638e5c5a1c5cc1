"""Rows whose greedy tokens are not the baseline's are void; a tie of rounding is none."""

import math

import pandas as pd
import pytest
import torch

from sdbench.analysis.report.comparison_table import comparison
from sdbench.analysis.results import read
from sdbench.harness.greedy_match import gap
from sdbench.lm.transformer import Transformer
from sdbench.papers.sections import peers
from sdbench.runs.record import load
from tests.conftest import random_model

WORDS = ["arms=[ar,sd,hf_generate,hf_assisted]", "arms.sd.draft_length=3", "arms.hf_assisted.draft_length=3"]


@pytest.fixture(scope="module")
def with_peers(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("peers") / "run"
    assert bench.call("run", out, *WORDS) == 0
    return load(out)


def test_peers_stand_beside_ours_end_to_end(with_peers):
    arms = with_peers.summary["arms"]
    for name in ("hf_generate", "hf_assisted"):
        arm = arms[name]
        assert arm["end_to_end_only"]
        assert arm["tokens_per_second"] is None
        assert arm["speedup"] is None
        assert arm["end_to_end_tokens_per_second"] > 0
        assert len(arm["end_to_end_speedup_ci95"]) == 2
        assert arm["model_time_fraction"] is None
        assert arm["identity"] == {"identical": 4, "ties": 0, "mismatches": 0}
        assert not arm["void"]
    assert arms["ar"]["end_to_end_speedup"] == 1.0
    assert arms["sd"]["model_time_fraction"] > 0
    assert arms["hf_generate"]["tokens_per_target_call"] == 1.0
    # Same K, same models, greedy: what is accepted is the same but for what an end cuts off.
    assert arms["hf_assisted"]["acceptance_rate"] == pytest.approx(arms["sd"]["acceptance_rate"], abs=0.1)
    assert "end to end [95 %]" in comparison(with_peers.summary).heads
    assert "end_to_end" in {path.stem for path in (with_peers.path / "report" / "figures").glob("*.svg")}


def test_a_table_without_peers_is_as_it_was(finished):
    assert "end to end [95 %]" not in comparison(load(finished).summary).heads


def test_other_tokens_make_the_row_void(bench, tmp_path, monkeypatch):
    from sdbench.peers.base import Growing

    push = Growing.push

    def wrong(self, tokens):
        return push(self, [(token + 1) % 250 + 2 for token in tokens])

    monkeypatch.setattr(Growing, "push", wrong)
    assert bench.call("run", tmp_path / "out", "arms=[ar,hf_generate]") == 0
    summary = load(tmp_path / "out").summary
    assert summary["arms"]["hf_generate"]["void"]
    assert not summary["arms"]["ar"]["void"]
    line = next(line for line in comparison(summary).markdown().splitlines() if line.startswith("| hf_generate "))
    assert "void" in line
    assert "×" not in line


def test_sampled_tokens_are_not_compared(bench, tmp_path):
    assert bench.call("run", tmp_path / "out", "arms=[ar,hf_generate]", "sampling.temperature=1") == 0
    arm = load(tmp_path / "out").summary["arms"]["hf_generate"]
    assert arm["identity"] is None
    assert not arm["void"]


def test_the_gap_is_that_of_the_two_best():
    target = Transformer("target", random_model("llama"))
    prompt = [3, 5, 7]
    with torch.inference_mode():
        logits = target.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    (first, second, third), (one, two, _) = logits.topk(3).indices.tolist(), logits.topk(3).values.tolist()
    assert gap(target, prompt, [first, 1], [second, 1]) == pytest.approx(one - two, abs=1e-5)
    assert gap(target, prompt, [first], [third]) == math.inf
    assert gap(target, prompt, [first, 1], [first]) == math.inf


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["arms=[ar,hf_assisted]", "batch_size=2"],
            "arms.hf_assisted: transformers' assisted generation decodes one sequence",
        ),
        (["arms=[ar,flashspec]", "tasks.stop=['x']"], "arms.flashspec: flashspec knows no stop strings"),
        (["arms=[ar,vllm_sd]", "arms.vllm_sd.command=no-such-server"], "no program 'no-such-server'"),
    ],
)
def test_refused_before_any_weight_is_loaded(bench, tmp_path, capsys, words, says):
    if "flashspec" in says:
        pytest.importorskip("flashspec")
    assert bench.call("run", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_verify_holds_peers_to_generate(bench, tmp_path, capsys):
    assert (
        bench.call("verify", tmp_path / "out", "arms=[hf_assisted,hf_lookup]", "arms.hf_assisted.draft_length=3") == 0
    )
    assert "a peer: no oracle" in capsys.readouterr().out


def test_our_arms_are_paired_with_peers_of_the_same_length(with_peers):
    _, text = peers(read(with_peers.path))
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert heads == ["arm", "over `hf_generate`", "over `hf_assisted`"]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert set(found) == {"ar", "sd"}
    assert found["ar"][1] == "–", "a peer that drafts is not compared with an arm that does not"
    assert found["sd"][1].endswith("]")
    ours, theirs = (with_peers.sequences[with_peers.sequences.arm == name] for name in ("ar", "hf_generate"))
    seconds = [
        pd.Series(side.prefill_seconds.to_numpy() + side.block_decode_seconds.to_numpy(), side.prompt_id)
        for side in (ours, theirs)
    ]
    # The same tokens on both sides: the ratio of speeds is that of times, its geometric mean over the prompts.
    ratio = math.exp((seconds[1] / seconds[0]).map(math.log).mean())
    assert found["ar"][0].startswith(f"{ratio:.2f}x [")


def test_simulate_leaves_peers_out(with_peers):
    from sdbench.harness.simulate import simulate

    document = simulate(with_peers.path, [])
    assert document["outcomes_of"] == "sd"
    assert set(document["against_measured"]) == {"ar", "sd"}
