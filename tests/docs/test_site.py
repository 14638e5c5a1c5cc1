"""The site builds without a warning, and a page loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs", reason="needs the extra `docs`")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "-f",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(folder),
    ]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page


@pytest.mark.slow
def test_the_command_line_is_complete(site):
    from sdbench.cli import _parser

    text = (site / "command-line.html").read_text(encoding="utf-8")
    (verbs,) = (action.choices for action in _parser()._actions if action.nargs == "A...")
    assert verbs
    for verb in verbs:
        assert f'id="{verb}"' in text, verb
    for name in ("psd_fuzzy", "lenience", "wordproblems", "cpu_pair"):
        assert f"<code>{name}</code>" in text


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"https?:|<link[^>]+rel=\"(?:stylesheet|preconnect|icon)\"[^>]+href=\"https?:"
    )
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
