"""Fan-outs: how many tokens the draft speculates for behind each accepted length (SSD, 2603.03251).

A speculation of K tokens ends in an outcome (k, t): k accepted tokens, then the verifier's own token t. The cache holds the F_k
most likely t at each k. `sdbench.theory.ssd` has the power law of the paper and theorem 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sdbench import validate
from sdbench.errors import InputError
from sdbench.theory.ssd import best_fan_out, capped, fit_exponent, geometric_fan_out, outcome_law

PRIOR_ACCEPTANCE, PRIOR_EXPONENT = 0.8, 1.0  # our choice: the start of online estimation
PRIOR_WEIGHT = 8  # outcomes
FEWEST_OUTCOMES = 32  # before an estimate replaces the priors


class FanOut(Protocol):
    """Choose how many outcomes the server speculates for at each accepted length."""

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        """Return F_0 .. F_length behind a speculation of `length` tokens from the cache (hit) or from the back-up."""
        ...

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        """Learn from an outcome: `accepted` of `length` tokens, and the rank (from 1) of the next token in the draft's order."""
        ...


class Uniform:
    """Use the same fan-out, `per_length`, at every accepted length."""

    def __init__(self, per_length: int = 3) -> None:
        validate.whole("fan_out.per_length", per_length, 1)
        self.per_length = per_length

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        return capped([self.per_length] * (length + 1), vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class Listed:
    """Use explicit lists F_0 .. F_K. after_miss: the list behind a back-up's speculation (None: the same list)."""

    def __init__(self, after_hit: Sequence[int], after_miss: Sequence[int] | None = None) -> None:
        self.lists = {True: list(after_hit), False: list(after_hit if after_miss is None else after_miss)}
        for values in self.lists.values():
            if not values or any(not isinstance(value, int) or value < 0 for value in values) or sum(values) < 1:
                raise InputError(f"fan_out: {values} must be a list of whole numbers, at least one of them positive.")

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        values = self.lists[hit]
        if length >= len(values):
            raise InputError(f"fan_out has {len(values)} entries; a draft of {length} tokens needs {length + 1}.")
        return capped([*values[:length], values[-1]], vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class Geometric:
    """Use theorem 12 in whole numbers, under a budget.

    acceptance, exponent: a and r of the formula. None: estimate it from the outcomes so far, separately behind hits and misses.
    """

    def __init__(self, budget: int = 24, acceptance: float | None = None, exponent: float | None = None) -> None:
        validate.whole("fan_out.budget", budget, 1)
        if acceptance is not None:
            validate.number("fan_out.acceptance", acceptance, 0, 1, bounds="()")
        if exponent is not None:
            validate.number("fan_out.exponent", exponent, 0, bounds="()")
        self.budget, self.acceptance, self.exponent = budget, acceptance, exponent
        self._seen = {True: _Outcomes(), False: _Outcomes()}
        self._made: dict[tuple[int, int, bool, int], tuple[int, ...]] = {}

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        seen = self._seen[hit]
        key = (length, vocab, hit, seen.epoch)
        if key not in self._made:
            a = seen.acceptance if self.acceptance is None else self.acceptance
            r = seen.exponent if self.exponent is None else self.exponent
            self._made[key] = geometric_fan_out(a, r, length, self.budget, vocab)
        return self._made[key]

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        # An outcome behind an empty speculation, such as a prompt, tells nothing about speculations with tokens.
        if length and (self.acceptance is None or self.exponent is None):
            self._seen[hit].add(length, accepted, rank)


class Learned:
    """Use the best fan-out under a budget for the ranks seen so far at each accepted length. It assumes no law.

    The power law with the priors counts as the first `PRIOR_WEIGHT` outcomes. The fan-out is computed anew each time that the
    number of outcomes has doubled, separately behind hits and misses.
    """

    def __init__(self, budget: int = 24) -> None:
        validate.whole("fan_out.budget", budget, 1)
        self.budget = budget
        self._seen: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self._made: dict[tuple[int, int, bool], tuple[int, tuple[int, ...]]] = {}

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        seen = self._seen.get((length, hit), [])
        due, made = self._made.get((length, vocab, hit), (0, ()))
        if len(seen) >= due:
            made = best_fan_out(*self._tables(length, seen), capped([self.budget] * (length + 1), vocab), self.budget)
            self._made[length, vocab, hit] = (max(2 * len(seen), FEWEST_OUTCOMES), made)
        return made

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        self._seen.setdefault((length, hit), []).append((accepted, rank))

    def _tables(self, length: int, seen: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return P(k), and the share of outcomes at each k with a rank of at most F = 0 .. budget."""
        widths = np.arange(self.budget + 1)
        prior = 1 - np.maximum(widths, 1.0) ** -PRIOR_EXPONENT
        law = PRIOR_WEIGHT * outcome_law(PRIOR_ACCEPTANCE, length)
        held = np.outer(law, prior)
        for kept, rank in seen:
            law[kept] += 1
            held[kept] += rank <= widths
        return law / law.sum(), held / law[:, None]


class _Outcomes:
    """Count outcomes. The estimates change each time that the number of outcomes has doubled."""

    def __init__(self) -> None:
        self.kept = self.rejected = self.epoch = 0
        self.ranks: list[int] = []
        self.acceptance, self.exponent = PRIOR_ACCEPTANCE, PRIOR_EXPONENT

    def add(self, length: int, accepted: int, rank: int) -> None:
        self.kept += accepted
        self.rejected += accepted < length
        self.ranks.append(rank)
        if len(self.ranks) >= FEWEST_OUTCOMES << self.epoch:
            self.epoch += 1
            self.acceptance = min(max(self.kept / max(self.kept + self.rejected, 1), 0.01), 0.99)
            self.exponent = fit_exponent(self.ranks)


def branch_slots(fan_out: FanOut, length: int, vocab: int) -> int:
    """Return the cache slots that the branches of a row take, for drafts of `length` tokens."""
    return length * widest(fan_out, length, vocab)


def widest(fan_out: FanOut, length: int, vocab: int) -> int:
    """Return the largest number of branches behind a speculation of up to `length` tokens."""
    return max(sum(fan_out.counts(n, vocab, hit)) for n in range(length + 1) for hit in (True, False))
