"""Check the prose: no sentence over 30 words in pages and module docstrings, and no word of `docs/style-words.txt` anywhere.

    python tests/docs/prose.py            the whole repository
    python tests/docs/prose.py PATH ...   these files and folders

`docs/style.md` quotes such words, so it is exempt from the second check. Exit status: 0, or 1 with one line per finding.
"""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.docs.pages import ROOT, prose

LONGEST = 30  # words of a sentence
WORDS = ROOT / "docs" / "style-words.txt"
QUOTES = (ROOT / "docs" / "style.md", WORDS)
TREE = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ARTIFACT.md", "Makefile",
    "docs", "conf", "sdbench", "hydra_plugins", "experiments", "tests",
)  # fmt: skip
ABBREVIATIONS = ("e.g", "i.e", "cf", "et al", "vs", "Fig", "fig", "eq", "Eq", "sec", "Sec", "no", "No", "approx")


def main(arguments: Sequence[str]) -> int:
    """Print every finding of the given files and folders."""
    wanted = [Path(word).resolve() for word in arguments] or [ROOT / name for name in TREE]
    found = [line for path in files(wanted) for line in check(path)]
    print("\n".join(found) or "The prose is clean.")
    return 1 if found else 0


def files(wanted: Sequence[Path]) -> Iterator[Path]:
    """Return the files that hold prose, in order."""
    for path in wanted:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            hidden = any(part.startswith((".", "__pycache__")) for part in file.relative_to(path).parts)
            if file.is_file() and not hidden and (file.suffix in (".md", ".py", ".yaml") or file.name == "Makefile"):
                yield file


def check(path: Path) -> list[str]:
    """Return the findings of one file, as lines of `path:line: what`."""
    if path.suffix == ".md":
        spoken, measured = prose(path), True
    elif path.suffix == ".py":
        spoken, measured = docstrings(path), False
    else:
        spoken, measured = comments(path), False
    found = []
    own = _module_docstring(path) if path.suffix == ".py" else spoken if measured else []
    for line, text in own:
        for sentence in sentences(text):
            count = sum(any(sign.isalpha() for sign in word) for word in sentence.split())
            if count > LONGEST:
                found.append((line, f"{count} words: {sentence[:70]}..."))
    if path not in QUOTES:
        for line, text in spoken:
            found += [(line, f"'{word}': {said}" if said else f"'{word}'") for word, said in home_made(text)]
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def sentences(text: str) -> list[str]:
    """Cut a paragraph into sentences; code and addresses count as one word each."""
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"https?://\S+", "ADDRESS", text)
    parts: list[str] = []
    for piece in re.split(r"(?<=[.!?:])[\"')\]*]*\s+(?=[A-Z0-9`*_\[(\"'])", text):
        before = parts[-1].rstrip(".") if parts else ""
        if parts and (before.endswith(ABBREVIATIONS) or parts[-1].endswith(":")) and not parts[-1].endswith("::"):
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
    return [part for part in parts if part.strip()]


def home_made(text: str) -> list[tuple[str, str]]:
    """Return the listed words that a text uses, and what to say in place of each."""
    plain = re.sub(r"`[^`]*`", " ", text)
    return [
        (word, said) for word, said in word_list() if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", plain, re.I)
    ]


def word_list() -> list[tuple[str, str]]:
    """Read `docs/style-words.txt`: one word or phrase a line, `->` and the better word behind it; `#` opens a comment."""
    entries = []
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        word, _, said = line.partition("#")[0].partition("->")
        if word.strip():
            entries.append((word.strip(), said.strip()))
    return entries


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Return the docstrings and comments of a Python file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                found.append((getattr(node, "lineno", 1), " ".join(text.split())))
    return [*found, *comments(path)]


def comments(path: Path) -> list[tuple[int, str]]:
    """Return the comments of a file; of a Makefile or a YAML file whatever follows a `#`. Adjacent lines are one text."""
    lines: dict[int, str] = {}
    if path.suffix == ".py":
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.COMMENT:
                    lines[token.start[0]] = token.string.lstrip("# ")
    else:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found = re.search(r"(?:^|\s)#+\s+(.*)", line)
            if found:
                lines[number] = found[1]
    return joined(lines)


def joined(lines: dict[int, str]) -> list[tuple[int, str]]:
    """Join the comments of consecutive lines."""
    found: list[tuple[int, str]] = []
    last = -1
    for number, text in sorted(lines.items()):
        if found and number == last + 1:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
        else:
            found.append((number, text))
        last = number
    return found


def _module_docstring(path: Path) -> list[tuple[int, str]]:
    """Return the paragraphs of the module docstring; an indented paragraph is code, a formula or a list."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text or "sdbench" not in path.parts:
        return []
    parts = re.split(r"\n\s*\n", text)
    return [(1, " ".join(part.split())) for part in parts if not part.startswith(("    ", "- ", "| "))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
