"""Fan-out: for how many tokens behind each accepted length the draft speculates ahead (SSD, 2603.03251).

A speculation of K tokens ends in an outcome (k, t): k tokens kept, k = 0 .. K, then the verifier's own token t. The cache holds the
F_k most likely t at each k; with the power law of the paper (definition 11) the miss at k is F_k^-r, so that

    p_hit = sum_k P(k) (1 - F_k^-r),   P(k) = (1 - a) a^k for k < K,   P(K) = a^K.

Under a budget, sum_k F_k = B, it is largest for F_k ~ P(k)^(1 / (1 + r)) (theorem 12: a geometric series whose last term carries
the whole tail). In whole numbers: one each, then unit by unit to the place that gains most; p_hit is concave in every F_k, so
that is the best there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sdbench import validate
from sdbench.errors import InputError

PRIOR_ACCEPTANCE, PRIOR_EXPONENT = 0.8, 1.0  # of no paper: where online estimation starts
PRIOR_WEIGHT = 8  # outcomes
FEWEST_OUTCOMES = 32  # before an estimate replaces them


class FanOut(Protocol):
    """How many outcomes are speculated for at each accepted length."""

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        """F_0 .. F_length behind a speculation of `length` tokens that came from the cache (hit) or from the back-up."""
        ...

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        """Take note of an outcome: how many of `length` tokens were kept, and where the next token stood in the draft's order."""
        ...


