"""What drafters keep between sequences, and the files that they draft from, in a run."""

from __future__ import annotations

import json

import pytest

from sdbench.analysis.report.order_table import order_table
from sdbench.drafting import SuffixDecoding
from sdbench.harness import measure as measuring
from sdbench.runs.record import load

ARMS = ["arms=[ar,suffix_decoding]", "arms.suffix_decoding.proposer.per_match=4", "repeats=2", "max_new_tokens=16"]


def drafted(out, repeat, arm="suffix_decoding"):
    """Proposed and accepted tokens of an arm's rounds, in order."""
    rounds = load(out).rounds
    own = rounds[(rounds["arm"] == arm) & (rounds["repeat"] == repeat)]
    return own[["prompt_id", "round", "proposed", "accepted"]].to_numpy().tolist()


def answers(out):
    sequences = load(out).sequences
    return {(row.arm, row.prompt_id, row.repeat): tuple(row.tokens) for row in sequences.itertuples()}


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("passes") / "whole"
    assert bench.call("run", out, *ARMS) == 0
    return out


def test_every_repeat_begins_without_earlier_answers(whole):
    assert drafted(whole, 0) == drafted(whole, 1)
    assert sum(accepted for *_, accepted in drafted(whole, 0)) > 0


def test_a_memory_that_is_kept_would_show(bench, whole, tmp_path, monkeypatch):
    """Wrong: the warm-up and the first repeat stay in the memory, so the second repeat looks up its own answers."""
    monkeypatch.setattr(SuffixDecoding, "forget", lambda self: None)
    out = tmp_path / "kept"
    assert bench.call("run", out, *ARMS) == 0
    assert drafted(out, 0) != drafted(out, 1)
    assert drafted(out, 0) != drafted(whole, 0), "the warm-up decodes the first prompt"
    assert answers(out) == answers(whole), "greedy answers do not depend on the drafts"


def test_an_interrupted_run_goes_on_with_the_answers_that_it_has(bench, whole, tmp_path, monkeypatch):
    decode, out = measuring.decode, tmp_path / "out"

    def interrupting(plan, arm, prompts, block, repeat):
        if (block, repeat) == (2, 1):
            raise KeyboardInterrupt
        return decode(plan, arm, prompts, block, repeat)

    monkeypatch.setattr(measuring, "decode", interrupting)
    assert bench.call("run", out, *ARMS) == 130
    monkeypatch.setattr(measuring, "decode", decode)
    assert bench.call("run", out, *ARMS) == 0
    for repeat in (0, 1):
        assert drafted(out, repeat) == drafted(whole, repeat)


def test_rest_drafts_from_a_file_that_enters_the_run_id(bench, tmp_path, capsys):
    corpus, ids = tmp_path / "corpus.jsonl", []
    words = ["arms=[ar,rest]", f"arms.rest.proposer.corpus={corpus}", "arms.rest.proposer.min_match=1", "limit=2"]
    for text in ("number 3 and again number 4: number 5", "again and again"):
        corpus.write_text(json.dumps({"text": text * 4}), encoding="utf-8")
        out = tmp_path / str(len(ids))
        assert bench.call("run", out, *words) == 0
        run = load(out)
        ids.append(run.run_id)
        assert list(run.environment["drafting_files"]) == [str(corpus)]
        assert run.summary["arms"]["rest"]["identity"]["mismatches"] == 0
    assert ids[0] != ids[1]
    capsys.readouterr()
    assert bench.call("run", tmp_path / "none", "arms=[ar,rest]") == 2
    assert "rest needs proposer.corpus" in capsys.readouterr().err


def test_verify_finds_all_of_them_lossless(bench, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("number 3 and again number 4", encoding="utf-8")
    arms = "arms=[suffix_decoding,token_recycling,lookahead,rest]"
    for temperature in (0, 1):
        more = [f"sampling.temperature={temperature}", "limit=1", "max_new_tokens=8"]
        assert bench.call("verify", tmp_path / "out", arms, f"arms.rest.proposer.corpus={corpus}", *more) == 0
    assert "NOT" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_draft_that_learns(bench, tmp_path):
    """Its weights change within a repeat, and no other arm sees them. Its updates are in the record and in the report."""
    words = ["repeats=2", "max_new_tokens=12", "arms.osd.proposer.learning_rate=0.01"]
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd,osd]", *words) == 0
    run = load(tmp_path / "out")
    assert drafted(run.path, 0, "osd") == drafted(run.path, 1, "osd")
    assert drafted(run.path, 0, "sd") == drafted(run.path, 1, "sd")
    assert drafted(run.path, 0, "osd") != drafted(run.path, 0, "sd")
    made = run.summary["arms"]["osd"]["updates"]
    assert made["count"] > 2
    assert 0 < made["share"] < 1
    assert run.summary["arms"]["sd"]["updates"] is None
    assert not run.summary["arms"]["osd"]["void"]
    table = order_table(run)
    assert table is not None
    assert [row[0] for row in table.rows] == ["sd"] * 4 + ["osd"] * 4
    assert sum(row[5] for row in table.rows) == made["count"]
    alone = tmp_path / "alone"
    assert bench.call("run", alone, "arms=[ar,sd]", *words[:2]) == 0
    assert drafted(alone, 0, "sd") == drafted(run.path, 0, "sd"), "the draft of the other arms is as it was"
    assert order_table(load(alone)) is None
