"""The plan of a paper is checked before it runs, a reproduction that was killed is taken up, and a trial replaces nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.papers import reproduce
from sdbench.papers.__main__ import main
from sdbench.papers.paper import find, names
from sdbench.papers.paper_results import PaperResults
from sdbench.papers.plan import BUDGETS, PlannedRun, answer_seconds, estimate_seconds, planned_runs
from sdbench.papers.tables import TIMED, arms

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 25


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_profile_and_budget_composes(name):
    paper = find(name)
    for profile in paper.plan["profiles"]:
        for budget in BUDGETS:
            found = planned_runs(paper, profile, budget)
            assert len({run.name for run in found}) == len(found)
            for run in found if budget == "paper" or profile != "tiny" else found[:1]:
                compose(run.overrides)


@pytest.mark.parametrize("name", names())
def test_a_profile_may_set_the_number_of_prompts(name):
    for budget, limit in (("quick", "limit=10"), ("paper", "limit=100")):
        for run in planned_runs(find(name), "smollm2_135m", budget):
            assert [word for word in run.overrides if word.startswith("limit=")][-1] == limit
            if name == "pyramidsd":
                assert "arms.psd_fuzzy.rule.divergence=js" in run.overrides
                compose(run.overrides)


@pytest.mark.parametrize("name", names())
def test_the_quick_budget_is_quick(name):
    paper, kept = find(name), PaperResults(ROOT / "results" / name / "tiny-quick")
    planned = planned_runs(paper, "tiny", "quick")
    assert {run.name for run in planned} == set(kept.names)
    rates = answer_seconds(kept[run] for run in kept.names)
    seconds = sum(estimate_seconds(compose(run.overrides), rates) for run in planned)
    assert 60 < seconds < 60 * MINUTES
    for run in planned:
        limit = next(word for word in run.overrides if word.startswith("limit="))
        assert int(limit[6:]) >= 40, "fewer prompts decide nothing"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["ssd", "--profile", "llama3"],
            "PROFILE is 'llama3'; for ssd there are: tiny, llama3_70b, qwen3, smollm2_135m.",
        ),
        (["ssd", "--budget", "enormous"], "BUDGET is 'enormous'; there are: quick, paper."),
        (["pyramid"], "There is no plan for 'pyramid'; there are: pyramidsd, ssd."),
        (["pyramidsd", "--dry-run", "limit=0"], "limit"),
    ],
)
def test_a_wrong_word_is_refused_in_a_sentence(capsys, words, says):
    assert main(["reproduce", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_a_trial_never_replaces_results():
    official = reproduce.place(find("ssd"), "tiny", "quick", [], None)
    assert official.kept == Path("results/ssd/tiny-quick")
    trial = reproduce.place(find("ssd"), "tiny", "quick", ["limit=2"], None)
    assert Path("results/runs") in trial.kept.parents


@pytest.mark.slow
def test_killed_and_taken_up(tmp_path):
    """After kill -9 in the first run: finished blocks are not run again, nothing is lost, and the tables are those of one go."""
    one = "arms.{}.grid.{}=[{}]"
    knobs = {"rule.threshold": 0.4, "draft_length": 4, "proposer.draft_length": 2}
    words = ["limit=2", "repeats=2", "max_new_tokens=8", one.format("psd_fuzzy", "proposer.rule.threshold", 0.4)]
    words += [one.format(arm, knob, value) for arm in ("psd_fuzzy", "psd_assisted") for knob, value in knobs.items()]
    command = [sys.executable, "-m", "sdbench.papers", "reproduce", "pyramidsd", *words, "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, whole], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    killed = subprocess.Popen([*command, cut], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _wait(cut / "runs" / "lengths" / "journal", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("journal/*.json")}
    assert (cut / "runs" / "thresholds" / "summary.json").is_file()
    assert not list((cut / "runs" / "seeds").glob("journal/*"))
    again = subprocess.run([*command, cut], cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert "thresholds: was finished before" in again.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "a finished block was run again"
    _same(whole / "kept", cut / "kept")


def _wait(journal: Path, process: subprocess.Popen) -> None:
    """Until the journal has a block."""
    while not list(journal.glob("*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


def _same(one: Path, other: Path) -> None:
    """The same cells, the same answers, the same tables but for what a clock says."""
    assert PaperResults(one).names == PaperResults(other).names == ["lengths", "seeds", "thresholds"]
    first, second = (arms(PaperResults(folder)).drop(columns=list(TIMED)) for folder in (one, other))
    pd.testing.assert_frame_equal(first, second)
    for name in PaperResults(one).names:
        rows = [PaperResults(folder)[name].sequences for folder in (one, other)]
        columns = ["arm", "prompt_id", "repeat", "text", "score", "target_calls"]
        ours, theirs = (table[columns].sort_values(columns[:3]).reset_index(drop=True) for table in rows)
        pd.testing.assert_frame_equal(ours, theirs)
        assert not ours.duplicated(columns[:3]).any()
        assert json.loads((one / name / "summary.json").read_text())["prompts"] == 2


def test_runs_of_another_machine_give_way(tmp_path, monkeypatch):
    """A clone brings the archive of the machine that measured it. A new measurement replaces it, and a refused one does not."""
    place = reproduce.Place(tmp_path / "runs", tmp_path / "kept", tmp_path / "report")
    out, theirs = tmp_path / "run", place.kept / "one"
    for folder, speed in ((out, 2.0), (theirs, 1.0)):
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"speed": speed}))
    kept = []
    monkeypatch.setattr(reproduce, "archive_run", lambda run, archive: kept.append((run, archive)))
    monkeypatch.setattr("sdbench.harness.run.run", lambda plan, folder: (out, {}, False))
    planned = PlannedRun("one", ())
    assert reproduce._run(planned, None, None, place, "1/1")
    assert kept == [(out, theirs)]
    (theirs / "summary.json").write_text((out / "summary.json").read_text())
    assert reproduce._run(planned, None, None, place, "1/1")
    assert len(kept) == 1, "this very measurement is archived already"

    def refused(plan, folder):
        raise InputError("another process works on it")

    monkeypatch.setattr("sdbench.harness.run.run", refused)
    with pytest.raises(InputError):
        reproduce._run(planned, None, None, place, "1/1")
    assert theirs.exists(), "a run that cannot begin takes nothing away"

    def broken(plan, folder):
        raise RuntimeError("no")

    monkeypatch.setattr("sdbench.harness.run.run", broken)
    assert not reproduce._run(planned, None, None, place, "1/1")
    assert not theirs.exists(), "another measurement does not stand for a failed one"
