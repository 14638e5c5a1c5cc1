"""The user's environment costs nothing that was measured: locale, plotting backend, and a report that cannot be drawn."""

import json
import os
import subprocess
import sys

from sdbench.analysis.report import write


def test_a_locale_without_the_signs_of_a_table(finished):
    """The table has signs beyond ASCII. The user's backend would need a screen."""
    own = {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "MPLBACKEND": "nosuch", "TERM": "dumb"}
    words = [sys.executable, "-m", "sdbench", "report", str(finished)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {finished / 'report' / 'report.html'}"


def test_a_report_that_cannot_be_drawn(bench, tmp_path, capsys, monkeypatch):
    """The rows, the summary and the last line are there. The same command writes the report later."""

    def failing(*words, **options):
        raise RuntimeError("no fonts")

    out = tmp_path / "run"
    words = ("arms=[ar]", "limit=1", "max_new_tokens=2")
    with monkeypatch.context() as broken:
        broken.setattr(write, "report", failing)
        assert bench.call("run", out, *words) == 0
    said = capsys.readouterr()
    assert f"the report was not written (RuntimeError: no fonts); `sdbench report {out}` writes it" in said.err
    assert "report:" not in said.out
    assert json.loads(said.out.splitlines()[-1])["summary"]["arms"]["ar"]["sequences"] == 1
    assert not (out / "failed.json").exists()
    assert bench.call("run", out, *words) == 0
    assert (out / "report" / "report.html").is_file()
