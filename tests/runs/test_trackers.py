"""A tracker mirrors a run under its folder, and can never lose it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sdbench.errors import InputError
from sdbench.runs.tables import frames
from sdbench.runs.trackers import NoTracker, WandbTracker
from tests.runs.made import AR, rows

CONF = Path(__file__).parents[2] / "conf" / "tracker"


@pytest.fixture(scope="module")
def sequences():
    return frames(rows([AR], prompts=2))["sequences"]


@pytest.mark.parametrize(("name", "kind"), [("none", NoTracker), ("wandb", WandbTracker)])
def test_the_configs_name_what_there_is(name, kind):
    knobs = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert knobs.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    kind(**knobs)


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match=r"tracker\.mode=of is unknown"):
        WandbTracker(mode="of")


def test_offline_files_lie_under_the_run(tmp_path, sequences, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tracker = WandbTracker(mode="offline")
    tracker.start({"seed": 1}, "demo", tmp_path)
    try:
        tracker.finish({"baseline": "ar", "arms": {"ar": {"quality": None}}}, sequences, [])
    finally:
        tracker.close()
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_failure_only_warns(tmp_path, sequences, monkeypatch):
    import wandb

    def refuse(**kwargs):
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", refuse)
    tracker = WandbTracker(mode="online")
    with pytest.warns(UserWarning, match=r"W&B failed .no API key"):
        tracker.start({}, "demo", tmp_path)
    tracker.finish({}, sequences, [])
    tracker.close()
