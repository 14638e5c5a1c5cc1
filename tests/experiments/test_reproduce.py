"""What reproducing a paper runs, how it is taken up after a kill, and that the documents are what the committed rows give."""

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

from experiments import artifact, reproduce
from experiments.cells import Cells
from experiments.plan import BUDGETS, PAPERS, ROOT, cells, document, total_seconds
from experiments.pyramidsd import verdict
from experiments.tables import TIMED, arms
from sdbench.analysis.results import read
from sdbench.errors import InputError
from sdbench.harness.config import compose

MINUTES = 25


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_every_profile_and_budget_composes(paper):
    for profile in document(paper)["profiles"]:
        for budget in BUDGETS:
            found = cells(paper, profile, budget)
            assert len({cell.name for cell in found}) == len(found)
            for cell in found if budget == "paper" or profile != "tiny" else found[:1]:
                compose(cell.overrides)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_quick_budget_is_quick(paper):
    count, seconds = total_seconds(paper)
    assert count == len(cells(paper, "tiny", "quick"))
    assert 60 < seconds < 60 * MINUTES
    for cell in cells(paper, "tiny", "quick"):
        assert int(next(word for word in cell.overrides if word.startswith("limit="))[6:]) >= 40, (
            "fewer prompts decide nothing"
        )


def test_parts_are_those_of_the_plan():
    for paper in PAPERS:
        known = document(paper)["parts"]
        for one in artifact.claims.read_claims(paper):
            assert set(artifact.parts_of(one)) <= set(known), one.id


def test_what_is_misspelt_is_refused_in_a_sentence(capsys):
    assert reproduce.main(["ssd", "--profile", "llama3"]) == 2
    assert "PROFILE is 'llama3'; for ssd there are: tiny, llama3_70b, qwen3." in capsys.readouterr().err
    assert reproduce.main(["pyramidsd", "--dry-run", "limit=0"]) == 2
    with pytest.raises(InputError):
        cells("ssd", "tiny", "enormous")


def test_a_trial_never_replaces_results():
    official = reproduce.place("ssd", "tiny", "quick", [], None)
    assert official.kept == ROOT / "results" / "ssd" / "tiny-quick"
    assert official.official
    trial = reproduce.place("ssd", "tiny", "quick", ["limit=2"], None)
    assert not trial.official
    assert ROOT / "results" / "runs" in trial.kept.parents


@pytest.mark.slow  # make verify-docs does the same
def test_documents_are_what_the_committed_rows_give():
    assert artifact.stale() == []


@pytest.mark.slow
def test_a_changed_document_is_noticed(tmp_path, monkeypatch, capsys):
    changed = tmp_path / "ARTIFACT.md"
    changed.write_text(artifact.text().replace("claim", "clam", 1))
    monkeypatch.setattr(artifact, "PATH", changed)
    assert artifact.main(["--check"]) == 1
    assert "ARTIFACT.md" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_taken_up(tmp_path):
    """kill -9 in the second cell: what was finished is not run again, nothing is lost, and the tables are those of one go."""
    one = "arms.{}.grid.{}=[{}]"
    knobs = {"rule.threshold": 0.4, "draft_length": 4, "proposer.draft_length": 2}
    words = ["limit=2", "repeats=2", "max_new_tokens=8", one.format("psd_fuzzy", "proposer.rule.threshold", 0.4)]
    words += [one.format(arm, knob, value) for arm in ("psd_fuzzy", "psd_assisted") for knob, value in knobs.items()]
    command = [sys.executable, "-m", "experiments.reproduce", "pyramidsd", *words, "--out"]
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
    assert Cells(one).names == Cells(other).names == ["lengths", "seeds", "thresholds"]
    first, second = (arms(Cells(folder)).drop(columns=list(TIMED)) for folder in (one, other))
    pd.testing.assert_frame_equal(first, second)
    for name in Cells(one).names:
        tables = [Cells(folder)[name].sequences for folder in (one, other)]
        columns = ["arm", "prompt_id", "repeat", "text", "score", "target_calls"]
        ours, theirs = (table[columns].sort_values(columns[:3]).reset_index(drop=True) for table in tables)
        pd.testing.assert_frame_equal(ours, theirs)
        assert not ours.duplicated(columns[:3]).any()
        assert json.loads((one / "cells" / name / "summary.json").read_text())["prompts"] == 2


def test_cells_of_another_machine_give_way(tmp_path, monkeypatch):
    """A clone brings the kept cells of the machine that they were measured on; what a stopped run left unkept is kept at last."""
    from experiments.plan import Cell

    out, place = tmp_path / "run", reproduce.Place(tmp_path / "runs", tmp_path / "kept")
    theirs = place.kept / "cells" / "one"
    for folder, speed in ((out, 2.0), (theirs, 1.0)):
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"speed": speed}))
    kept = []
    monkeypatch.setattr(reproduce, "keep", lambda run, cell: kept.append((run, cell)))
    monkeypatch.setattr("sdbench.harness.run.run", lambda plan, folder: (out, {}, False))
    assert reproduce._run(Cell("one", ()), None, None, place, "1/1")
    assert kept == [(out, theirs)]
    (theirs / "summary.json").write_text((out / "summary.json").read_text())
    assert reproduce._run(Cell("one", ()), None, None, place, "1/1")
    assert len(kept) == 1, "this very measurement is kept already"

    def refused(plan, folder):
        raise InputError("another process is at it")

    monkeypatch.setattr("sdbench.harness.run.run", refused)
    with pytest.raises(InputError):
        reproduce._run(Cell("one", ()), None, None, place, "1/1")
    assert theirs.exists(), "what could not be begun takes nothing away"

    def broken(plan, folder):
        raise RuntimeError("no")

    monkeypatch.setattr("sdbench.harness.run.run", broken)
    assert not reproduce._run(Cell("one", ()), None, None, place, "1/1")
    assert not theirs.exists(), "another measurement is not shown in place of one that failed"


def test_the_fronts_verdict_is_what_its_kept_rows_give():
    kept = ROOT / "results" / "front"
    found = verdict.verdicts(read(kept))
    assert json.loads(json.dumps(found)) == json.loads((kept / "verdict.json").read_text())
    prompts = len(read(kept).scores)
    assert verdict.text(found, prompts) == (kept / "verdict.md").read_text()
