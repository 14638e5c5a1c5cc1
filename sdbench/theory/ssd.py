"""Theorems of speculative speculative decoding (SSD, 2603.03251): speed-up, batches, and the fan-out of the cache.

Time is measured in verifications of the target. T_p is the time to build the whole next cache, T_b the time of the back-up.
p_hit is the share of rounds whose speculation the cache held. E_hit and E_miss are the tokens per round after a hit and a miss.

    theorem 7     speed-up over AR = (p_hit E_hit + (1 - p_hit) E_miss) / (p_hit max(1, T_p) + (1 - p_hit) (1 + T_b))
    corollary 9   bounds on the speed-up over synchronous drafting, which takes T_SD a round
    corollary 16  b rows in lock step wait for any miss: the denominator has p_hit^b in place of p_hit
    theorem 17    the batch size from which a back-up of no cost beats the neural one

A speculation of K tokens ends in an outcome (k, t): k accepted tokens, k = 0 .. K, and the verifier's own token t. The cache
holds the F_k most likely tokens at each k. By the paper's power law (definition 11) the miss at k has probability F_k^-r, so

    p_hit = sum_k P(k) (1 - F_k^-r),   P(k) = (1 - a) a^k for k < K,   P(K) = a^K.

    theorem 12    under a budget, sum_k F_k = B, p_hit is largest for F_k ~ P(k)^(1 / (1 + r))

Theorem 12 is a geometric series whose last term carries the whole tail. `geometric_fan_out` states it in whole numbers:
one unit for each k, then unit by unit where it gains most. p_hit is concave in every F_k, so this is the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STEEPEST = 4.0  # the exponent where no rank lies beyond the second: a steep law, and a finite one


@dataclass(frozen=True)
class Rounds:
    """State the inputs of theorem 7. t_primary, t_backup: T_p and T_b in units of `t_verify`, which is in seconds."""

    p_hit: float
    e_hit: float
    e_miss: float
    t_primary: float
    t_backup: float
    t_verify: float = 1.0

    @property
    def tokens(self) -> float:
        """Return the tokens per round."""
        return self.p_hit * self.e_hit + (1 - self.p_hit) * self.e_miss


def theorem_7(rounds: Rounds, batch: float = 1) -> float:
    """Return the speed-up over autoregressive decoding: tokens per verification time. batch: rows in lock step (corollary 16)."""
    together = rounds.p_hit**batch
    return rounds.tokens / (together * max(1.0, rounds.t_primary) + (1 - together) * (1 + rounds.t_backup))


def corollary_9(p_hit: float, e_hit: float, e_sd: float, t_sd: float) -> tuple[float, float]:
    """Return bounds on the speed-up over synchronous speculative decoding, whose drafting takes t_sd a round."""
    gain = e_hit / e_sd
    return (1 + t_sd) / (1 + t_sd * (1 - p_hit)) * gain, (1 + t_sd) * gain


def stationary_hit_rate(after_hit: float, after_miss: float) -> float:
    """Return p_hit of the two-state chain that hits with these probabilities after a hit and after a miss."""
    return after_miss / (1 - after_hit + after_miss) if after_hit < 1 or after_miss > 0 else 1.0


def crossover_batch(p_hit: float, n_neural: float, n_fast: float, t_neural: float) -> float:
    """Return b* of theorem 17: from this batch size on a back-up of no cost beats the neural one, which takes t_neural.

    n_neural, n_fast: tokens per round under each. The result is infinite where the neural back-up always wins.
    """
    gain = n_neural / n_fast - 1
    if gain <= 0:
        return 0.0
    return math.inf if gain >= t_neural else math.log(1 - gain / t_neural) / math.log(p_hit)


def best_draft_length(t_verify: float, t_glue: float, t_tree: float) -> int:
    """Return the longest draft whose cache is built within a verification: floor((T_v - T_glue) / t_tree), 1 at least."""
    return max(1, math.floor((t_verify - t_glue) / t_tree))


def outcome_law(acceptance: float, length: int) -> np.ndarray:
    """Return P(k), k = 0 .. length, when each token passes with probability `acceptance`."""
    k = np.arange(length + 1)
    return np.where(k < length, (1 - acceptance) * acceptance**k, acceptance**length)


def capped(counts: Sequence[int], vocab: int) -> tuple[int, ...]:
    """Limit a fan-out to the possible tokens. Behind a rejection the drafted token itself is impossible."""
    return (*(min(count, vocab - 1) for count in counts[:-1]), min(counts[-1], vocab))


def geometric_fan_out(
    acceptance: float, exponent: float, length: int, budget: int, vocab: int | None = None
) -> tuple[int, ...]:
    """Return theorem 12's F_0 .. F_length in whole numbers.

    acceptance, exponent: a and r. budget: B, the sum of the counts. vocab: the number of tokens (None: no limit).
    """
    law = outcome_law(acceptance, length)
    most = capped([budget] * (length + 1), budget + 1 if vocab is None else vocab)
    counts = np.zeros(length + 1, np.int64)
    for _ in range(min(budget, sum(most))):
        # The first unit at a k gains nothing under the power law. Without it nothing can be gained at this k, so it comes first.
        gain = law * (np.maximum(counts, 1.0) ** -exponent - (counts + 1.0) ** -exponent)
        gain = np.where(counts == 0, 1 + law, gain)
        counts[int(np.argmax(np.where(counts < most, gain, -1.0)))] += 1
    return tuple(int(count) for count in counts)


def fan_out_of(logged: Mapping[str, Any], length: int, budget: int) -> tuple[int, ...]:
    """Return theorem 12's fan-out for the acceptance and the exponent that an arm logged. logged: `ranks` of a summary."""
    return geometric_fan_out(min(max(float(logged["acceptance"]), 0.01), 0.99), logged["exponent"], length, budget)


def best_fan_out(law: np.ndarray, held: np.ndarray, most: Sequence[int], budget: int) -> tuple[int, ...]:
    """Return the F_0 .. F_K <= most that maximise sum_k law[k] held[k, F_k], for any law (dynamic programme).

    law: [K+1] P(k). held: [K+1, budget+1] the share of the outcomes at k that a fan-out of F holds. The counts add up to
    `budget` if `most` allows it.
    """
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
    # Spend the rest of the budget where it gains nothing, too. The sum, and so the number of slots, then stays constant.
    for k in np.argsort(-law, kind="stable").tolist():
        more = min(left, most[k] - counts[k])
        counts[k], left = counts[k] + more, left - more
    return tuple(counts)


def fit_exponent(ranks: Sequence[int], most: int = 32) -> float:
    """Return r of the power law P(rank > F) = F^-r: least squares through the origin of log-log axes, over F = 2 .. most."""
    values = np.asarray(ranks)
    widths = np.arange(2, most + 1)
    missed = np.array([(values > width).mean() for width in widths])
    kept = missed > 0
    if not kept.any():
        return STEEPEST
    x, y = np.log(widths[kept]), np.log(missed[kept])
    return float(min(max(-(x @ y) / (x @ x), 0.05), STEEPEST))
