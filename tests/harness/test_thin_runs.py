"""Comparisons with little to compute from, through the command line; and a summary that failed, taken up again."""

from __future__ import annotations

import json

import pytest

from sdbench.harness import measure as measuring
from sdbench.runs.record import load
from sdbench.runs.status import status

SPEEDS = ("tokens_per_second", "speedup", "speedup_ci95", "predicted_tokens_per_second", "model_time_fraction")


def test_peers_alone_are_compared_end_to_end(bench, tmp_path):
    out = tmp_path / "peers"
    assert bench.call("run", out, "arms=[hf_generate,hf_assisted]") == 0
    summary = load(out).summary
    assert summary["baseline"] == "hf_generate"
    for arm in summary["arms"].values():
        assert [arm[key] for key in SPEEDS] == [None] * len(SPEEDS)
        assert arm["end_to_end_speedup"] > 0
    assert (out / "report" / "report.html").is_file()


@pytest.mark.parametrize("arms", ["ar", "lookup", "psd_fuzzy,hf_generate"])
def test_answers_of_one_token_have_no_speed(bench, tmp_path, arms):
    out = tmp_path / "one"
    assert bench.call("run", out, f"arms=[{arms}]", "max_new_tokens=1", "limit=1") == 0
    for arm in load(out).summary["arms"].values():
        assert [arm[key] for key in SPEEDS] == [None] * len(SPEEDS)
        assert arm["end_to_end_tokens_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["ssd", "ssd_fast_backup", "pearl", "amusd"])
@pytest.mark.parametrize("tokens", [1, 2])
def test_a_concurrent_draft_alone_on_one_prompt(bench, tmp_path, arm, tokens):
    out = tmp_path / arm
    words = (f"arms=[{arm}]", "hardware=cpu_pair", "limit=1", f"max_new_tokens={tokens}")
    assert bench.call("run", out, *words) == 0
    assert list(load(out).summary["arms"]) == [arm]


def test_a_summary_that_failed_is_made_from_the_blocks_that_are_there(bench, tmp_path, monkeypatch, capsys):
    """Nothing that was measured is lost, and nothing is measured again."""
    out = tmp_path / "run"

    def fails(*args, **kwargs):
        raise ZeroDivisionError("array of sample points is empty")

    def measures_again(*args, **kwargs):
        raise AssertionError("a finished block was decoded again")

    with monkeypatch.context() as broken:
        broken.setattr("sdbench.analysis.metrics.summary.summarise", fails)
        assert bench.call("run", out, "arms=[ar,sd]") == 1
    (state,) = status([out])["runs"]
    assert (state["state"], state["done"]) == ("failed", state["planned"])
    assert "array of sample points" in state["reason"]
    blocks = {path.name: path.read_bytes() for path in (out / "journal").iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(measuring, "decode", measures_again)
    assert bench.call("run", out, "arms=[ar,sd]") == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]["arms"]) == {"ar", "sd"}
    assert {path.name: path.read_bytes() for path in (out / "journal").iterdir()} == blocks
    assert status([out])["counts"]["finished"] == 1
    assert not (out / "failed.json").exists()
