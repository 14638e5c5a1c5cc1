"""From logits to distributions, and from distributions to choices.

A model gives logits. `warp` turns them into the distribution that is sampled from:

    softmax(logits / temperature), restricted to the `top_k` most likely tokens and then to the smallest set whose mass
    reaches `top_p`, and renormalised; at temperature 0 all mass lies on the most likely token.

Every random choice of every part of the bench goes through one call, `Choices.choose(probs, key)`. In a run the uniform
number behind a choice is a stateless hash of its `Key`, so the same seed gives the same tokens whatever the batch size,
the order of the arms or the number of processes. The exactness oracle (`sdbench.exactness`) puts a walk through all
outcomes in the hash's place, and so sees what the very same code samples from.
"""

from __future__ import annotations

import hashlib
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.lm.device import at_hand, upload


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
SHORT = 64  # outcomes: up to so many, plain numbers do


def most_likely(logits: Float[Tensor, "*batch V"]) -> Int[Tensor, "*batch"]:
    """The index of the largest, the first among equals. Of many on a CPU by numpy, which is ten times as fast there as torch."""
    if logits.numel() > FEW and _for_numpy(logits):
        return torch.from_numpy(np.asarray(logits.numpy().argmax(-1)))
    return logits.argmax(-1)


def _for_numpy(values: Tensor) -> bool:
    return at_hand(values) and values.dtype in (torch.float32, torch.float64)


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


@dataclass(frozen=True)
class Key:
    """The name of a random choice, one for each row of the batch.

    streams: [B] uint64, a hash of (seed, prompt, repeat). rounds: [B], the row's round. path: what else names the
    choice: stage, inner round, branch, depth, purpose, each a small number or a word.
    """

    streams: np.ndarray
    rounds: np.ndarray | list[int]
    path: tuple[int | str, ...] = ()
    _rows: list[int] = field(default_factory=list, repr=False, compare=False)  # hashed once for all that is named below

    def __truediv__(self, name: int | str) -> Key:
        """A key one level deeper: `key / "draft" / depth`."""
        return Key(self.streams, self.rounds, (*self.path, name), self._rows)

    def numbers(self) -> list[float]:
        """[B] numbers in [0, 1): a stateless hash of the key."""
        if not self._rows:
            names = zip(self.streams.tolist(), map(int, self.rounds), strict=True)
            self._rows.extend(_mix(stream ^ _mix(number & _64_BITS)) for stream, number in names)
        word = _word(self.path)
        return [(_mix(row ^ word) >> 11) * 2.0**-53 for row in self._rows]

    def uniform(self) -> np.ndarray:
        """`numbers` as [B] float64."""
        return np.array(self.numbers())

    def uniforms(self, count: int) -> np.ndarray:
        """[count, B], the numbers of key / 0, key / 1, ..."""
        return np.array([(self / index).numbers() for index in range(count)])


@lru_cache(maxsize=4096)
def _word(path: tuple[int | str, ...]) -> int:
    """A 64-bit hash of a path; the same ones come in every round."""
    names = tuple(name if isinstance(name, str) else int(name) for name in path)
    return int.from_bytes(hashlib.blake2b(repr(names).encode(), digest_size=8).digest(), sys.byteorder)


def stream(seed: int, prompt: str, repeat: int) -> int:
    """The random stream of one prompt: a 64-bit hash of (seed, prompt, repeat)."""
    digest = hashlib.blake2b(repr((seed, prompt, repeat)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


_64_BITS = 2**64 - 1


def _mix(x: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that scatters them well.

    In plain numbers: for the few rows of a batch arrays of them take ten times as long.
    """
    x = (x + 0x9E3779B97F4A7C15) & _64_BITS
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _64_BITS
    return x ^ (x >> 31)


class Choices(Protocol):
    """Where the outcomes of random choices come from."""

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        """One index per row, row b drawn from probs[b] (need not be normalised; an outcome of weight 0 is never drawn)."""
        ...


class HashChoices:
    """Choices by inversion of a uniform number that is a hash of the key."""

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        if not _for_numpy(probs):
            return invert(probs, upload(key.uniform(), probs.device))
        # The same by bisection of the running sums, in a tenth of the time.
        if probs.shape[-1] <= SHORT:
            mass: list[Any] = [[*accumulate(line)] for line in probs.tolist()]
        else:
            mass = [memoryview(line) for line in probs.cumsum(-1, dtype=torch.float64).numpy()]
        chosen = [_passed(row, share) for row, share in zip(mass, key.numbers(), strict=True)]
        return torch.tensor(chosen)


def _passed(mass: Sequence[float], share: float) -> int:
    """The index at which running sums pass a share of the last."""
    level = share * mass[-1]
    # Where it rounds up to the whole there is no larger sum: the last index that adds to it is meant.
    return bisect_right(mass, level) if level < mass[-1] else bisect_left(mass, mass[-1])


def invert(probs: Float[Tensor, "*batch V"], uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """The index at which the running sum of `probs` (any total) passes the share `uniform` of it."""
    # Double precision: over a vocabulary of 10^5 a float32 running sum is off by more than many tokens weigh.
    mass = probs.double().cumsum(-1)
    level = uniform[..., None] * mass[..., -1:]
    # Where level rounds up to the whole mass there is no larger entry: the last entry of positive weight is meant.
    return torch.minimum((mass <= level).sum(-1), (mass < mass[..., -1:]).sum(-1))


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
    logits: Float[Tensor, "*batch V"], sampling: Sampling, uniform: Float[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """What `Sampler.draw` draws from these logits, given the uniform numbers behind its choices."""
    if sampling.greedy:
        return logits.argmax(-1)
    return invert(warp(logits, sampling), uniform)
