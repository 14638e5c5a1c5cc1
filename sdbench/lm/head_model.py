"""What all heads have in common as language models: they read the hidden states of a target, in its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sdbench.errors import InputError
from sdbench.lm.programs.execution import Execution
from sdbench.lm.transformer import Transformer, TruncatedTransformer
from sdbench.models.token_map import MappedIds, SameIds


def ids_of(module: Any, target: Transformer) -> SameIds:
    """Return the map of a head that proposes the tokens `module.proposed` of its target."""
    vocab, proposed = module.config.vocab_size, module.proposed.tolist()
    if proposed == list(range(vocab)):
        return SameIds(target.vocab, vocab)
    return MappedIds(range(target.vocab), proposed, proposed, vocab)


class HeadModel(Transformer):
    """A head over the hidden states of `target`. layers: those that it reads, numbered as transformers' `hidden_states`."""

    def __init__(
        self,
        name: str,
        model: Any,
        target: Transformer,
        layers: Sequence[int],
        execution: Execution | None = None,
        ids: SameIds | None = None,
    ) -> None:
        super().__init__(name, model, target.vocab, execution, ids)
        self.target, self.tapped = target, tuple(layers)

    @property
    def max_positions(self) -> int:
        return self.target.max_positions

    @property
    def bytes(self) -> int:
        """The size of the head's own weights, of its cache, and of the hidden states that the target keeps for it, in bytes."""
        shared = {weight.data_ptr() for weight in self.target.model.parameters()}
        own = {w.data_ptr(): w.numel() * w.element_size() for w in self.model.parameters()}
        weights = sum(size for place, size in own.items() if place not in shared)
        return weights + self.pool.bytes + self.pool.hidden_bytes + self.target.pool.hidden_bytes

    def allocate(self, rows: int, slots: int) -> None:
        super().allocate(rows, slots)
        self.target.tap(self.tapped)

    def bare(self) -> Self:
        raise InputError(
            f"{self.name} reads the hidden states of {self.target.name}, so it drafts in the process of {self.target.name} only: "
            "take an arm that drafts there, such as eagle3."
        )

    def truncated(self, layers: int) -> TruncatedTransformer:
        raise InputError(f"{self.name} is a head of {self.target.name}, which has no early exit: take another model.")
