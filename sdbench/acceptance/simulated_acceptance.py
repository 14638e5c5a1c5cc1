"""SIMULATED acceptance at a given rate: what a system would cost with a draft of that quality, whatever the draft says.

No token is looked at. Each drafted token passes with the same probability a, given that those before it did, where a is
such that of n drafted tokens the share `rate` is kept in the mean:

    (a + a^2 + ... + a^n) / n = rate,

so `rate` is the acceptance rate that the bench itself reports, accepted / proposed, and not a. What follows is the verifier's own
token. The stream is nobody's answer: no quality is reported of it.
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
    """rate: accepted / proposed drafted tokens. Reads neither p nor q; drawn at temperature 0 too."""

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
    """The chance a of each test under which the share `rate` of `length` drafted tokens is kept in the mean."""
    low, high = 0.0, 1.0
    if rate in (low, high) or not length:
        return rate
    for _ in range(_BISECTIONS):
        tried = (low + high) / 2
        below = sum(tried**n for n in range(1, length + 1)) < rate * length
        low, high = (tried, high) if below else (low, tried)
    return (low + high) / 2
