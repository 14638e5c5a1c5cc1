"""The interface of a source of training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sdbench.training.corpus import Sample
from sdbench.training.writer import Writer


class Source(Protocol):
    """Give sequences for training. The same source, target and seed give the same sequences."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Return what the sequences depend on besides the target and the seed: settings, and the SHA-256 of files."""
        ...

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        """Yield sequences, some at a time, so that each chunk can be kept before the next one is made.

        Args:
            writer: writes with the target, for sources that let it write.
            have: the sequences that are there already, of whole chunks and in order. The source goes on behind them.
            seed: of the random choices.
        """
        ...
