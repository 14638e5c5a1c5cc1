"""`push` sends each finished run once, under its own id."""

from __future__ import annotations

import json
from functools import cache

import pytest

from sdbench.analysis import push as pushing
from sdbench.analysis.metrics.summary import summarise
from sdbench.analysis.push import push
from sdbench.runs.record import claim
from sdbench.runs.tables import frames
from sdbench.runs.trackers import WandbTracker
from sdbench.runs.wandb_run import per_prompt
from tests.runs.made import AR, SD, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
ARMS = [AR, SD]


@cache
def recorded():
    tables = frames(rows(ARMS, prompts=3))
    return tables, summarise(tables, "ar", meta(ARMS))


def write(path, name="abc"):
    folder = claim(path, name)
    folder.describe({"seed": 0, "tracker": {"project": "mine", "group": "sweep-1"}}, {})
    folder.finish(*recorded())
    figures = path / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "speed.png").write_bytes(b"not a picture; the test reads only its name")
    return folder


class Recorder:
    """Take the library's place and keep the arguments."""

    def __init__(self, made: list, fails: str | None = None) -> None:
        self.made, self.fails = made, fails

    def __call__(self, mode, project, entity, group, tags, config, name, folder, identity):
        if name == self.fails:
            raise OSError("no route to host")
        self.made.append((mode, project, group, identity))
        return self

    def send(self, summary, sequences, figures):
        assert set(summary["arms"]) == {"ar", "sd"}
        assert len(sequences) == 6
        assert [path.stem for path in figures] == ["speed"]

    def close(self, exit_code=0):
        assert exit_code == 0


def test_each_once_and_what_failed_again(tmp_path, monkeypatch):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    claim(tmp_path / "three", "def")
    made: list = []
    monkeypatch.setattr(pushing, "WandbRun", Recorder(made, fails="two"))
    first = push([tmp_path])
    assert [line["out"] for line in first["sent"]] == [str(one.path)]
    assert first["unfinished"] == [str(tmp_path / "three")]
    assert first["failed"] == [{"out": str(two.path), "reason": "OSError: no route to host"}]
    monkeypatch.setattr(pushing, "WandbRun", Recorder(made))
    second = push([tmp_path])
    assert [line["out"] for line in second["sent"]] == [str(two.path)]
    assert second["skipped"] == [str(one.path)]
    assert push([tmp_path])["sent"] == []
    assert [entry[:3] for entry in made] == [("online", "mine", "sweep-1")] * 2
    # Two folders of the same run are two measurements; one folder keeps its id.
    assert len({entry[3] for entry in made}) == 2
    assert all(entry[3].startswith("abc-") for entry in made)
    assert push([tmp_path], project="other")["sent"][0]["id"] == one.measurement


def test_offline_files_carry_the_id(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = write(tmp_path / "run")
    (folder.path / "report" / "figures" / "speed.png").unlink()
    monkeypatch.setattr(pushing, "report", lambda folders, png: folder.path / "report" / "report.md")
    sent = push([folder.path], mode="offline")
    assert sent["failed"] == []
    (made,) = (folder.path / "wandb").glob("offline-run-*")
    assert made.name.endswith(folder.measurement)
    assert json.loads((folder.path / "pushed.json").read_text()) == {"offline/mine": folder.measurement}
    assert push([folder.path], mode="offline")["skipped"] == [str(folder.path)]
    assert len(list((folder.path / "wandb").glob("offline-run-*"))) == 1


def test_a_run_that_was_tracked_online_is_not_sent_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "run")
    made: list = []
    monkeypatch.setattr("sdbench.runs.trackers.WandbRun", Recorder(made))
    monkeypatch.setattr(pushing, "WandbRun", Recorder(made))
    tracker = WandbTracker(mode="online", project="mine")
    tracker.start({}, "run", folder.path, folder.measurement)
    tables, summary = recorded()
    figures = [folder.path / "report" / "figures" / "speed.png"]
    tracker.finish(summary, tables["sequences"], figures)
    tracker.close()
    assert push([folder.path])["skipped"] == [str(folder.path)]
    assert len(made) == 1


def test_a_row_per_prompt_has_the_arms_side_by_side():
    sequences = frames(rows(ARMS, prompts=3, repeats=2))["sequences"]
    found = per_prompt(sequences.assign(emitted_tokens=sequences["tokens"].map(len)))
    assert len(found) == 3
    assert {"ar tokens_per_second", "sd tokens_per_second", "sd score", "sd tokens_per_target_call"} <= set(
        found.columns
    )
    assert (found["ar tokens_per_target_call"] == 1.0).all()
