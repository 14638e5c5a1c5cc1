"""`status` reads the state of runs from their folders: finished, failed, stopped, running."""

from __future__ import annotations

import json

import pytest

from sdbench.cli import main
from sdbench.errors import InputError
from sdbench.runs.lock import held, running
from sdbench.runs.record import claim
from sdbench.runs.status import status
from sdbench.runs.tables import frames
from tests.runs.made import AR, rows


@pytest.fixture
def place(tmp_path):
    made = rows([AR], prompts=1)
    finished = claim(tmp_path / "runs" / "a", "1" * 12)
    finished.plan(2)
    finished.finish(frames(made), {"schema_version": 1})
    failed = claim(tmp_path / "runs" / "b", "2" * 12)
    failed.plan(3)
    failed.journal.write(0, 0, made)
    failed.fail("OSError: No space left on device")
    stopped = claim(tmp_path / "runs" / "deep" / "c", "3" * 12)
    stopped.plan(4)
    stopped.journal.write(0, 0, made)
    stopped.journal.write(1, 0, made)
    claim(tmp_path / "runs" / "d", "4" * 12)
    return tmp_path / "runs"


def test_every_state_is_told(place):
    with held(place / "d"):
        found = status([place, place / "a"])
    told = {run["run_id"][0]: (run["state"], run["done"], run["planned"]) for run in found["runs"]}
    assert told == {"1": ("finished", 2, 2), "2": ("failed", 1, 3), "3": ("partial", 2, 4), "4": ("running", 0, None)}
    assert found["counts"] == {"finished": 1, "failed": 1, "partial": 1, "running": 1}
    assert not running(place / "d")


def test_a_folder_is_held_once(place):
    with held(place / "d"), pytest.raises(InputError, match="being run by another process"), held(place / "d"):
        pass


def test_the_command_says_why_and_how_far(place, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["status", str(place)])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"failed    1/3 blocks       {place / 'b'}: OSError: No space left on device" in out
    assert "1 finished, 1 failed, 2 partial" in out
    assert len(json.loads(out.strip().splitlines()[-1])["runs"]) == 4


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no run in"):
        status([tmp_path])
    with pytest.raises(InputError, match="is no folder"):
        status([tmp_path / "nosuch"])
