"""A language model that can be stepped.

One call does it all: `step` writes T new tokens of each row at given slots and says what follows the last of them, each
query seeing what the mask lets it see. A chain is the mask "slots up to my own position"; a token tree is only another mask.

On top of it each model keeps `kv_len[B]`, how many leading tokens of each row it holds. `read` brings it up to a given
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

from sdbench.device import upload
from sdbench.lm.cache_warming import Rehearsal
from sdbench.lm.programs.base import Execution

if TYPE_CHECKING:
    from sdbench.keyed_random import Key
    from sdbench.lm.state import DecodeState
    from sdbench.sampling import Sampling

Lengths = np.ndarray | list[int]  # [B]
FAR = 1 << 30  # the position of a padding query: it sees every slot, and nothing ever sees it


class LanguageModel(ABC):
    """A model over a vocabulary of V tokens, with N slots for each of B rows.

    name: its role (target, qualifier, draft, ...). kv_len: [B] leading tokens of each row that its slots hold. execution: how its
    steps are executed; missed: whether the last step was eager for want of a program; best: [B, R] the most likely tokens behind
    its queries, where its program gave them.
    """

    name: str
    vocab: int
    device: torch.device
    missed = False
    best: Int[Tensor, "B R"] | None = None

    def __init__(self, name: str, vocab: int, device: torch.device) -> None:
        self.name, self.vocab, self.device = name, vocab, device
        self.rows = self.slots = 0
        self.execution = Execution()
        self.kv_len: list[int] = []

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

        slots: None is the common case that all rows write at their positions, from one first slot on; the very tensor of the
        positions says that no query is padding. mask: what each query sees; None is a chain. keep: the last so many queries,
        or indices of queries. rows: which rows of the pool the batch is. extent: attend over the first so many slots only
        (all by default), of which a mask may tell more; steps that are given the very same one make it ready once.
        """

    def chain(
        self,
        context: DecodeState,
        ends: tuple[list[int], list[int]],
        width: int,
        extent: int,
        keep: int,
        uniform: Float[Tensor, "K M"] | None = None,
    ) -> list[Tensor] | None:
        """Read tokens of every row by one program, and draw more behind them; None where the execution has no such programs.

        ends: of each row the first token that is read (FAR: none is) and the end of them; width: the most of them; extent: how many
        slots are attended over. uniform: the numbers behind K draws of the context's sampler (`sdbench.sampling.drawn`). Returns
        the logits of the last `keep` tokens and the most likely tokens there; or, where tokens were drawn, the logits that they
        were drawn from, the tokens [B, K] and, if `keep` is more than 1, the logits of the kept tokens before the last.
        """
        return None

    def tree(
        self,
        roots: Int[Tensor, "B M"],
        behind: Int[Tensor, "B M"],
        lengths: list[int],
        base: int,
        sampling: Sampling,
        uniform: Float[Tensor, "K B*M"],
    ) -> tuple[Int[Tensor, "B M K"], Float[Tensor, "B K M V"]] | None:
        """Grow M branches of each row by K tokens in one call; None where the execution has no such programs.

        roots: their first tokens, which stand `behind` so many of the row's `lengths` tokens, and of what follows these. Each step
        reads what the one before it drew, by the numbers `uniform`, and writes the M tokens side by side, from slot `base` on in
        every row. Returns what was drawn behind each token, the last step's included, and the logits that it was drawn from.
        """
        return None

    @abstractmethod
    def move(self, rows: list[int], source: list[int], stride: int, target: list[int], count: int) -> None:
        """Take what each of `rows` holds at `count` slots from source[r] on, every stride-th, to those from target[r] on.

        So a branch of a tree becomes the row's own.
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
        self, context: DecodeState, stop: Lengths, kind: str, keep: int = 1, row: int | None = None
    ) -> Float[Tensor, "B R V"]:
        """Read each active row's tokens up to `stop[B]`; logits of its last `keep` positions.

        Rows that need fewer tokens than others are padded on the left; of rows that are not decoded the logits mean nothing.
        row: read this row alone, and give its logits alone.
        """
        if row is None and self.execution.name != "eager":
            outputs = self._chained(context, stop, kind, keep)
            if outputs is not None:
                self.missed, self.best = False, outputs[1]
                return outputs[0]
        mark = context.trace.begin(self.device)
        if len(self.kv_len) == 1:
            # One row, as at batch size 1: no row is padded, and nothing is to be asked of arrays.
            extent = int(stop[0])
            first = min(self.kv_len[0], extent - keep)
            tokens = context.tokens_on(self.device)[:, first:extent]
            whole = slice(None) if row is None else slice(0, 1)
            logits = self.step(tokens, self._positions[None, first:extent], None, keep=keep, rows=whole, extent=extent)
            self.kv_len[0] = extent
            context.trace.end(mark, self.name, kind, 1, extent - first, extent, self.missed)
            return logits
        rows = self.execution.rows(context.active) if row is None else slice(row, row + 1)
        active, stop = context.active[rows], np.asarray(stop)[rows]
        tokens, positions, slots, extent = self._laid(context, stop, keep, rows)
        logits = self.step(tokens, positions, slots, keep=keep, rows=rows, extent=extent)
        self.kv_len[rows] = np.where(active, stop, self.kv_len[rows]).tolist()
        if row is None and len(stop) < context.rows:
            every = logits.new_zeros(context.rows, *logits.shape[1:])
            every[rows] = logits
            logits = every
        context.trace.end(mark, self.name, kind, int(active.sum()), tokens.shape[1], extent, self.missed)
        return logits

    def draft(
        self, context: DecodeState, depth: int, kind: str, key: Key, keep: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B R V"] | None] | None:
        """Read each active row's decided tokens, and draw `depth` more behind them, all in one call; None where that cannot be.

        The choices are named key / 0, key / 1, ... Returns the tokens, which the caller may place; the logits that they were drawn
        from; and those behind the R = keep - 1 tokens before the last decided one, if there are such.
        """
        if self.execution.name == "eager":
            return None
        uniform = context.sampler.uniforms(key, depth)
        if uniform is None:
            return None
        drawn = self._chained(context, context.length, kind, keep, uniform)
        return None if drawn is None else (drawn[1], drawn[0], drawn[2] if keep > 1 else None)

    def _chained(
        self,
        context: DecodeState,
        stop: Lengths,
        kind: str,
        keep: int,
        uniform: Float[Tensor, "K M"] | None = None,
    ) -> list[Tensor] | None:
        """`read`, or `draft`, by one program."""
        mark, more = context.trace.begin(self.device), 0 if uniform is None else len(uniform) - 1
        going = context.active.tolist()
        stops = stop if isinstance(stop, list) else stop.tolist()
        # A row may be shorter than what another keeps.
        starts = [
            max(min(held, end - keep), 0) if on else FAR
            for held, end, on in zip(self.kv_len, stops, going, strict=True)
        ]
        width = max(end - start for start, end in zip(starts, stops, strict=True))
        extent = max(end for end, on in zip(stops, going, strict=True) if on)
        outputs = self.chain(context, (starts, stops), width, extent + more, keep, uniform)
        if outputs is None:
            return None
        for row, (end, on) in enumerate(zip(stops, going, strict=True)):
            if on:
                self.kv_len[row] = end + more
        context.trace.end(mark, self.name, kind, sum(going), width, extent, steps=more + 1)
        return outputs

    def _laid(
        self, context: DecodeState, stop: np.ndarray, keep: int, rows: slice
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, "B T"] | None, int]:
        """What each active row has not read up to stop[b], side by side: tokens, positions, slots (as in `step`) and the extent.

        Where no row is padded the slots are the positions, the very same tensor.
        """
        active = context.active[rows]
        start = np.maximum(
            np.minimum(self.kv_len[rows], stop - keep), 0
        )  # a row may be shorter than what another keeps
        if len(stop) == 1:
            first, extent, together = int(start[0]), int(stop[0]), True
        else:
            extent = int(stop[active].max())
            first = extent - int((stop - start)[active].max())
            together = bool((active & (start == first) & (stop == extent)).all())
        width = extent - first
        if together:
            tokens = context.tokens[rows, first:extent].to(self.device)
            return tokens, self._positions[first:extent].expand(len(stop), -1), None, extent
        grid = stop[:, None] - width + np.arange(width)
        if (active & (stop - start == width)).all():
            where = upload(grid, context.tokens.device)
            places = where.to(self.device)
            return context.tokens[rows].gather(1, where).to(self.device), places, places, extent
        pad = (grid < start[:, None]) | ~active[:, None]
        where = upload(np.where(pad, 0, grid), context.tokens.device)
        tokens = context.tokens[rows].gather(1, where).to(self.device)
        positions, slots = (upload(np.where(pad, far, grid), self.device) for far in (FAR, self.slots))
        return tokens, positions, slots, extent

    def rewind(self, length: Lengths) -> None:
        """Forget what lies beyond the first length[b] tokens of each row."""
        for row, end in enumerate(length):
            self.forget(row, int(end))

    def rehearsal(self) -> Rehearsal | None:
        """Small pieces of a step, to keep a core warm that waits; None of a model that cannot be taken to pieces. Has slots."""
        return None

    def forget(self, row: int, length: int) -> None:
        """`rewind` of one row."""
        self.kv_len[row] = min(self.kv_len[row], length)

    def _allocated(self, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.kv_len = [0] * rows
        self._positions = torch.arange(slots + 1, device=self.device)
        self._ends, self._at = (torch.zeros(*shape, dtype=torch.long) for shape in ((2, rows), (rows + 1,)))
