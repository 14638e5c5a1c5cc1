"""Mix several sources by their share of the sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.training.corpus import Sample
from sdbench.training.sources.base import Source
from sdbench.training.writer import Writer


class Mixture:
    """Take the next chunk from the source that is furthest behind its share.

    sources: the sources. shares: positive numbers, one for each. A source that ends is left out from then on.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float]) -> None:
        for share in shares:
            validate.number("recipe.data.shares", share, 0, bounds="(]")
        if len(sources) != len(shares) or not sources:
            raise InputError(
                f"recipe.data.shares is {list(shares)}; it must hold one number for each of the {len(sources)} sources."
            )
        self._sources, self._shares = list(sources), list(shares)

    @property
    def identity(self) -> dict[str, Any]:
        """Return the sources and their shares."""
        sources = {str(place): source.identity for place, source in enumerate(self._sources)}
        return {"kind": "Mixture", "sources": sources, "shares": self._shares}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        held = [[_inner(sample) for sample in have if _place(sample) == place] for place in range(len(self._sources))]
        counts = [len(one) for one in held]
        running = {place: source.chunks(writer, held[place], seed) for place, source in enumerate(self._sources)}
        while running:
            place = min(running, key=lambda one: counts[one] / self._shares[one])
            chunk = next(running[place], None)
            if chunk is None:
                del running[place]
                continue
            counts[place] += len(chunk)
            yield [replace(sample, source=f"{place}:{sample.source}") for sample in chunk]


def _place(sample: Sample) -> int:
    return int(sample.source.partition(":")[0])


def _inner(sample: Sample) -> Sample:
    return replace(sample, source=sample.source.partition(":")[2])
