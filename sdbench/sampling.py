"""From logits to distributions, and from distributions to choices.

A model gives logits. `warp` turns them into the distribution that is sampled from:

    softmax(logits / temperature), restricted to the `top_k` most likely tokens and then to the smallest set whose mass
    reaches `top_p`, and renormalised; at temperature 0 all mass lies on the most likely token.

Random choices are made by `sdbench.keyed_random`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.device import at_hand
from sdbench.errors import InputError
from sdbench.keyed_random import Choices, HashChoices, Key, invert


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    temperature: 0 is greedy. top_k: keep the k most likely tokens (0: all). top_p: keep the smallest set of tokens
    whose mass is at least top_p (1: all).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"sampling.temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")
        if self.top_k < 0:
            raise InputError(f"sampling.top_k is {self.top_k}; it must be 0 (off) or a positive whole number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling.top_p is {self.top_p}; it must lie in (0, 1].")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def warp(logits: Float[Tensor, "*batch V"], sampling: Sampling) -> Float[Tensor, "*batch V"]:
    """The distribution that is sampled from, in float32 (float64 stays float64)."""
    if sampling.greedy:
        best = most_likely(logits)[..., None]
        return torch.zeros(logits.shape, dtype=_wide(logits), device=logits.device).scatter_(-1, best, 1.0)
    logits = logits.to(_wide(logits)) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        before[..., 0] = 0.0
        drop = (before >= sampling.top_p).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits.softmax(-1)


FEW = 2048  # logits: below, calling numpy takes longer than it saves


def most_likely(logits: Float[Tensor, "*batch V"]) -> Int[Tensor, "*batch"]:
    """The index of the largest, the first among equals. Of many on a CPU by numpy, which is ten times as fast there as torch."""
    if logits.numel() > FEW and at_hand(logits) and logits.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.asarray(logits.numpy().argmax(-1)))
    return logits.argmax(-1)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


class Scored:
    """What a model says about some positions: its logits, and the distributions made from them.

    logits: [..., V] as the model gave them. best: [...] the tokens of the largest. probs: [..., V] after warping; plain: [..., V]
    the un-warped, temperature-1 softmax, on which most relaxed acceptance rules are defined. All that was not given is made when
    first asked for.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch V"] | tuple[Scored, Any],
        sampling: Sampling,
        best: Int[Tensor, "*batch"] | None = None,
    ) -> None:
        self._logits = logits  # or of what they are which part, until they are asked for
        self.sampling = sampling
        self._best = best
        self._probs: Tensor | None = None
        self._plain: Tensor | None = None

    @property
    def logits(self) -> Float[Tensor, "*batch V"]:
        if isinstance(self._logits, tuple):
            whole, index = self._logits
            self._logits = whole.logits[index]
        return self._logits

    @property
    def best(self) -> Int[Tensor, "*batch"]:
        """The most likely tokens."""
        if self._best is None:
            self._best = most_likely(self.logits)
        return self._best

    @property
    def probs(self) -> Float[Tensor, "*batch V"]:
        if self._probs is None:
            self._probs = warp(self.logits, self.sampling)
        return self._probs

    @property
    def plain(self) -> Float[Tensor, "*batch V"]:
        if self._plain is None:
            self._plain = self.logits.to(_wide(self.logits)).softmax(-1)
        return self._plain

    def __getitem__(self, index) -> Scored:
        """The positions that `index` selects (an index over the leading dimensions)."""
        part = Scored((self, index), self.sampling)
        part._probs = None if self._probs is None else self._probs[index]
        part._plain = None if self._plain is None else self._plain[index]
        return part

    @staticmethod
    def cat(parts: Sequence[Scored], dim: int) -> Scored:
        """Join scores along a leading dimension."""
        if len(parts) == 1:
            return parts[0]
        whole = Scored(torch.cat([part.logits for part in parts], dim), parts[0].sampling)
        probs = [part._probs for part in parts if part._probs is not None]
        if len(probs) == len(parts):
            whole._probs = torch.cat(probs, dim)
        return whole


class Sampler:
    """Scores logits and draws tokens under one `Sampling`, with one source of choices."""

    def __init__(self, sampling: Sampling, choices: Choices | None = None) -> None:
        self.sampling = sampling
        self.choices: Choices = choices or HashChoices()

    def score(self, logits: Float[Tensor, "*batch V"], best: Int[Tensor, "*batch"] | None = None) -> Scored:
        return Scored(logits, self.sampling, best)

    def draw(self, scored: Scored, key: Key) -> Int[Tensor, " B"]:
        """One token per row from its warped distribution; scored: [B, V]. Greedy needs no choice."""
        if self.sampling.greedy:
            return scored.best
        return self.choices.choose(scored.probs, key)

    def uniforms(self, key: Key, count: int) -> Float[Tensor, "K B"] | None:
        """The numbers behind the draws of key / 0, key / 1, ..., for a program that draws by itself (`drawn`).

        None where choices are no hash.
        """
        if not isinstance(self.choices, HashChoices):
            return None
        if self.sampling.greedy:
            return _no_numbers(count)
        return torch.from_numpy(key.uniforms(count))


@lru_cache(maxsize=64)
def _no_numbers(count: int) -> Float[Tensor, "K 0"]:
    """What greedy choices need: nothing, for each of them."""
    return torch.empty(count, 0, dtype=torch.float64)


def drawn(
    logits: Float[Tensor, "*batch V"], sampling: Sampling, uniform: Float[Tensor, "*batch"] | None
) -> Int[Tensor, "*batch"]:
    """Return what `Sampler.draw` draws from these logits.

    uniform: the random numbers behind the choices. A greedy choice needs none.
    """
    if sampling.greedy or uniform is None:
        return logits.argmax(-1)
    return invert(warp(logits, sampling), uniform)
