"""SIMULATED acceptance at a given rate: the cost of a system whose draft has that quality.

The rule tests no token. Each drafted token passes with the same probability a, given that the tokens before it did. The choice of
a keeps the share `rate` of n drafted tokens in the mean:

    (a + a^2 + ... + a^n) / n = rate.

So `rate` is the acceptance rate that the bench reports, accepted / proposed, and not a. The verifier's own token follows. The text
is meaningless, so no quality is reported.
"""

from __future__ import annotations

from functools import cache

import torch

from sdbench.acceptance.base import Law, Memoryless, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.device import put
from sdbench.sampling import Scored
from sdbench.validate import number

_BISECTIONS = 60  # down to the last bit of a double


class Forced(Memoryless):
    """Keep drafted tokens at a rate. rate: accepted / proposed. Reads neither p nor q, and is drawn at temperature 0 too."""

    simulated = True

    def __init__(self, rate: float = 0.8) -> None:
        self.rate = number("forced.rate", rate, 0, 1)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        K = draft.tokens.shape[1]
        by_length = torch.tensor([chance(self.rate, n) for n in range(K + 1)], dtype=torch.float64)
        passes = put(by_length, draft.tokens.device)[draft.length][:, None].expand(-1, K)
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
