"""A language model that can be stepped.

One call does it all: `step` writes T new tokens of each row at given slots and says what follows the last of them, each
query seeing what the mask lets it see. A chain is the mask "slots up to my own position"; a token tree is only another mask.

On top of it each model keeps `known[B]`, how many leading tokens of each row it holds. `read` brings it up to a given
length in one step, so whatever a model has missed (its own last drafted token, a correction) rides along; `rewind` forgets
what a verdict has dropped. In a chain the slot of a token is its position.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.lm.execution import Execution

if TYPE_CHECKING:
    from sdbench.lm.context import Context

FAR = 1 << 30  # the position of a padding query: it sees every slot, and nothing ever sees it


class LanguageModel(ABC):
    """A model over a vocabulary of V tokens, with N slots for each of B rows.

    name: its role (target, qualifier, draft, ...). known: [B] leading tokens of each row that its slots hold. execution: how its
    steps are executed; missed: whether the last step was eager for want of a program.
    """

    name: str
    vocab: int
    device: torch.device
    missed = False

    def __init__(self, name: str, vocab: int, device: torch.device) -> None:
        self.name, self.vocab, self.device = name, vocab, device
        self.rows = self.slots = 0
        self.execution = Execution()
        self.known = np.zeros(0, np.int64)

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """The longest sequence, in tokens, that the model can read."""

    @abstractmethod
    def step(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None = None,
        keep: int | Int[Tensor, "B R"] = 1,
        rows: slice = slice(None),
        extent: int | None = None,
    ) -> Float[Tensor, "B R V"]:
        """One forward: write `tokens` at `slots`, and give the logits behind the queries to keep.

        slots: None is the common case that all rows write at their positions, from one first slot on. mask: what each
        query sees; None is a chain. keep: the last so many queries, or indices of queries. rows: which rows of the pool
        the batch is. extent: attend over the first so many slots only (all by default).
        """

    @abstractmethod
    def allocate(self, rows: int, slots: int) -> None:
        """Make room for `rows` rows of at least `slots` tokens. All that was held is forgotten."""

    def bare(self) -> Self:
        """The same model, its weights shared, without slots: what another process is given."""
        other = copy.copy(self)
        other.allocate(0, 0)
        return other

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type of its logits."""

    @abstractmethod
    def truncated(self, layers: int) -> LanguageModel:
        """A view on the first `layers` layers and the head, sharing weights and slots (early exit)."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes held: weights and slots."""

    def read(
        self, context: Context, stop: np.ndarray, kind: str, keep: int = 1, row: int | None = None
    ) -> Float[Tensor, "B R V"]:
        """Read each active row's tokens up to `stop[B]`; logits of its last `keep` positions.

        Rows that need fewer tokens than others are padded on the left. row: read this row alone.
        """
        mark = context.trace.begin(self.device)
        if len(self.known) == 1:
            # One row, as at batch size 1: no row is padded, and nothing is to be asked of arrays.
            extent = int(stop[0])
            first = min(int(self.known[0]), extent - keep)
            tokens = context.tokens[:, first:extent].to(self.device)
            whole = slice(None) if row is None else slice(0, 1)
            logits = self.step(tokens, self._positions[None, first:extent], None, keep=keep, rows=whole, extent=extent)
            self.known[0] = extent
            context.trace.end(mark, self.name, kind, 1, extent - first, extent, self.missed)
            return logits
        rows = slice(None) if row is None else slice(row, row + 1)
        active, stop = context.active[rows], stop[rows]
        start = np.minimum(self.known[rows], stop - keep)
        if len(stop) == 1:
            first, extent, together = int(start[0]), int(stop[0]), True
        else:
            extent = int(stop[active].max())
            first = extent - int((stop - start)[active].max())
            together = bool((active & (start == first) & (stop == extent)).all())
        width = extent - first
        if together:
            tokens = context.tokens[rows, first:extent].to(self.device)
            positions = self._positions[first:extent].expand(len(stop), -1)
            slots = None
        else:
            grid = stop[:, None] - width + np.arange(width)
            pad = (grid < start[:, None]) | ~active[:, None]
            where = torch.from_numpy(np.where(pad, 0, grid)).to(context.tokens.device)
            tokens = context.tokens[rows].gather(1, where).to(self.device)
            positions = torch.from_numpy(np.where(pad, FAR, grid)).to(self.device)
            slots = torch.from_numpy(np.where(pad, self.slots, grid)).to(self.device)
        logits = self.step(tokens, positions, slots, keep=keep, rows=rows, extent=extent)
        self.known[rows] = np.where(active, stop, self.known[rows])
        context.trace.end(mark, self.name, kind, int(active.sum()), width, extent, self.missed)
        return logits

    def rewind(self, length: np.ndarray) -> None:
        """Forget what lies beyond the first length[b] tokens of each row."""
        np.minimum(self.known, length, out=self.known)

    def _allocated(self, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.known = np.zeros(rows, np.int64)
        self._positions = torch.arange(slots + 1, device=self.device)
