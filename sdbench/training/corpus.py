"""Keep what a drafter is trained on: sequences of tokens, and how many of them belong to the prompt.

A corpus is a file of JSON lines. Sequences come in chunks, and an empty line ends each chunk. A chunk that a killed run left
unfinished is cut off, so the run goes on with the same chunk and makes the same corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sdbench.errors import InputError

_END = b"\n\n"  # of a chunk


@dataclass(frozen=True)
class Sample:
    """A sequence of tokens.

    prompt: how many of them come before the answer, at least 1. source: where it comes from, such as a prompt's id.
    left_out: it holds evaluation data, so no training reads it.
    """

    tokens: list[int]
    prompt: int
    source: str = ""
    left_out: bool = False

    @property
    def answer(self) -> list[int]:
        """Return the tokens behind the prompt: those that training counts."""
        return self.tokens[self.prompt :]


class Corpus:
    """Sequences in a file, in the order in which they were added.

    every: all of them. samples: those that training may read. answer_tokens: the number of tokens behind their prompts.
    folder: where the file lies, and what a target says about the sequences.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._hold(_read(file) if file.exists() else [])

    def _hold(self, every: list[Sample]) -> None:
        self.every = every
        self.samples = [sample for sample in every if not sample.left_out]
        self.answer_tokens = sum(len(sample.tokens) - sample.prompt for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def add(self, samples: Iterable[Sample]) -> None:
        """Append a chunk of sequences to the file."""
        new = list(samples)
        if not new:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.write("".join(_line(sample) for sample in new).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._hold([*self.every, *new])

    def upto(self, tokens: int) -> Corpus:
        """Return the shortest beginning with at least `tokens` answer tokens. It stays the same when the file grows."""
        part, count, taken = Corpus.__new__(Corpus), 0, 0
        while count < tokens and taken < len(self.every):
            sample = self.every[taken]
            count += 0 if sample.left_out else len(sample.tokens) - sample.prompt
            taken += 1
        part.file = self.file
        part._hold(self.every[:taken])
        return part

    @property
    def sha256(self) -> str:
        """Return the identity of the sequences that training may read."""
        return hashlib.sha256("".join(map(_line, self.samples)).encode()).hexdigest()


def _line(sample: Sample) -> str:
    return json.dumps(asdict(sample)) + "\n"


def _read(file: Path) -> list[Sample]:
    """Return the sequences of a file. An unfinished chunk at its end is cut off. Errors: InputError if a line is no sequence."""
    whole = file.read_bytes()
    size = whole.rfind(_END) + len(_END) if _END in whole else 0
    if size < len(whole):
        os.truncate(file, size)
    try:
        return [Sample(**json.loads(line)) for line in whole[:size].splitlines() if line]
    except (ValueError, TypeError) as error:
        raise InputError(f"The corpus {file} holds a line that is no sequence ({error}): delete the file.") from error
