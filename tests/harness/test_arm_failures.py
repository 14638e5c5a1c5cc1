"""An arm that raises an error is void with its reason. It costs the other arms nothing."""

import json
import re

import pytest

from sdbench.analysis.compare import compare
from sdbench.drafting.model import ModelDrafter
from sdbench.runs.record import load


def fail_after(monkeypatch, calls: int) -> None:
    """Let drafts fail after a number of calls: in the middle of an answer, when models and cache are in use."""
    made, original = [], ModelDrafter.propose

    def propose(self, *words, **options):
        made.append(1)
        if len(made) > calls:
            raise RuntimeError("shape '[1, 2]' is invalid\nfor input of size 3")
        return original(self, *words, **options)

    monkeypatch.setattr(ModelDrafter, "propose", propose)


def tokens(run, arm: str) -> dict:
    rows = run.sequences[run.sequences["arm"] == arm]
    return {prompt: list(found) for prompt, found in zip(rows["prompt_id"], rows["tokens"], strict=True)}


@pytest.mark.parametrize("calls", [0, 3, 12], ids=["in the warm-up", "early", "in a later block"])
def test_the_other_arms_finish(bench, finished, tmp_path, monkeypatch, capsys, calls):
    fail_after(monkeypatch, calls)
    out, words = tmp_path / "run", ("arms=[ar,sd,lookup]",)
    assert bench.call("run", out, *words) == 1
    said = capsys.readouterr()
    found = re.search(r"sd failed \((.+)\). Its row is void; the other arms go on.", said.err)
    assert found
    assert re.fullmatch(r"RuntimeError: shape '\[1, 2\]' is invalid \(test_arm_failures.py, line \d+\)", found[1])
    arms = json.loads(said.out.splitlines()[-1])["summary"]["arms"]
    assert [(name, arm["void"]) for name, arm in arms.items()] == [("ar", False), ("sd", True), ("lookup", False)]
    assert arms["sd"]["failure"] == found[1]
    assert arms["lookup"]["end_to_end_speedup"] is not None
    assert "shape '[1, 2]' is invalid" in (out / "report" / "report.md").read_text(encoding="utf-8")
    run = load(out)
    assert tokens(run, "ar") == tokens(load(finished), "ar") == tokens(run, "lookup")
    assert len(tokens(run, "sd")) < len(tokens(run, "ar"))
    assert "void" in compare([str(out)], "ar,sd")["comparisons"][0]["speed"]["reason"]
    assert bench.call("run", out, *words) == 1
    assert "finished before" in capsys.readouterr().out


def test_a_run_without_its_baseline_ends(bench, tmp_path, monkeypatch, capsys):
    fail_after(monkeypatch, 3)
    assert bench.call("run", tmp_path / "run", "arms=[ar,sd]", "baseline=sd") == 1
    assert "shape '[1, 2]' is invalid" in json.loads((tmp_path / "run" / "failed.json").read_text())["reason"]


def test_a_sweep_lists_the_job_with_its_arm(bench, tmp_path, monkeypatch, capsys):
    fail_after(monkeypatch, 3)
    monkeypatch.chdir(tmp_path)
    words = ["arms=[ar,sd]", "limit=1", "max_new_tokens=6", "arms.sd.draft_length=2,3", "out=null", "-m"]
    assert bench.call("run", tmp_path / "unused", *words) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(document["runs"]) == 2  # what the other arm measured is kept
    assert all("sd failed (RuntimeError: shape" in line["reason"] for line in document["failed"])
    assert document["failed"]
