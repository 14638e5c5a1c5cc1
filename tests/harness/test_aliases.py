"""Old `_target_` paths of kept runs name classes that exist."""

from pathlib import Path

import pytest
import yaml

from sdbench.errors import InputError
from sdbench.harness.aliases import ALIASES, REPLACED
from sdbench.harness.build import locate
from sdbench.harness.config import choices

KEPT = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(("old", "new"), ALIASES.items())
def test_an_old_path_is_the_class_at_the_new_one(old, new):
    assert locate(old, "arms.x") is locate(new, "arms.x")
    assert old.startswith("sdbench.")
    assert not new.startswith("sdbench.remote.")


@pytest.mark.parametrize(("old", "override"), REPLACED.items())
def test_a_class_that_is_gone_names_the_task_of_today(old, override):
    assert override.removeprefix("tasks=") in choices("tasks")
    with pytest.raises(InputError, match=rf"{old} is no longer there: {override} gives"):
        locate(old, "tasks")


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def test_every_kept_config_can_be_located():
    configs = sorted(KEPT.rglob("config.yaml"))
    assert configs
    read = [yaml.safe_load(config.read_text()) for config in configs]
    named = {path for config in read for path in targets({"arms": config["arms"], "tasks": config.get("tasks")})}
    assert any(path in REPLACED for path in named)
    named -= set(REPLACED)
    assert any(path in ALIASES for path in named)
    for path in sorted(named):
        locate(path, str(path))
