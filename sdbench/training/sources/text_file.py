"""Read texts of a file, as a fixed corpus: the target writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdbench import validate
from sdbench.models.weight_files import sha256_of
from sdbench.paths import expanded
from sdbench.training.corpus import Sample
from sdbench.training.sources.answers import CHUNK, lines_of
from sdbench.training.writer import Writer

TEXT_KEYS = ("text", "content")


class TextFile:
    """Take the lines of a text file, or the texts of JSON lines (key text or content).

    longest: in tokens; longer texts are cut. All tokens but the first count, because a text has no prompt.
    """

    def __init__(self, path: str, longest: int = 512) -> None:
        self._file, self._longest = expanded(path), validate.whole("recipe.data.longest", longest, 2)
        self._texts = lines_of(self._file, TEXT_KEYS, "recipe.data.path")

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings, and the SHA-256 of the file."""
        return {"kind": "TextFile", "path": sha256_of(self._file), "longest": self._longest}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        first = 1 + max((int(sample.source.rpartition("/")[2]) for sample in have), default=-1)
        for begin in range(first, len(self._texts), CHUNK):
            rows = [writer.tokenizer(text)["input_ids"][: self._longest] for text in self._texts[begin : begin + CHUNK]]
            yield [
                Sample(list(row), 1, f"{self._file.name}/{begin + place}")
                for place, row in enumerate(rows)
                if len(row) > 1
            ]
