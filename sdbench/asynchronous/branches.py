"""The branches of a speculation server: K tokens behind every likely outcome of every row, with one forward for each depth.

The speculation and its branches are one token tree (`Topology.branches`). Its first K nodes are the speculation. Branch (k, t)
begins with the token t, which follows node k. The keys and values of the branches are scratch, behind those of the speculation.
M branches of depth d take M slots from base + d M on.

An outcome that arrives before the branches are grown ends most of the work. If no branch is for it, nothing is left to do. With one
row the server otherwise drafts on for that branch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.asynchronous.saguaro import Saguaro
from sdbench.device import upload
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState
from sdbench.topology import Topology

Arrived = Callable[[], "list[int] | None"]


@dataclass(frozen=True)
class DraftedBranches:
    """Hold D tokens behind each of M branches. D is K, unless the server stopped early.

    base: [B] the slot where the scratch begins. The lists have an entry for each depth:
    tokens: [B, M]. logits: [B, M, V], what the tokens were drawn from. own: [B, M, V], the draft's own logits there.
    only: the branch that was drafted alone from some depth on, where M is 1; None if all were.
    """

    base: list[int]
    tokens: list[Int[Tensor, "B _"]]
    logits: list[Float[Tensor, "B _ V"]]
    own: list[Float[Tensor, "B _ V"]]
    only: int | None = None

    @property
    def depth(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        return self.tokens[0].shape[1]

    @property
    def bytes(self) -> int:
        held = {part.data_ptr(): part.nbytes for part in (*self.tokens, *self.logits, *self.own)}
        return sum(held.values())

    def of(self, branch: list[int]) -> tuple[Int[Tensor, "B D"], Float[Tensor, "B D V"], Float[Tensor, "B D V"]]:
        """Return tokens, logits and the draft's own logits of one branch of each row. branch: [B]; -1 gives any branch."""
        if len(branch) == 1:

            def line(parts: list[Tensor]) -> Tensor:
                return torch.stack([part[:, branch[0] if part.shape[1] > 1 else 0] for part in parts], 1)
        else:
            device = self.tokens[0].device
            at = torch.arange(len(branch), device=device), upload(np.array(branch), device)

            def line(parts: list[Tensor]) -> Tensor:
                return torch.stack([part[at] for part in parts], 1)

        logits = line(self.logits)
        return line(self.tokens), logits, logits if self.own is self.logits else line(self.own)


@dataclass(frozen=True)
class DraftedAtOnce:
    """Hold K tokens behind each of M branches, as one program returns them. See `DraftedBranches`."""

    base: list[int]
    tokens: Int[Tensor, "B M K"]
    logits: Float[Tensor, "B K M V"]
    only = None

    @property
    def depth(self) -> int:
        return self.tokens.shape[2]

    @property
    def width(self) -> int:
        return self.tokens.shape[1]

    @property
    def bytes(self) -> int:
        return self.tokens.nbytes + self.logits.nbytes

    def of(self, branch: list[int]) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B K V"]]:
        """Return tokens, logits and the draft's own logits of one branch of each row. branch: [B]; -1 gives any branch."""
        if len(branch) == 1:
            tokens, logits = self.tokens.select(1, branch[0]), self.logits.select(2, branch[0])
        else:
            device = self.tokens.device
            row, at = torch.arange(len(branch), device=device), upload(np.array(branch), device)
            tokens, logits = self.tokens[row, at], self.logits[row, :, at]
        return tokens, logits, logits


class Branches:
    """Grow branches. model: the draft. saguaro: what is drawn from. length: K."""

    def __init__(self, model: LanguageModel, saguaro: Saguaro, length: int) -> None:
        self.model, self.saguaro, self.length = model, saguaro, length

    def grow(
        self,
        state: DecodeState,
        behind: list[list[int]],
        roots: Int[Tensor, "B M"],
        key: Key,
        fan_out: tuple[int, ...],
        arrived: Arrived | None = None,
    ) -> DraftedBranches | DraftedAtOnce:
        """Draft K tokens behind each branch.

        Args:
            behind, roots: branch m of row b starts with token roots[b, m], behind the first behind[b][m] tokens of the speculation.
            key: of the rows' draws, the same in all branches of a row.
            fan_out: the number of outcomes that will be cached behind each drafted token.
            arrived: asked between two depths. It returns the branch of each row whose outcome has arrived, -1 for no branch, and
                None while no outcome is there.
        """
        K, width = self.length, roots.shape[1]
        if not state.sampler.sampling.greedy:  # greedy draws need no choices
            key = Key(np.repeat(key.streams, width), np.repeat(key.rounds, width), key.path)
        drafted = self._at_once(state, behind, roots, key)
        if drafted is not None:
            return drafted
        trees = [Topology.branches(K, line, K) for line in behind]
        here = replace(state, tokens=pad(state.tokens, (0, K * width)), host=None)
        base = [length + K for length in state.length.tolist()]
        return DraftedBranches(base, *self._step_by_step(here, trees, roots, key, fan_out, arrived))

    def _at_once(
        self, state: DecodeState, behind: list[list[int]], roots: Int[Tensor, "B M"], key: Key
    ) -> DraftedAtOnce | None:
        """Grow all depths in one program, if there is one. A query never sees deeper tokens: they are written later."""
        K, (rows, width) = self.length, roots.shape
        if self.model.execution.name == "eager" or not self.saguaro.plain:
            return None
        uniform = state.sampler.uniforms(key, K)
        if uniform is None:
            return None
        # The scratch begins behind the speculation of every row, and behind the cache of rows that are inactive now.
        lengths, active = state.length.tolist(), state.active.tolist()
        base = max(K + max(length for length, on in zip(lengths, active, strict=True) if on), *self.model.kv_len)
        kept = upload(np.array(behind), roots.device)
        mark = state.trace.begin(roots.device)
        drawn = self.model.tree(roots, kept, lengths, base, state.sampler.sampling, uniform)
        if drawn is None:
            return None
        state.trace.end(mark, self.model.name, "tree", sum(active), width, base + width, steps=K, width=width)
        return DraftedAtOnce([base] * rows, *drawn)

    def _step_by_step(
        self,
        state: DecodeState,
        trees: list[Topology],
        roots: Int[Tensor, "B M"],
        key: Key,
        fan_out: tuple[int, ...],
        arrived: Arrived | None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], int | None]:
        """Grow one depth after the other. Return the fields of `DraftedBranches` behind `base`."""
        K, (rows, width), sampler, tokens = self.length, roots.shape, state.sampler, roots
        only, kind = None, "tree"
        drafted, scores, own = [], [], []
        for depth in range(K):
            first, new = K + 1 + depth * width + (only or 0), tokens.shape[1]
            state.place_many(tokens, np.where(state.active, state.length + first - 1, 0))
            output = self.model.read_tree(state, trees, (first, first + new - 1), kind)
            own.append(output.logits)
            logits = self.saguaro.modify(output.logits, fan_out[depth], sampler.sampling)
            tokens = sampler.draw(sampler.score(logits.flatten(0, 1)), key / depth).view(rows, new)
            drafted.append(tokens)
            scores.append(logits)
            if arrived is None or depth + 1 == K or (branch := arrived()) is None:
                continue
            if max(branch) < 0:
                break
            arrived = None
            if rows == 1 < width:
                only, kind = branch[0], "branch"
                part = slice(only, only + 1)
                tokens = tokens[:, part]
                key = Key(key.streams[part], key.rounds[part], key.path)
        return drafted, own if self.saguaro.plain else scores, own, only
