"""`sdbench new`: the written files work out of the tree, as a user would try them, and bad names are refused."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sdbench.cli import main
from sdbench.errors import InputError
from sdbench.new import commands, create

ROOT = Path(__file__).resolve().parents[1]
KINDS = ["rule", "drafter", "task"]
FILES = {
    "rule": {"brave.py", "acceptance/brave.yaml", "test_brave.py"},
    "drafter": {"brave.py", "arms/brave.yaml", "test_brave.py"},
    "task": {"brave.py", "tasks/brave.yaml", "test_brave.py"},
}
MISTAKES = {  # in each method, one that its own test must find
    "rule": ("residual(row(p, n).probs, row(q, n).probs)", "row(p, n).probs"),
    "drafter": ("text[behind : behind + length]", "text[start : start + length]"),
    "task": ("stated[-1:]", "stated[:1]"),
}
SMALL = ["limit=1", "max_new_tokens=8", "tracker=none"]


def tried(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that `sdbench new` printed, in a process of its own that works in `folder`."""
    env, words = dict(os.environ), shlex.split(command)
    path = [str(ROOT)]
    if words[0].startswith("PYTHONPATH="):
        path.insert(0, words.pop(0).removeprefix("PYTHONPATH="))
    env["PYTHONPATH"] = os.pathsep.join(path)
    program = words[1:] if words[0] == "python" else ["-m", *words]
    return subprocess.run([sys.executable, *program, *more], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["rule", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_the_written_test_passes(kind, tmp_path):
    written = create(kind, "brave", tmp_path / "my methods")
    assert {path.relative_to(tmp_path / "my methods").as_posix() for path in written} == FILES[kind]
    assert not any("my_" in path.read_text() for path in written)
    done = tried(commands(kind, "brave", Path("my methods"))[0], tmp_path)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_written_test_finds_a_mistake(kind, tmp_path):
    create(kind, "brave", tmp_path)
    right, wrong = MISTAKES[kind]
    text = (tmp_path / "brave.py").read_text()
    assert text.count(right) == 1
    (tmp_path / "brave.py").write_text(text.replace(right, wrong))
    done = tried(commands(kind, "brave", Path("."))[0], tmp_path)
    assert done.returncode == 1, done.stdout
    assert " failed" in done.stdout


@pytest.mark.slow  # the page add-a-rule plans such a run in the fast tests
@pytest.mark.parametrize(
    ("kind", "verb"),
    [
        ("rule", "run"),
        ("drafter", "run"),
        ("task", "run"),
        ("rule", "verify"),
        ("drafter", "verify"),
    ],
)
def test_a_printed_command_runs(kind, verb, tmp_path):
    create(kind, "brave", tmp_path / "mine")
    (command,) = [line for line in commands(kind, "brave", Path("mine")) if line.startswith(f"sdbench {verb} ")]
    done = tried(command, tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr
    if verb == "run":
        (config,) = (tmp_path / "results" / "runs").glob("*/config.yaml")
        assert "brave.Brave" in config.read_text()
    else:
        assert '"lossless": true' in done.stdout


def test_the_verb_prints_the_files_and_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["new", "drafter", "two_words", "mine"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "mine/arms/two_words.yaml" in said.splitlines()
    assert "arms=[ar,sd,two_words]" in said
    assert "class TwoWords(Local)" in Path("mine/two_words.py").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("rules", "brave", "must be one of rule, drafter, task"),
        ("rule", "Brave", "no module name"),
        ("rule", "2brave", "no module name"),
        ("rule", "brave-rule", "no module name"),
        ("rule", "../brave", "no module name"),
        ("task", "class", "no module name"),
        ("task", "none", "no module name"),  # the class would be None
        ("rule", "lenience", "has the acceptance rule 'lenience' already"),
        ("drafter", "lookup", "has the arm 'lookup' already"),
        ("task", "records", "has the task 'records' already"),
        ("task", "json", "Python module 'json' already"),
        ("task", "torch", "Python module 'torch' already"),
        ("drafter", "draft", "would hide the Draft"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(kind, name, said, tmp_path):
    with pytest.raises(InputError, match=said):
        create(kind, name, tmp_path / "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", sorted(FILES["rule"]))
def test_no_file_is_overwritten(kept, tmp_path):
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    (tmp_path / kept).write_text("precious")
    with pytest.raises(InputError, match=r"exists, and no file is overwritten"):
        create("rule", "brave", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / kept]
    assert (tmp_path / kept).read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        create("rule", "brave", tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        create("rule", "brave", tmp_path / "file" / "mine")


def test_a_word_too_many_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["new", "rule", "brave", "mine", "more"])
    assert stop.value.code == 2
    assert "'more' is one word too many" in capsys.readouterr().err
