"""Take the corpus of another training, as it is: the target writes nothing.

Greedy texts differ a little between precisions and machines, so a corpus belongs to the training that made it. As a fixed set
of texts it serves any other training, such as one in another precision.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from sdbench.errors import InputError
from sdbench.models.weight_files import sha256_of
from sdbench.paths import expanded
from sdbench.training.corpus import Sample
from sdbench.training.sources.answers import CHUNK
from sdbench.training.writer import Writer


class Kept:
    """Read sequences of tokens with their prompts.

    path: corpus.jsonl of another training's work folder, or that file compressed by gzip. Errors: InputError.
    """

    def __init__(self, path: str) -> None:
        self._file = expanded(path)
        if not self._file.is_file():
            raise InputError(
                f"recipe.data.path: there is no file {self._file}; name corpus.jsonl of a training's work."
            )
        held = self._file.read_bytes()
        try:
            lines = (gzip.decompress(held) if held[:2] == b"\x1f\x8b" else held).splitlines()
            samples = [Sample(**json.loads(line)) for line in lines if line]
        except (ValueError, TypeError, OSError, EOFError, zlib.error) as error:
            raise InputError(f"recipe.data.path: {self._file} is no corpus of a training ({error}).") from error
        self._samples = [sample for sample in samples if not sample.left_out]

    @property
    def identity(self) -> dict[str, Any]:
        """Return the SHA-256 of the file."""
        return {"kind": "Kept", "path": sha256_of(self._file)}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        vocab = len(writer.tokenizer)
        for begin in range(len(have), len(self._samples), CHUNK):
            part = self._samples[begin : begin + CHUNK]
            if any(max(sample.tokens, default=0) >= vocab for sample in part):
                raise InputError(
                    f"recipe.data.path: {self._file} holds tokens beyond the {vocab} of this target: it belongs to another one."
                )
            yield part
