"""From logits to distributions, and from distributions to choices.

A model returns logits. `warp` turns them into the distribution that tokens are sampled from:

    softmax(logits / temperature), restricted to the `top_k` most likely tokens and then to the smallest set whose mass
    reaches `top_p`, and renormalised. At temperature 0 all mass is on the most likely token.

`sdbench.keyed_random` makes the random choices.

Shapes: *batch any leading dimensions, B rows, K draws, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.device import at_hand
from sdbench.errors import InputError
from sdbench.keyed_random import Choices, HashChoices, Key, invert

FEW = 2048  # logits; for fewer, the call to numpy takes longer than it saves
SMALLEST = float(torch.finfo(torch.float32).tiny)  # a positive temperature; smaller ones may count as 0
_COLD = 1e-20  # temperatures below which logits are shifted before they are divided


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    temperature: 0 is greedy. top_k: keep the k most likely tokens (0: all). top_p: keep the smallest set of tokens
    whose mass is at least top_p (1: all).

    Raises:
        InputError: a value lies outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"sampling.temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")
        if 0 < self.temperature < SMALLEST:
            raise InputError(
                f"sampling.temperature is {self.temperature}, which float32 cannot hold; take 0 for greedy decoding, or at least "
                f"{SMALLEST:.3g}."
            )
        if self.top_k < 0:
            raise InputError(f"sampling.top_k is {self.top_k}; it must be 0 (off) or a positive whole number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling.top_p is {self.top_p}; it must lie in (0, 1].")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def warp(logits: Float[Tensor, "*batch V"], sampling: Sampling) -> Float[Tensor, "*batch V"]:
    """Return the distribution that tokens are sampled from, in float32 (float64 stays float64)."""
    if sampling.greedy:
        best = most_likely(logits)[..., None]
        return torch.zeros(logits.shape, dtype=_wide(logits), device=logits.device).scatter_(-1, best, 1.0)
    logits = logits.to(_wide(logits))
    if sampling.temperature < _COLD:  # the quotients of large logits would be infinite
        logits = logits - logits.amax(-1, keepdim=True)
    logits = logits / sampling.temperature
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


def most_likely(logits: Float[Tensor, "*batch V"]) -> Int[Tensor, "*batch"]:
    """Return the index of the largest logit, the first among equals."""
    if logits.numel() > FEW and at_hand(logits) and logits.dtype in (torch.float32, torch.float64):
        # On a CPU numpy's argmax over a vocabulary takes a tenth of the time of torch's.
        return torch.from_numpy(np.asarray(logits.numpy().argmax(-1)))
    return logits.argmax(-1)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model says about some positions: its logits, and the distributions made from them on demand.

    logits: [*batch, V] as the model gave them. sampling: how they are warped.
    """

    logits: Float[Tensor, "*batch V"]
    sampling: Sampling

    @cached_property
    def best(self) -> Int[Tensor, "*batch"]:
        """The most likely tokens."""
        return most_likely(self.logits)

    @cached_property
    def probs(self) -> Float[Tensor, "*batch V"]:
        """The distributions after warping."""
        return warp(self.logits, self.sampling)

    @cached_property
    def plain(self) -> Float[Tensor, "*batch V"]:
        """The un-warped softmax at temperature 1, on which most relaxed acceptance rules are defined."""
        return self.logits.to(_wide(self.logits)).softmax(-1)

    def knowing(self, **values: Tensor) -> Scored:
        """Return the same scores with values that are known already: best, probs or plain."""
        scores = Scored(self.logits, self.sampling)
        vars(scores).update(values)  # where cached_property keeps what it has computed
        return scores

    def __getitem__(self, index: Any) -> Scored:
        """Return the scores of the positions that `index` selects (an index over the leading dimensions)."""
        part = Scored(self.logits[index], self.sampling)
        return part.knowing(**{name: value[index] for name, value in self._computed().items()})

    @staticmethod
    def cat(parts: Sequence[Scored], dim: int) -> Scored:
        """Join scores along a leading dimension."""
        if len(parts) == 1:
            return parts[0]
        computed = [part._computed() for part in parts]
        shared = set.intersection(*map(set, computed))
        whole = Scored(torch.cat([part.logits for part in parts], dim), parts[0].sampling)
        return whole.knowing(**{name: torch.cat([part[name] for part in computed], dim) for name in shared})

    def _computed(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if name in ("best", "probs", "plain")}


class Sampler:
    """Scores logits and draws tokens under one `Sampling`, with one source of choices."""

    def __init__(self, sampling: Sampling, choices: Choices | None = None) -> None:
        self.sampling = sampling
        self.choices: Choices = choices or HashChoices()

    def score(self, logits: Float[Tensor, "*batch V"], best: Int[Tensor, "*batch"] | None = None) -> Scored:
        """Score logits. best: their most likely tokens, if a program has computed them."""
        scored = Scored(logits, self.sampling)
        return scored if best is None else scored.knowing(best=best)

    def draw(self, scored: Scored, key: Key) -> Int[Tensor, " B"]:
        """Draw one token per row from its warped distribution. Greedy sampling makes no random choice.

        scored: [B, V].
        """
        if self.sampling.greedy:
            return scored.best
        return self.choices.choose(scored.probs, key)

    def uniforms(self, key: Key, count: int) -> Float[Tensor, "K B"] | None:
        """Return the random numbers behind the draws of key / 0, key / 1, ..., for a program that draws itself (`drawn`).

        Returns [count, 0] numbers for greedy sampling, and None if the choices are no hash.
        """
        if not isinstance(self.choices, HashChoices):
            return None
        if self.sampling.greedy:
            return torch.empty(count, 0, dtype=torch.float64)
        return torch.from_numpy(key.uniforms(count))


def drawn(
    logits: Float[Tensor, "*batch V"], sampling: Sampling, uniform: Float[Tensor, "*batch"] | None
) -> Int[Tensor, "*batch"]:
    """Return what `Sampler.draw` draws from these logits.

    uniform: the random numbers behind the choices. A greedy choice needs none.
    """
    if sampling.greedy or uniform is None:
        return logits.argmax(-1)
    return invert(warp(logits, sampling), uniform)
