"""The tree of a speculation server: K tokens behind every likely outcome of every row, one forward for each depth.

A branch (k, t) sees its row's tokens up to the first k of the speculation and, behind them, its own: t and what was drafted behind
it. Keys and values of the branches are scratch, behind all that the rows hold: of depth d, M slots from base + d M on.

An outcome that comes before the tree is grown decides what is left to do: if no branch is for it, nothing; else, with one row, that
branch alone is drafted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.asynchronous.saguaro import Saguaro
from sdbench.device import upload
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState

MADE = 16  # shapes of trees that are kept

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


@dataclass(frozen=True)
class DraftedAtOnce:
    """The same of all branches to their end, as a program gives it."""

    base: int
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
        """See `Drafted`."""
        if len(branch) == 1:
            tokens, logits = self.tokens.select(1, branch[0]), self.logits.select(2, branch[0])
        else:
            device = self.tokens.device
            row, at = torch.arange(len(branch), device=device), upload(np.array(branch), device)
            tokens, logits = self.tokens[row, at], self.logits[row, :, at]
        return tokens, logits, logits


class _Lone(NamedTuple):
    """The tree of a lone row, as it were behind the very last slot. positions: [1, K, M], from the end of the row's tokens on;
    seen: [M, N + K M], what the branches see of the slots, and of the tree."""

    places: Int[Tensor, "1 M"]
    positions: Int[Tensor, "1 K M"]
    seen: Bool[Tensor, "M S"]


@lru_cache(maxsize=MADE)
def _own(depths: int, width: int, device: torch.device) -> Bool[Tensor, "M KM"]:
    """A branch sees itself: what stands at its place in each depth. (What lies deeper than a step is not attended over in it.)"""
    return torch.eye(width, dtype=torch.bool, device=device).repeat(1, depths)


class Tree:
    """model: the draft; saguaro: what is drawn from; length: K."""

    def __init__(self, model: LanguageModel, saguaro: Saguaro, length: int) -> None:
        self.model, self.saguaro, self.length = model, saguaro, length
        self._last = model.max_positions - 1
        self._slots = torch.arange(model.slots, device=model.device)
        self._depths = torch.arange(length, device=model.device)[:, None]
        self._made: dict[int, _Lone] = {}  # by the identity of the places

    def grow(
        self,
        context: DecodeState,
        places: Int[Tensor, "B M"],
        roots: Int[Tensor, "B M"],
        key: Key,
        fan_out: tuple[int, ...],
        told: Told | None = None,
    ) -> Drafted | DraftedAtOnce:
        """Draft behind the branches: `roots` after the first places[B, M] tokens of the speculation.

        key: of the rows' draws, the same in all branches of a row. fan_out: what will be cached behind each drafted token.
        told: asked between two depths, which branch of each row has come true; -1 for none, and None while nothing is known.
        """
        device, K, (rows, width) = roots.device, self.length, roots.shape
        # Scratch begins behind the speculation of every row, and behind what a row holds that is not decoded just now.
        lengths, active = context.length.tolist(), context.active.tolist()
        longest = max(length for length, on in zip(lengths, active, strict=True) if on)
        base = max(longest + K, *self.model.kv_len)
        if not context.sampler.sampling.greedy:  # which needs no choices
            key = Key(np.repeat(key.streams, width), np.repeat(key.rounds, width), key.path)
        drafted = self._at_once(context, roots, places, lengths, base, key)
        if drafted is not None:
            return drafted
        if rows == 1 and base == longest + K:
            lone = self._lone(places)
            positions = lone.positions + longest
            seen = lone.seen.narrow(1, self.model.slots - base, base + K * width)[None]
        else:
            first = places + upload(context.length, device)[:, None]
            positions = first[:, None] + self._depths
            own = _own(K, width, device).expand(rows, -1, -1)
            seen = torch.cat([self._slots[:base] < first[:, :, None], own], -1)
        if max(lengths) + 2 * K > self._last:
            positions = positions.clamp(max=self._last)  # beyond the model's reach nothing will be decoded
        return Drafted(base, *self._step_by_step(context, roots, positions, seen, key, fan_out, told))

    def _lone(self, places: Int[Tensor, "1 M"]) -> _Lone:
        """What is the same wherever the tree of a lone row stands: its branches, that is, and the fan-out, come again and again."""
        if id(places) not in self._made:
            if len(self._made) >= MADE:
                self._made.clear()
            K, width, slots = self.length, places.shape[1], self.model.slots
            prefix = self._slots < slots - K + places[0, :, None]
            seen = torch.cat([prefix, _own(K, width, places.device)], 1)
            self._made[id(places)] = _Lone(places, places[:, None] + self._depths, seen)
        return self._made[id(places)]

    def _at_once(
        self,
        context: DecodeState,
        roots: Int[Tensor, "B M"],
        places: Int[Tensor, "B M"],
        lengths: list[int],
        base: int,
        key: Key,
    ) -> DraftedAtOnce | None:
        """All depths by one program, if there is one. What lies deeper than a query is not written when it looks."""
        K, width = self.length, roots.shape[1]
        if self.model.execution.name == "eager" or not self.saguaro.plain:
            return None
        uniform = context.sampler.uniforms(key, K)
        if uniform is None:
            return None
        mark = context.trace.begin(roots.device)
        drawn = self.model.tree(roots, places, lengths, base, context.sampler.sampling, uniform)
        if drawn is None:
            return None
        active = sum(context.active.tolist())
        context.trace.end(mark, self.model.name, "tree", active, width, base + width, steps=K, width=width)
        return DraftedAtOnce(base, *drawn)

    def _step_by_step(
        self,
        context: DecodeState,
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
            output = self.model.step(tokens, positions[:, depth], None, mask, num_logits=new, attend_len=extent)
            context.trace.end(mark, self.model.name, kind, active, new, extent, output.missed)
            behind.append(output.logits)
            logits = self.saguaro.modify(output.logits, fan_out[depth], sampler.sampling)
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
