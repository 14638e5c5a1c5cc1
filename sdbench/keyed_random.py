"""Keyed randomness: every random choice is a stateless function of its name.

Every random choice of every part of the bench goes through one call, `Choices.choose(probs, key)`. In a run the uniform
number behind a choice is a hash of its `Key`. So the same seed gives the same tokens, whatever the batch size, the order of the
arms or the number of processes. The exactness oracle (`sdbench.exactness`) replaces the hash by a walk through all outcomes, and
so sees what the very same code samples from.
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

from sdbench.device import at_hand, upload

SHORT = 64  # outcomes; up to this number, plain Python numbers are faster than tensors


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
        if not for_numpy(probs):
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


def for_numpy(values: Tensor) -> bool:
    return at_hand(values) and values.dtype in (torch.float32, torch.float64)
