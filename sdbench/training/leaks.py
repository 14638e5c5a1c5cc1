"""Keep evaluation data out of the training data.

A sequence is dropped if it shares 13 words in a row with an evaluation text. It is a near duplicate, and dropped too, if it holds
half of the runs of five words of such a text. Words are compared in lower case, without punctuation.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from sdbench.errors import InputError
from sdbench.tasks.rows import texts_in

LONG, SHORT = 13, 5  # words in a row
HALF = 0.5
FEWEST = 4  # runs of five words of a text that can be recognised
_KINDS = (".jsonl", ".json", ".parquet", ".txt", ".md", ".csv", ".tsv", "")
_WORD = re.compile(r"[^\W_]+")


class Leaks:
    """Recognise evaluation texts.

    files: JSON lines, JSON, Parquet or plain text (.txt, .md, .csv, .tsv or no ending), also with .gz, or folders of them. Every
    text in them counts. A folder's files of other kinds are passed over. texts: how many there are. sha256: of the texts.
    Errors: InputError if there is no such file, or it cannot be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._long: set[int] = set()
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        self.texts, digest = 0, hashlib.sha256()
        for text in _texts(files):
            words = _words(text)
            self._long |= _runs(words, LONG)
            short = _runs(words, SHORT)
            if len(short) >= FEWEST:
                for run in short:
                    self._holders[run].append(len(self._sizes))
                self._sizes.append(len(short))
            self.texts += 1
            digest.update(" ".join(words).encode() + b"\n")
        self.sha256 = digest.hexdigest()

    def leaks(self, text: str) -> bool:
        """Say whether a text holds evaluation data."""
        words = _words(text)
        found = not self._long.isdisjoint(_runs(words, LONG))
        if not found:
            shared = Counter(holder for run in _runs(words, SHORT) for holder in self._holders.get(run, ()))
            found = any(count >= HALF * self._sizes[holder] for holder, count in shared.items())
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str], length: int) -> set[int]:
    return {hash(tuple(words[place : place + length])) for place in range(len(words) - length + 1)}


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        if file.is_dir():
            inside = (one.relative_to(file).parts for one in sorted(file.rglob("*")) if one.is_file())
            shown = (file.joinpath(*parts) for parts in inside if not any(part.startswith(".") for part in parts))
            yield from _texts([one for one in shown if _kind(one) in _KINDS])
            continue
        if not file.is_file():
            raise InputError(f"evaluation: there is no file or folder {file}.")
        try:
            yield from _texts_of(file)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"evaluation: {file} cannot be read as {_kind(file) or 'text'} ({error}).") from error


def _texts_of(file: Path) -> Iterator[str]:
    whole = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    kind = _kind(file)
    if kind == ".parquet":
        for _, column in pd.read_parquet(io.BytesIO(whole)).items():
            yield from (found for value in column for found in texts_in(value))
        return
    text = whole.decode("utf-8", errors="replace")
    if kind == ".jsonl":
        yield from (found for line in text.splitlines() if line.strip() for found in texts_in(json.loads(line)))
    elif kind == ".json":
        yield from texts_in(json.loads(text))
    else:
        yield from text.split("\n\n")


def _kind(file: Path) -> str:
    """Return what ends a file's name, without .gz."""
    return Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
