"""The scripts of the experiments refuse bad words in one sentence, with exit status 2, and leave nothing behind."""

import importlib
import runpy
import sys

import pytest

from experiments.script import script

SCRIPTS = {
    "keep": 2,
    "bench.batch": 2,
    "bench.change": 3,
    "bench.rounds": 1,
    "bench.scaling": 1,
    "bench.verdict": 2,
    "pyramidsd.verdict": 2,
    "ssd.verdict": 2,
}


@pytest.mark.parametrize(("name", "count"), SCRIPTS.items())
def test_too_few_words(name, count, monkeypatch, capsys):
    module = f"experiments.{name}"
    monkeypatch.setattr(sys, "argv", [name, *["word"] * (count - 1)])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert said.err.startswith(f"{count - 1} words were given where this is wanted: python -m {module} ")


@pytest.mark.parametrize("name", ["keep", "bench.change", "bench.verdict", "pyramidsd.verdict", "ssd.verdict"])
def test_a_folder_that_is_none(name, monkeypatch, capsys, tmp_path):
    module, missing = importlib.import_module(f"experiments.{name}"), str(tmp_path / "missing")
    words = [missing, *[str(tmp_path / "out")] * (SCRIPTS[name] - 1)]
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as stopped:
        script(module.main, module.__doc__, SCRIPTS[name])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(missing)
    assert list(tmp_path.iterdir()) == []


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["keep", "--help"])
    script(lambda: pytest.fail("it was called"), "What it does.\n\npython -m experiments.keep", 0)
    assert capsys.readouterr().out == "What it does.\n\npython -m experiments.keep\n"
