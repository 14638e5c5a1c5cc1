"""Keyed randomness: every random choice is a stateless function of its name.

Every random choice goes through one call, `Choices.choose(probs, key)`. In a run, a hash of the `Key` gives the uniform number
behind a choice. So the same seed gives the same tokens, whatever the batch size, the order of the arms or the number of
processes. The exactness oracle (`sdbench.exactness`) replaces the hash by a walk through all outcomes. It therefore sees what
the same code samples from.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.device import upload


@dataclass(frozen=True)
class Key:
    """The name of a random choice, one for each of the B rows of a batch.

    streams: [B] uint64, a hash of (seed, prompt, repeat).
    rounds: [B], the number of the row's round; -1 before the first.
    path: the rest of the name: stage, inner round, branch, depth, purpose. Each part is a small number or a word.
    """

    streams: np.ndarray
    rounds: np.ndarray | list[int]
    path: tuple[int | str, ...] = ()

    def __truediv__(self, name: int | str) -> Key:
        """Return a key one level deeper: `key / "draft" / depth`."""
        return Key(self.streams, self.rounds, (*self.path, name))

    def uniform(self) -> np.ndarray:
        """Return [B] float64 numbers in [0, 1), a stateless hash of the key."""
        rounds = np.asarray(self.rounds, np.int64).astype(np.uint64)
        mixed = _mix(_mix(self.streams ^ _mix(rounds)) ^ np.uint64(_word(self.path)))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniforms(self, count: int) -> np.ndarray:
        """Return [count, B], the numbers of key / 0, key / 1, ..."""
        return np.stack([(self / index).uniform() for index in range(count)])


def stream(seed: int, prompt: str, repeat: int) -> int:
    """Return the random stream of one prompt: a 64-bit hash of (seed, prompt, repeat)."""
    digest = hashlib.blake2b(repr((seed, prompt, repeat)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _word(path: tuple[int | str, ...]) -> int:
    """Hash a path to 64 bits."""
    names = tuple(name if isinstance(name, str) else int(name) for name in path)
    return int.from_bytes(hashlib.blake2b(repr(names).encode(), digest_size=8).digest(), sys.byteorder)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatter 64-bit words by the finaliser of splitmix64, a bijection (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class Choices(Protocol):
    """Where the outcomes of random choices come from."""

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        """Draw one index per row from its weights.

        probs: weights of any total. An outcome of weight 0 is never drawn.
        """
        ...


class HashChoices:
    """Draws by inversion of a uniform number that is a hash of the key."""

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        return invert(probs, upload(key.uniform(), probs.device))


def invert(probs: Float[Tensor, "*batch V"], uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Return the index at which the running sum of `probs` (any total) exceeds the share `uniform` of the total."""
    # The sum needs float64: in float32, over 10^5 tokens, it is off by more than many tokens weigh.
    mass = probs.double().cumsum(-1)
    total = mass[..., -1:]
    # The level may round up to the total, which no running sum exceeds. The number just below finds the last positive weight.
    level = torch.minimum(uniform[..., None] * total, torch.nextafter(total, torch.full_like(total, -torch.inf)))
    return torch.searchsorted(mass, level, right=True)[..., 0]
