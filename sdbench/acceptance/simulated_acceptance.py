"""SIMULATED acceptance at a given rate: the cost of a system whose draft has that quality.

The rule tests no token. Each drafted token passes with the same probability a, given that the tokens before it did. The choice of
a keeps the share `rate` of n drafted tokens in the mean:

    (a + a^2 + ... + a^n) / n = rate.

So `rate` is the acceptance rate that the bench reports, accepted / proposed, and not a. The verifier's own token follows. The text
is meaningless, so no quality is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from sdbench.acceptance.base import Law, Memoryless, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.device import put
from sdbench.errors import InputError
from sdbench.sampling import Scored
from sdbench.validate import number

_BISECTIONS = 60  # down to the last bit of a double


class Forced(Memoryless):
    """Keep drafted tokens at a rate. rate: accepted / proposed. Reads neither p nor q, and is drawn at temperature 0 too."""

    simulated = True

    def __init__(self, rate: float = 0.8) -> None:
        self.rate = number("forced.rate", rate, 0, 1)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        longest = draft.tokens.shape[1]
        return _kept(draft, p, [[chance(self.rate, n)] * longest for n in range(longest + 1)])


class ForcedLength(Memoryless):
    """Keep drafted tokens so that a verification gives `mean` tokens in the mean, the target's own included.

    mean: at least 1. A draft too short for it is kept whole.
    """

    simulated = True

    def __init__(self, mean: float = 2.0) -> None:
        self.mean = number("forced.mean", mean, 1)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        longest = draft.tokens.shape[1]
        chances = [chance(min((self.mean - 1) / max(n, 1), 1.0), n) for n in range(longest + 1)]
        return _kept(draft, p, [[a] * longest for a in chances])


class ForcedByPosition(Memoryless):
    """Keep the token at each position with a given probability, if all before it were kept.

    rates: by position, from the first one on, such as the `conditional_accept_rates` of a speculation profile. No token is kept
    behind the last of them.
    """

    simulated = True

    def __init__(self, rates: Sequence[float] = (0.8,)) -> None:
        if isinstance(rates, str) or not isinstance(rates, Sequence) or not rates:
            raise InputError(
                f"forced.rates is {rates!r}; it must be a list of probabilities by position, such as [0.8, 0.6]."
            )
        self.rates = [number("forced.rates", rate, 0, 1) for rate in rates]

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        longest = draft.tokens.shape[1]
        rates = [*self.rates, *[0.0] * longest][:longest]
        return _kept(draft, p, [rates] * (longest + 1))


def _kept(draft: Draft, p: Scored, chances: Sequence[Sequence[float]]) -> Law:
    """Return the law that keeps each token with a probability. chances: by the draft's length, then by position."""
    passes = put(torch.tensor(chances, dtype=torch.float64), draft.tokens.device)[draft.length]
    law = tokenwise(draft, p, passes)
    law.drawn = True
    return law


@cache
def chance(rate: float, length: int) -> float:
    """Return the probability a of each test that keeps the share `rate` of `length` drafted tokens in the mean."""
    low, high = 0.0, 1.0
    if rate in (low, high) or not length:
        return rate
    for _ in range(_BISECTIONS):
        tried = (low + high) / 2
        below = sum(tried**n for n in range(1, length + 1)) < rate * length
        low, high = (tried, high) if below else (low, tried)
    return (low + high) / 2
