"""The pages of the documentation, cut into code blocks and prose."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`]*)$")
MARKER = re.compile(r"<!-- (not run|slow|fresh): (.+?) -->")
GENERATED = r"<!-- (table|figure): .*?<!-- /\1 -->"  # what a program writes into a page
WRITTEN = ("results", "references")  # folders whose pages other tests check


@dataclass(frozen=True)
class Block:
    """One fenced code block.

    page: path from the repository root; line: of its fence; language: python, yaml, bash, ...; title: the file that the block
    is, '' for none; marker: the kind of the comment above it ('' for none), and its reason.
    """

    page: str
    line: int
    language: str
    title: str
    marker: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a console block. words: without its comment; comment: what follows `#`; block: where it stands."""

    words: list[str]
    comment: str
    block: Block

    @property
    def status(self) -> int:
        """The exit status that the page promises."""
        found = re.search(r"exit status (\d+)", self.comment)
        return int(found[1]) if found else 0

    @property
    def ours(self) -> list[str]:
        """The words behind `sdbench`; [] for another program."""
        words = self.words
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        return words[1:] if words[0] == "sdbench" else []

    def __str__(self) -> str:
        return f"{self.block}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Every page that people write: README, CONTRIBUTING and docs/, without the generated results and the references."""
    written = [
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.relative_to(ROOT / "docs").parts[0] not in WRITTEN
    ]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number, above = 0, ""
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if not fence:
            above = lines[number].strip() or above
            number += 1
            continue
        first = number
        number += 1
        while number < len(lines) and lines[number].strip() != "```":
            number += 1
        indent = len(fence["indent"])
        text = "\n".join(line[indent:] for line in lines[first + 1 : number]) + "\n"
        number += 1
        info = fence["info"].strip()
        language, _, rest = info.partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        marker = MARKER.fullmatch(above)
        kind, reason = (marker[1], marker[2]) if marker else ("", "")
        where = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
        found.append(Block(where, first + 1, language, title[1] if title else "", kind, reason, text))
        above = ""
    return found


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; a line that ends with a backslash goes on."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        command, _, comment = line.partition(" # ") if not line.startswith("#") else ("", "", line)
        words = shlex.split(command, comments=True)
        if words:
            found.append(Command(words, comment.strip(), block))
    return found


def prose(page: Path) -> list[tuple[int, str]]:
    """Return the paragraphs of a page with the line that each begins on: no code, no tables, no comments."""
    found: list[tuple[int, str]] = []
    fenced, paragraph, start = False, [], 0
    text = page.read_text(encoding="utf-8")
    for left_out in (GENERATED, r"<!--.*?-->"):
        text = re.sub(left_out, lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        bare = line.strip()
        if FENCE.match(line):
            fenced = not fenced
            bare = ""
        breaks = fenced or not bare or bare.startswith(("|", "#", ":::", "!["))
        item = re.match(r"(?:[-*+]|\d+\.|>|!!!)\s+", bare)
        if (breaks or item) and paragraph:
            found.append((start, " ".join(paragraph)))
            paragraph = []
        if not breaks:
            if not paragraph:
                start = number
            paragraph.append(bare[item.end() :] if item else bare)
        elif bare.startswith("#") and not fenced:
            found.append((number, bare.lstrip("# ")))
    return found


def inline_code(page: Path) -> list[tuple[int, str]]:
    """Return what stands in backticks outside of fenced blocks, with its line."""
    found, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            found += [(number, code) for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", line)]
    return found
