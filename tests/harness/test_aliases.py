"""Old `_target_` paths of kept runs name classes that exist."""

from pathlib import Path

import pytest
import yaml

from sdbench.harness.aliases import ALIASES
from sdbench.harness.build import locate

KEPT = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(("old", "new"), ALIASES.items())
def test_an_old_path_is_the_class_at_the_new_one(old, new):
    assert locate(old, "arms.x") is locate(new, "arms.x")
    assert old.startswith("sdbench.")
    assert not new.startswith("sdbench.remote.")


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
    named = {path for config in configs for path in targets(yaml.safe_load(config.read_text())["arms"])}
    assert any(path in ALIASES for path in named)
    for path in sorted(named):
        locate(path, str(path))