class Uniform:
    """The same number at every accepted length."""

    def __init__(self, per_length: int = 3) -> None:
        validate.whole("fan_out.per_length", per_length, 1)
        self.per_length = per_length

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        return capped([self.per_length] * (length + 1), vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class Listed:
    """Explicit lists, F_0 .. F_K; after_miss: another list behind a back-up's speculation (the same by default)."""

    def __init__(self, after_hit: Sequence[int], after_miss: Sequence[int] | None = None) -> None:
        self.lists = {True: list(after_hit), False: list(after_hit if after_miss is None else after_miss)}
        for values in self.lists.values():
            if not values or any(not isinstance(value, int) or value < 0 for value in values) or sum(values) < 1:
                raise InputError(f"fan_out: {values} is no list of whole numbers, at least one of them positive.")

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        values = self.lists[hit]
        if length >= len(values):
            raise InputError(f"fan_out has {len(values)} entries; a draft of {length} tokens needs {length + 1}.")
        return capped([*values[:length], values[-1]], vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class Geometric:
    """Theorem 12 in whole numbers, under a budget.

    acceptance, exponent: a and r of the formula; one that is not given is estimated from the outcomes so far, those behind hits
    and those behind misses apart.
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
            self._made[key] = geometric(a, r, length, self.budget, vocab)
        return self._made[key]

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        # What follows a speculation of no tokens, such as a prompt, says nothing of those that are made.
        if length and (self.acceptance is None or self.exponent is None):
            self._seen[hit].add(length, accepted, rank)


class Learned:
    """The best fan-out under a budget for the ranks seen so far, place by place: no law is assumed.

    Starts from the power law with the priors, which counts as `PRIOR_WEIGHT` outcomes among those seen. Renewed each time
    that the number of outcomes has doubled, those behind hits and those behind misses apart.
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
            made = best(*self._tables(length, seen), capped([self.budget] * (length + 1), vocab), self.budget)
            self._made[length, vocab, hit] = (max(2 * len(seen), FEWEST_OUTCOMES), made)
        return made

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        self._seen.setdefault((length, hit), []).append((accepted, rank))

    def _tables(self, length: int, seen: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """P(k), and the share of outcomes at each k with a rank of at most F = 0 .. budget."""
        widths = np.arange(self.budget + 1)
        prior = 1 - np.maximum(widths, 1.0) ** -PRIOR_EXPONENT
        law = PRIOR_WEIGHT * outcome_law(PRIOR_ACCEPTANCE, length)
        held = np.outer(law, prior)
        for kept, rank in seen:
            law[kept] += 1
            held[kept] += rank <= widths
        return law / law.sum(), held / law[:, None]


def best(law: np.ndarray, held: np.ndarray, most: Sequence[int], budget: int) -> tuple[int, ...]:
    """The F_0 .. F_K <= most, of sum `budget` if they can be, for which sum_k law[k] held[k, F_k] is most (dynamic programme)."""
    value, taken = np.zeros(budget + 1), []
    for k in range(len(law)):
        gains = law[k] * held[k, : most[k] + 1]
        options = np.full((budget + 1, len(gains)), -np.inf)
        for count, gain in enumerate(gains):
            options[count:, count] = value[: budget + 1 - count] + gain
        taken.append(options.argmax(1))
        value = options.max(1)
    counts, left = [], budget
    for choice in reversed(taken):
        counts.append(int(choice[left]))
        left -= counts[-1]
    counts.reverse()
    # What gains nothing is given out all the same: so the sum, for which room is made, does not grow with what is learned.
    for k in np.argsort(-law, kind="stable").tolist():
        more = min(left, most[k] - counts[k])
        counts[k], left = counts[k] + more, left - more
    return tuple(counts)


class _Outcomes:
    """Running counts of outcomes; estimates are renewed each time that their number has doubled."""

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


def widest(fan_out: FanOut, length: int, vocab: int) -> int:
    """The most branches behind a speculation of up to `length` tokens."""
    return max(sum(fan_out.counts(n, vocab, hit)) for n in range(length + 1) for hit in (True, False))


def capped(counts: Sequence[int], vocab: int) -> tuple[int, ...]:
    """No more than there are: the drafted token itself, at all places but the last, cannot be the verifier's."""
    return (*(min(count, vocab - 1) for count in counts[:-1]), min(counts[-1], vocab))


def outcome_law(acceptance: float, length: int) -> np.ndarray:
    """P(k), k = 0 .. length, when each token passes with probability a."""
    k = np.arange(length + 1)
    return np.where(k < length, (1 - acceptance) * acceptance**k, acceptance**length)


def geometric_real(acceptance: float, exponent: float, length: int, budget: float) -> np.ndarray:
    """Theorem 12's F_0 .. F_length as real numbers."""
    shares = outcome_law(acceptance, length) ** (1 / (1 + exponent))
    return budget * shares / shares.sum()


def geometric(
    acceptance: float, exponent: float, length: int, budget: int, vocab: int | None = None
) -> tuple[int, ...]:
    """The best whole F_0 .. F_length: one each (as far as the budget goes), then each unit where it gains most."""
    law = outcome_law(acceptance, length)
    most = capped([budget] * (length + 1), budget + 1 if vocab is None else vocab)
    counts = np.zeros(length + 1, np.int64)
    for _ in range(min(budget, sum(most))):
        # The first unit of a place gains nothing under the power law; without it the place can gain nothing at all.
        gain = law * (np.maximum(counts, 1.0) ** -exponent - (counts + 1.0) ** -exponent)
        gain = np.where(counts == 0, 1 + law, gain)
        counts[int(np.argmax(np.where(counts < most, gain, -1.0)))] += 1
    return tuple(int(count) for count in counts)


def hit_probability(counts: Sequence[float] | np.ndarray, acceptance: float, exponent: float) -> float:
    """p_hit of a fan-out under the power law."""
    values = np.asarray(counts, float)
    missed = np.where(values > 0, np.maximum(values, 1.0) ** -exponent, 1.0)
    return float((outcome_law(acceptance, len(values) - 1) * (1 - missed)).sum())


def fit_exponent(ranks: Sequence[int], most: int = 32) -> float:
    """r of the power law P(rank > F) = F^-r: least squares through the origin of log-log axes, over F = 2 .. most."""
    values = np.asarray(ranks)
    widths = np.arange(2, most + 1)
    missed = np.array([(values > width).mean() for width in widths])
    kept = missed > 0
    if not kept.any():
        return 4.0  # nothing lies beyond the second rank: a steep law, and a finite one
    x, y = np.log(widths[kept]), np.log(missed[kept])
    return float(min(max(-(x @ y) / (x @ x), 0.05), 4.0))
