"""A head that predicts several tokens in one pass (`sdbench.heads.parallel`), as a model beside its target.

A *place* is a decided token that the target has read, with the token behind it decided too. Place p has slot p of the head's cache.
A pass reads the places that are new since the last one, from the target's hidden states, and queries behind the last place. The
queries stand in the slots behind it, and the next pass overwrites them. So nothing needs to be undone after a verdict, and rows
with different numbers of kept tokens share a pass. A head without a cache reads the last place only.

A pass is always eager. It is one small step, beside a target in any execution mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.heads.parallel import ParallelHead
from sdbench.keyed_random import Key
from sdbench.lm.head_model import HeadModel, ids_of
from sdbench.lm.model import Lengths, Paths
from sdbench.lm.output import StepOutput
from sdbench.lm.state import DecodeState
from sdbench.lm.transformer import Transformer
from sdbench.topology import Topology


class ParallelModel(HeadModel):
    """A head whose `laws` predict `depth` tokens at once. It cannot be stepped token by token.

    Raises:
        InputError: the head does not belong to the target.
    """

    def __init__(self, name: str, module: ParallelHead, target: Transformer) -> None:
        module.head_config.check(name, target.config)
        layers = module.head_config.tapped(name, target.layers)
        super().__init__(name, module, target, layers, ids=ids_of(module, target))
        self.depth = module.depth

    def allocate(self, rows: int, slots: int) -> None:
        super().allocate(rows, slots + self.model.block)

    def keep(self, lengths: Lengths, paths: Paths | None = None) -> None:
        """Keep what belongs to the first lengths[b] tokens of each row: their places. Decided tokens are never undone."""
        super().keep(lengths)

    def prefill(self, state: DecodeState, row: int) -> None:
        """Read the places of a prompt but the last one, which the first pass of `laws` reads."""
        stop = state.length - 2
        if self.model.stateful and stop[row] > 0:
            self._pass(state, stop, slice(row, row + 1), "prefill")

    def laws(self, state: DecodeState) -> Float[Tensor, "B K V"]:
        """Return the logits of the K tokens behind the decided ones of each row. Those of rows that are not active mean nothing.

        Raises:
            InputError: the target has not read all decided tokens but the last.
        """
        stop = state.length - 1
        held = np.array(self.target.kv_len)
        if (held < stop)[state.active].any():
            raise InputError(
                f"{self.name} predicts what follows a token that {self.target.name} has just read, so it cannot draft below a "
                f"stage in between: let {self.target.name} verify its drafts."
            )
        return self._pass(state, stop, slice(None), "draft")

    def _pass(self, state: DecodeState, stop: np.ndarray, rows: slice, kind: str) -> Float[Tensor, "B K V"]:
        """Read the new places below stop[b] of some rows, and return the logits behind the last place."""
        mark = state.trace.begin(self.device)
        active, stop, module = state.active[rows], stop[rows], self.model
        first = np.minimum(self._kv_len[rows], stop - 1) if module.stateful else stop - 1
        width = int((stop - first)[active].max())
        grid = stop[:, None] - width + np.arange(width)
        padding = (grid < first[:, None]) | ~active[:, None]
        grid = np.where(padding, 0, grid)
        tokens = state.tokens[rows].gather(1, upload(grid + 1, state.tokens.device)).to(self.device)
        hidden = self._hidden(np.arange(state.rows)[rows], grid)
        positions, mask = self._arranged(grid, padding, stop, active, rows)
        logits = self.ids.widen(module.laws(tokens, hidden, positions, mask, self.pool))
        self._kv_len[rows] = np.where(active, stop, self._kv_len[rows]).tolist()
        numbers = np.where(active, np.arange(state.rows)[rows], -1).tolist()
        end = int(stop[active].max()) + module.block
        state.trace.end(mark, self.name, kind, int(active.sum()), width + module.block, end)
        state.trace.watch(self.name, logits, numbers)
        return logits

    def _hidden(self, rows: np.ndarray, grid: np.ndarray) -> Float[Tensor, "B C S3"]:
        """Return the target's hidden states at some places of each row."""
        if not self.tapped:
            return torch.zeros(*grid.shape, 0, dtype=self.dtype, device=self.device)
        taken = self.target.hidden(self.tapped, np.repeat(rows, grid.shape[1]), grid.ravel())
        return taken.to(self.device).unflatten(0, grid.shape)

    def _arranged(
        self, grid: np.ndarray, padding: np.ndarray, stop: np.ndarray, active: np.ndarray, rows: slice
    ) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T E"] | None]:
        """Choose where a pass writes in the cache. Returns the positions of its queries, and the slots that each of them sees."""
        block = self.model.block
        own = np.concatenate([grid, stop[:, None] + np.arange(block)], 1)
        if not self.model.stateful:
            return upload(own, self.device), None
        padding = np.concatenate([padding, np.repeat(~active[:, None], block, 1)], 1)
        last = own.copy()  # the last slot that a query sees
        if not self.model.causal:
            last[:, grid.shape[1] :] = stop[:, None] + block - 1
        end = int(stop[active].max()) + block
        mask = (np.arange(end) <= last[:, :, None]) | padding[:, :, None]
        self.pool.select(rows, upload(np.where(padding, self.slots, own), self.device), 0, end)
        return upload(own, self.device), upload(mask, self.device)

    def read(
        self, state: DecodeState, stop: Lengths, kind: str, num_logits: int = 1, row: int | None = None
    ) -> StepOutput:
        raise self._not_stepped()

    def draft(
        self, state: DecodeState, depth: int, kind: str, key: Key, num_logits: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B R V"] | None] | None:
        raise self._not_stepped()

    def score(self, state: DecodeState, count: int, trees: Sequence[Topology] | None = None) -> StepOutput:
        raise self._not_stepped()

    def _not_stepped(self) -> InputError:
        return InputError(
            f"{self.name} is a head that predicts {self.depth} tokens in one pass, so it cannot be read token by token: draft with "
            "sdbench.drafting.ParallelDrafter or ParallelTree, as the arm medusa does."
        )
