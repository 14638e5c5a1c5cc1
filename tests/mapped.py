"""Tabular models with another vocabulary than the target's, for proofs by enumeration."""

from __future__ import annotations

from dataclasses import replace

from sdbench.exactness import TabularModel
from sdbench.models.token_map import MappedIds


class MappedTable(TabularModel):
    """Tables over the model's own tokens, seen through a map as `Transformer` applies it."""

    def __init__(self, name: str, ids: MappedIds, seed: int) -> None:
        super().__init__(name, ids.vocab, seed)
        self.ids, self.proposable = ids, len(ids.rows)
        self._own = TabularModel(name, ids.width, seed)

    def allocate(self, rows, slots):
        super().allocate(rows, slots)
        self._own.allocate(rows, slots)

    def _move(self, rows, source, target):
        self._own._move(rows, source, target)

    def step(self, tokens, *args, **named):
        output = self._own.step(self.ids.read(tokens), *args, **named)
        return replace(output, logits=self.ids.widen(output.logits[..., self.ids.rows]))
