"""The tree of a speculation server: K tokens behind every likely outcome of every row, one forward for each depth.

A branch (k, t) sees its row's tokens up to the first k of the speculation and, behind them, its own: t and what was drafted behind
it. Keys and values of the branches are scratch, behind all that the rows hold: of depth d, M slots from base + d M on.

An outcome that comes before the tree is grown decides what is left to do: if no branch is for it, nothing; else, with one row, that
branch alone is drafted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.lm.context import Context
from sdbench.lm.device import upload
from sdbench.lm.model import LanguageModel
from sdbench.remote.saguaro import Saguaro
from sdbench.sampling import Key

Told = Callable[[], "list[int] | None"]


@dataclass(frozen=True)
class Drafted:
    """What was drafted behind M branches: D tokens, K unless the tree was left. base: the slot where the scratch begins.

    By depth: tokens: [B, M]; logits: [B, M, V], what they were drawn from; behind: [B, M, V], the draft's own logits there. only:
    the branch that was drafted on alone from some depth on, where M is 1; None if all were.
    """

    base: int
    tokens: list[Int[Tensor, "B M"]]
    logits: list[Float[Tensor, "B M V"]]
    behind: list[Float[Tensor, "B M V"]]
    only: int | None = None

    @property
    def depth(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        return self.tokens[0].shape[1]

    @property
    def bytes(self) -> int:
        held = {part.data_ptr(): part.nbytes for part in (*self.tokens, *self.logits, *self.behind)}
        return sum(held.values())

    def of(self, branch: list[int]) -> tuple[Int[Tensor, "B D"], Float[Tensor, "B D V"], Float[Tensor, "B D V"]]:
        """Tokens, logits and the draft's own logits of a branch of each row (of any, where it is -1)."""
        if len(branch) == 1:

            def line(parts: list[Tensor]) -> Tensor:
                return torch.stack([part[:, branch[0] if part.shape[1] > 1 else 0] for part in parts], 1)
        else:
            device = self.tokens[0].device
            at = torch.arange(len(branch), device=device), upload(np.array(branch), device)

            def line(parts: list[Tensor]) -> Tensor:
                return torch.stack([part[at] for part in parts], 1)

        logits = line(self.logits)
        return line(self.tokens), logits, logits if self.behind is self.logits else line(self.behind)


class Tree:
    """model: the draft; saguaro: what is drawn from; length: K."""

    def __init__(self, model: LanguageModel, saguaro: Saguaro, length: int) -> None:
        self.model, self.saguaro, self.length = model, saguaro, length
        self._last = model.max_positions - 1
        self._itself: Bool[Tensor, "B M K*M"] | None = None
        self._slots = torch.arange(model.slots, device=model.device)
        self._depths = torch.arange(length, device=model.device)[:, None]

    def grow(
        self,
        context: Context,
        places: Int[Tensor, "B M"],
        roots: Int[Tensor, "B M"],
        key: Key,
        fan_out: tuple[int, ...],
        told: Told | None = None,
    ) -> Drafted:
        """Draft behind the branches: `roots` after the first places[B, M] tokens of the speculation.

        key: of the rows' draws, the same in all branches of a row. fan_out: what will be cached behind each drafted token.
        told: asked between two depths, which branch of each row has come true; -1 for none, and None while nothing is known.
        """
        device, K, (rows, width) = roots.device, self.length, roots.shape
        # Scratch begins behind the speculation of every row, and behind what a row holds that is not decoded just now.
        lengths, active = context.length.tolist(), context.active.tolist()
        longest = max(length for length, on in zip(lengths, active, strict=True) if on)
        base = max(longest + K, *self.model.known.tolist())
        first = places + (lengths[0] if rows == 1 else upload(context.length, device)[:, None])
        if self._itself is None or self._itself.shape[:2] != (rows, width):
            own = torch.eye(width, dtype=torch.bool, device=device).repeat(1, K)
            self._itself = own.expand(rows, -1, -1)
        mask = torch.cat([self._slots[:base] < first[:, :, None], self._itself], -1)
        if not context.sampler.sampling.greedy:  # which needs no choices
            key = Key(np.repeat(key.streams, width), np.repeat(key.rounds, width), key.path)
        positions = first[:, None] + self._depths
        if max(lengths) + 2 * K > self._last:
            positions = positions.clamp(max=self._last)  # beyond the model's reach nothing will be decoded
        drafted = self._at_once(context, roots, positions, mask, key)
        return Drafted(base, *(drafted or self._step_by_step(context, roots, positions, mask, key, fan_out, told)))

    def _at_once(
        self,
        context: Context,
        roots: Int[Tensor, "B M"],
        positions: Int[Tensor, "B K M"],
        mask: Bool[Tensor, "B M E"],
        key: Key,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], None] | None:
        """All depths by one program, if there is one. What lies deeper than a query is not written when it looks."""
        K, width, device = self.length, roots.shape[1], roots.device
        if self.model.execution.name == "eager" or not self.saguaro.plain:
            return None
        uniform = context.sampler.uniforms(key, K)
        if uniform is None:
            return None
        mark, extent = context.trace.begin(device), mask.shape[2]
        ends = extent - torch.arange(K - 1, -1, -1, device=device) * width
        seen = mask[:, None] & (torch.arange(extent, device=device) < ends[:, None, None])
        drawn = self.model.loop(
            roots,
            positions.flatten(1),
            None,
            seen.flatten(1, 2),
            width,
            width,
            context.sampler.sampling,
            uniform,
            extent,
        )
        if drawn is None:
            return None
        rows = int(context.active.sum())
        context.trace.end(mark, self.model.name, "tree", rows, width, extent - (K - 1) * width, steps=K, width=width)
        logits = list(drawn[1].unflatten(1, (K, width)).unbind(1))
        return list(drawn[0].unflatten(0, (-1, width)).unbind(2)), logits, logits, None

    def _step_by_step(
        self,
        context: Context,
        roots: Int[Tensor, "B M"],
        positions: Int[Tensor, "B K M"],
        mask: Bool[Tensor, "B M E"],
        key: Key,
        fan_out: tuple[int, ...],
        told: Told | None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], int | None]:
        K, (rows, width), sampler, tokens = self.length, roots.shape, context.sampler, roots
        base, active = mask.shape[2] - K * width, sum(context.active.tolist())
        only, kind = None, "tree"
        drafted, scores, behind = [], [], []
        for depth in range(K):
            mark = context.trace.begin(roots.device)
            # A branch alone is written where it would be among the others.
            extent, new = base + depth * width + (width if only is None else only + 1), tokens.shape[1]
            logits = self.model.step(tokens, positions[:, depth], None, mask, keep=new, extent=extent)
            context.trace.end(mark, self.model.name, kind, active, new, extent, self.model.missed)
            behind.append(logits)
            logits = self.saguaro.modify(logits, fan_out[depth], sampler.sampling)
            tokens = sampler.draw(sampler.score(logits.flatten(0, 1)), key / depth).view(rows, new)
            drafted.append(tokens)
            scores.append(logits)
            if told is None or depth + 1 == K or (branch := told()) is None:
                continue
            if max(branch) < 0:
                break
            told = None
            if rows == 1 < width:
                only, kind = branch[0], "branch"
                part = slice(only, only + 1)
                tokens, positions, mask = tokens[:, part], positions[..., part], mask[:, part]
                key = Key(key.streams[part], key.rounds[part], key.path)
        return drafted, behind if self.saguaro.plain else scores, behind, only
