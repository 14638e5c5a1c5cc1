"""Every citation in the code names an anchor of `docs/`, and every cited paper is in the bibliography."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent  # its tests name pages that they make up
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
PLACES = ("sdbench", "hydra_plugins", "conf", "experiments", "tests", "notebooks", "Makefile", "pyproject.toml")
SUFFIXES = (".py", ".yaml", ".md", ".csv", ".toml", ".ipynb", "")
PAGES = {
    "AR": "references/acceptance-rules.md",
    "AS": "references/asynchronous.md",
    "FA": "references/families.md",
    "EC": "references/ecosystem.md",
    "note": "references/notes.md",
    "DESIGN": "design.md",
    "theorem": "references/asynchronous.md",
    "corollary": "references/asynchronous.md",
    "definition": "references/asynchronous.md",
}

NUMBERED = re.compile(r"\b(AR|AS|FA|EC),? +(fact \d+|[A-J]\.\d+|[A-J]\b|\d+\.\d+|\d+)")
NOTES = re.compile(r"\b[Nn]otes? ([A-F](?:(?:, | and |, and |/)[A-F])*)\b(?!\w)")
DESIGN = re.compile(r"\bDESIGN\b(?:,? +(\d+))?")
PROVED = re.compile(r"\b(theorem|corollary|definition) (\d+)\b", re.I)
PAGE = re.compile(r"\bdocs/([\w./-]+\.md)(?:#([\w-]+))?")
BARE = re.compile(r"(?<![\w/-])(acceptance-rules|families|ecosystem|field|review)\.md\b")
OUTSIDE = re.compile(r"\b(FI|PE|RE),? +\d+(?:\.\d+)?\b")
PAPER = re.compile(r"\b2\d(?:0[1-9]|1[0-2])\.\d{5}\b")


def citations(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each citation of a text: as written, the page that it names, the anchor on it ('' for the page itself)."""
    for found in NUMBERED.finditer(text):
        source, number = found[1], re.sub(r"[ .]", "-", found[2].lower())
        yield found[0], PAGES[source], f"{source.lower()}-{number}"
    for found in NOTES.finditer(text):
        for letter in re.findall(r"[A-F]", found[1]):
            yield found[0], PAGES["note"], f"note-{letter.lower()}"
    for found in DESIGN.finditer(text):
        yield found[0], PAGES["DESIGN"], f"design-{found[1] or 'without-a-section'}"
    for found in PROVED.finditer(text):
        yield found[0], PAGES[found[1].lower()], f"as-{found[1].lower()}-{found[2]}"
    for found in PAGE.finditer(text):
        yield found[0], found[1], found[2] or ""
    for pattern in (BARE, OUTSIDE):
        for found in pattern.finditer(text):
            yield found[0], "none in this repository", ""


def anchors(page: str) -> list[str]:
    """Return the anchors that a page of `docs/` declares."""
    return re.findall(r"\{ *#([\w-]+) *\}", (DOCS / page).read_text(encoding="utf-8"))


def unresolved(text: str) -> list[str]:
    """Return the citations of a text that name no page, or no anchor of it."""
    wrong = []
    for written, page, anchor in citations(text):
        if page == "command-line.md":  # generated when the site is built
            continue
        if not (DOCS / page).is_file():
            wrong.append(f"'{written}' names no page of docs/")
        elif anchor and anchor not in anchors(page):
            wrong.append(f"'{written}' has no anchor #{anchor} in docs/{page}")
    return wrong


def sources() -> list[Path]:
    """Return the files that may cite."""
    found: list[Path] = []
    for place in PLACES:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        path
        for path in found
        if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts and path.parent != HERE
    ]


def test_every_citation_has_an_anchor():
    wrong, seen = [], Counter()
    for path in sources():
        text = path.read_text(encoding="utf-8", errors="ignore")
        seen.update(page for _, page, _ in citations(text))
        wrong += [f"{path.relative_to(ROOT)}: {fault}" for fault in unresolved(text)]
    assert not wrong, "\n".join(wrong)
    assert {PAGES["AR"], PAGES["AS"], PAGES["FA"], PAGES["note"], PAGES["DESIGN"]} <= set(seen)


def test_every_cited_paper_is_in_the_bibliography():
    listed = set(PAPER.findall((DOCS / "references/index.md").read_text(encoding="utf-8")))
    texts = {path: path.read_text(encoding="utf-8", errors="ignore") for path in sources() if path.suffix != ".ipynb"}
    cited = {paper: path for path, text in texts.items() for paper in PAPER.findall(text)}
    assert cited
    assert not {paper: str(path.relative_to(ROOT)) for paper, path in cited.items() if paper not in listed}


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_anchors_are_declared_once(page):
    assert [anchor for anchor, count in Counter(anchors(page)).items() if count > 1] == []


@pytest.mark.parametrize(
    "text",
    [
        "as in AR 6.99", "AS 9", "families.md B.1", "FA B.99", "EC, fact 13", "EC fact 99",
        "DESIGN 12", "by DESIGN", "theorem 99", "Corollary 7", "docs/no-such-page.md", "docs/design.md#nowhere", "RE 1.3", "FI 2",
    ],
)  # fmt: skip
def test_an_unknown_citation_is_found(text):
    assert unresolved(text)


@pytest.mark.parametrize(
    "text",
    [
        "docs/references/acceptance-rules.md, AR 6.3", "AS 1.4", "FA B.1", "FA C", "EC, fact 5", "EC 2.6", "notes B, D and E",
        "DESIGN 6", "Theorem 12", "corollary 16", "definition 14", "docs/design.md#design-4", "docs/style.md",
    ],
)  # fmt: skip
def test_a_known_citation_resolves(text):
    assert list(citations(text))
    assert unresolved(text) == []
