"""Keep evaluation data out of the training data.

A sequence is dropped if it shares 13 words in a row with an evaluation text. It is a near duplicate, and dropped too, if it holds
half of the runs of five words of such a text. Words are compared in lower case, without punctuation.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sdbench.errors import InputError

LONG, SHORT = 13, 5  # words in a row
HALF = 0.5
FEWEST = 4  # runs of five words of a text that can be recognised
_WORD = re.compile(r"[^\W_]+")


class Leaks:
    """Recognise evaluation texts.

    files: JSON lines (also .gz), JSON or plain text, or folders of them; every text in them counts.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._long: set[int] = set()
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        self.texts = self.checked = self.dropped = 0
        for text in _texts(files):
            words = _words(text)
            self._long |= _runs(words, LONG)
            short = _runs(words, SHORT)
            if len(short) >= FEWEST:
                for run in short:
                    self._holders[run].append(len(self._sizes))
                self._sizes.append(len(short))
            self.texts += 1

    def leaks(self, text: str) -> bool:
        """Say whether a text holds evaluation data, and count it."""
        words = _words(text)
        self.checked += 1
        found = not self._long.isdisjoint(_runs(words, LONG))
        if not found:
            shared = Counter(holder for run in _runs(words, SHORT) for holder in self._holders.get(run, ()))
            found = any(count >= HALF * self._sizes[holder] for holder, count in shared.items())
        self.dropped += found
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str], length: int) -> set[int]:
    return {hash(tuple(words[place : place + length])) for place in range(len(words) - length + 1)}


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        if file.is_dir():
            yield from _texts(sorted(one for one in file.iterdir() if one.is_file() and not one.name.startswith(".")))
            continue
        if not file.is_file():
            raise InputError(f"evaluation: there is no file or folder {file}.")
        whole = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
        text = whole.decode("utf-8", errors="replace")
        if kind == ".jsonl":
            yield from (found for line in text.splitlines() if line.strip() for found in _strings(json.loads(line)))
        elif kind == ".json":
            yield from _strings(json.loads(text))
        else:
            yield from text.split("\n\n")


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]
