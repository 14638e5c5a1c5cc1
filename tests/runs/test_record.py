"""The folder of a run: its owner, when it is finished, and the message for an unfinished one."""

from __future__ import annotations

import json
import re

import pytest

from sdbench.analysis.metrics.summary import summarise
from sdbench.errors import InputError
from sdbench.runs.environment import environment, git_state
from sdbench.runs.record import claim, load, open_run
from sdbench.runs.run_id import run_id
from sdbench.runs.tables import frames
from tests.runs.made import AR, SD, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")


@pytest.fixture(scope="module")
def tables():
    return frames(rows([AR, SD], prompts=4))


@pytest.fixture
def finished(tmp_path, tables):
    folder = claim(tmp_path / "run", "abc123")
    folder.describe({"seed": 1, "name": "größe"}, {"python": "3.11"})
    folder.finish(tables, summarise(tables, "ar", meta([AR, SD])))
    return folder


def test_a_finished_run_is_read_back(finished, tables):
    run = load(finished.path)
    assert run.run_id == "abc123"
    assert run.config == {"seed": 1, "name": "größe"}
    assert run.summary["arms"]["ar"]["speedup"] == pytest.approx(1.0)
    assert run.sequences.shape == tables["sequences"].shape
    assert run.rounds.equals(tables["rounds"])
    assert run.steps.equals(tables["steps"])
    assert run.bare.equals(tables["bare"])


def test_the_same_run_takes_its_folder_up_again(tmp_path):
    assert claim(tmp_path / "run", "abc").path == claim(tmp_path / "run", "abc").path


def test_another_run_is_refused(tmp_path):
    claim(tmp_path / "run", "abc")
    with pytest.raises(InputError, match="belongs to run abc; choose another folder or delete it"):
        claim(tmp_path / "run", "def")


def test_a_folder_of_something_else_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="is not empty and is no run"):
        claim(tmp_path, "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_hidden_files_do_not_make_a_folder_taken(tmp_path):
    (tmp_path / ".hydra").mkdir()
    assert claim(tmp_path, "abc").run_id == "abc"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "out", "abc")
    with pytest.raises(InputError, match="cannot be written"):
        claim(tmp_path / "out" / "below", "abc")


def test_an_unfinished_run_says_why(tmp_path):
    folder = claim(tmp_path / "run", "abc")
    with pytest.raises(InputError, match="it was interrupted"):
        load(folder.path)
    folder.fail("out of memory", arm="sd")
    assert folder.failure == {"run_id": "abc", "reason": "out of memory", "arm": "sd"}
    with pytest.raises(InputError, match="it failed: out of memory"):
        load(folder.path)


def test_success_removes_an_earlier_failure(tmp_path, tables):
    folder = claim(tmp_path / "run", "abc")
    folder.fail("out of memory")
    folder.finish(tables, summarise(tables, "ar", meta([AR, SD])))
    assert folder.failure is None
    assert folder.finished


def test_the_summary_comes_last(tmp_path, tables, monkeypatch):
    folder = claim(tmp_path / "run", "abc")
    monkeypatch.setattr("sdbench.runs.record.write_parquet", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        folder.finish(tables, {"schema_version": 1})
    assert not folder.finished


def test_what_is_no_run_is_said(tmp_path, finished):
    with pytest.raises(InputError, match="is no folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not the folder of a run"):
        open_run(tmp_path)
    (finished.path / "steps.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"steps\.parquet cannot be read"):
        load(finished.path)
    (finished.path / "steps.parquet").unlink()
    with pytest.raises(InputError, match=r"steps\.parquet is missing"):
        load(finished.path)


def test_another_schema_version_is_refused(finished):
    summary = json.loads((finished.path / "summary.json").read_text())
    (finished.path / "summary.json").write_text(json.dumps({**summary, "schema_version": 0}))
    with pytest.raises(InputError, match="schema version 0"):
        load(finished.path)


def test_the_run_id_depends_on_what_defines_the_run_only():
    config = {"seed": 1, "arms": {"ar": {}}, "out": "a", "tracker": {"mode": "offline"}}
    base = run_id(config, {"target": "x"}, "p")
    assert re.fullmatch("[0-9a-f]{12}", base)
    assert run_id({**config, "out": "b", "tracker": None, "hydra": {}, "launcher": 1}, {"target": "x"}, "p") == base
    assert run_id(dict(reversed(config.items())), {"target": "x"}, "p") == base
    others = {
        run_id({**config, "seed": 2}, {"target": "x"}, "p"),
        run_id(config, {"target": "y"}, "p"),
        run_id(config, {"target": "x"}, "q"),
    }
    assert len(others | {base}) == 4


def test_the_environment_names_neither_host_nor_user(monkeypatch):
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "difference-engine")
    found = environment()
    text = json.dumps(found)
    assert "difference-engine" not in text
    assert "ada" not in text.lower().replace("adapter", "")
    assert found["cpu"]["model"]
    assert found["ram_bytes"] > 2**28
    assert found["packages"]["torch"]


def test_a_package_that_git_does_not_track_has_no_revision(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    assert git_state(tmp_path) is None
