"""The generated docs are what results/ gives, and a stale file is noticed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sdbench.papers import render_docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))


@pytest.mark.slow  # `make verify-docs` does the same
def test_committed_pages_are_what_the_results_give():
    assert render_docs.stale(ROOT) == []


@pytest.mark.slow
def test_a_changed_page_a_missing_figure_and_a_left_over_are_noticed(tmp_path):
    (tmp_path / "results").symlink_to(ROOT / "results")
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    for name in ("README.md", "ARTIFACT.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "results" / "default.md"
    page.write_text(page.read_text().replace("Nine", "Ten"))
    (tmp_path / "docs" / "results" / "figures" / "scaling.svg").unlink()
    (tmp_path / "docs" / "results" / "old.md").write_text("")
    artifact = tmp_path / "ARTIFACT.md"
    artifact.write_text(artifact.read_text().replace("claim", "clam", 1))
    expected = ["ARTIFACT.md", *(f"docs/results/{name}" for name in ("default.md", "figures/scaling.svg", "old.md"))]
    assert render_docs.stale(tmp_path) == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / link.partition("#")[0]).is_file() for link in links)


def test_every_figure_is_shown_and_no_figure_lies_in_results():
    shown = {link for page in PAGES for link in re.findall(r"\((figures/[^)]+)\)", page.read_text(encoding="utf-8"))}
    docs = ROOT / "docs" / "results"
    drawn = {path.relative_to(docs).as_posix() for path in docs.rglob("*.svg")}
    assert shown == drawn
    kept = [
        path
        for path in (ROOT / "results").rglob("*")
        if path.relative_to(ROOT / "results").parts[0] not in ("runs", "models")
    ]
    assert not [path for path in kept if path.suffix in (".svg", ".png", ".md", ".tex")]


def test_artifact_is_a_short_index():
    text = (ROOT / "ARTIFACT.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    for name in ("pyramidsd", "ssd"):
        assert f"make reproduce-{name}" in text


def test_marks_are_filled_in_place():
    text = (
        "a\n<!-- table: default -->\nold\n<!-- /table -->\nb\n<!-- figure: default acceptance -->\n<!-- /figure -->\n"
    )
    text += "<!-- figure: default -->\n<!-- /figure -->\n"
    filled = render_docs.fill(text, ROOT / "results", "docs/results/figures")
    assert "old" not in filled
    assert "| arm | speed-up [95 %] |" in filled
    for name in ("speedup", "acceptance"):
        assert f"](docs/results/figures/default/{name}.svg)" in filled
        assert (ROOT / "docs" / "results" / "figures" / "default" / f"{name}.svg").is_file()
    assert render_docs.fill(filled, ROOT / "results", "docs/results/figures") == filled


def test_no_page_calls_a_claim_failed():
    for page in [*PAGES, ROOT / "ARTIFACT.md"]:
        assert not re.search(r"\bfail(s|ed)\b", page.read_text(encoding="utf-8")), page.name
