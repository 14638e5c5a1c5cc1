"""Keep what a drafter is trained on: sequences of tokens, and how many of them belong to the prompt.

A corpus is a file of JSON lines. It is written line by line, so a run that is killed loses one sequence at most, and goes on where
it stopped. The SHA-256 of the file is the identity of the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sdbench.errors import InputError
from sdbench.models.weight_files import sha256_of


@dataclass(frozen=True)
class Sample:
    """A sequence of tokens. prompt: how many of them come before the answer. source: where it comes from, such as a prompt's id."""

    tokens: list[int]
    prompt: int
    source: str = ""

    @property
    def answer(self) -> list[int]:
        """Return the tokens behind the prompt: those that training counts."""
        return self.tokens[self.prompt :]


class Corpus:
    """Sequences in a file, in the order in which they were added."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.samples: list[Sample] = []
        if file.exists():
            self.samples = [*_read(file)]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def answer_tokens(self) -> int:
        """Return the number of tokens behind the prompts."""
        return sum(len(sample.tokens) - sample.prompt for sample in self.samples)

    def add(self, samples: Iterable[Sample]) -> None:
        """Append sequences to the file."""
        new = list(samples)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            for sample in new:
                file.write(json.dumps(asdict(sample)) + "\n")
        self.samples += new

    @property
    def sha256(self) -> str:
        """Return the identity of the data."""
        return sha256_of(self.file)


def _read(file: Path) -> Iterator[Sample]:
    """Yield the sequences of a file. An incomplete last line is cut off."""
    with file.open("r+") as lines:
        while True:
            begin = lines.tell()
            line = lines.readline()
            if not line:
                return
            try:
                yield Sample(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                if lines.readline():
                    raise InputError(
                        f"The corpus {file} holds a line that is no sequence ({error}): delete the file."
                    ) from error
                lines.truncate(begin)
                return
