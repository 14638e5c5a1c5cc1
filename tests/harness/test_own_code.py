"""The files of one's own methods define a run; those of packages do not."""

from __future__ import annotations

import sys

import pytest

from sdbench.harness import run as running
from sdbench.harness.config import compose
from sdbench.harness.own_code import own_code
from sdbench.harness.plan import prepare


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A rule of one's own in the module `own_rule`, which imports `own_helper`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_helper.py").write_text("def half(x):\n    return x / 2\n")
    rule = "from own_helper import half\nfrom sdbench.acceptance import Exact\n\n\nclass Mine(Exact):\n    factor = half(2)\n"
    (tmp_path / "own_rule.py").write_text(rule)
    yield tmp_path
    for name in ("own_rule", "own_helper"):
        sys.modules.pop(name, None)


WORDS = ["arms=[sd]", "tracker=none", "limit=1", "max_new_tokens=8", "++arms.sd.rule={_target_: own_rule.Mine}"]


def identity(tmp_path) -> str:
    return running.folder_of(prepare(compose([*WORDS, f"out={tmp_path / 'out'}"]))).run_id


def test_a_changed_file_is_another_run(own, tmp_path):
    first = identity(tmp_path / "1")
    assert identity(tmp_path / "2") == first
    with (own / "own_helper.py").open("a") as file:
        file.write("# changed\n")
    assert identity(tmp_path / "3") != first, "a file that the rule's file imports"


def test_only_own_files_are_read(own):
    plan = prepare(compose(WORDS))
    assert set(plan.own_code) == {"own_rule", "own_helper"}
    assert own_code(compose(["arms=[sd,ssd,lookup]"])) == {}
