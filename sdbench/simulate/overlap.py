"""Latency of methods whose draft and target work side by side: published forms, and the same on measured times.

Units: one verification of the target = 1. T_p is the time in which the whole next cache is built, T_b that of the back-up, p_hit
the share of rounds whose speculation was held, E_hit and E_miss the tokens per round of those and of the others.

    theorem 7     speed-up over AR = (p_hit E_hit + (1 - p_hit) E_miss) / (p_hit max(1, T_p) + (1 - p_hit) (1 + T_b))
    corollary 16  a batch of b rows in lock step is held up by any miss: p_hit^b in place of p_hit in the denominator
    corollary 9   bounds on the speed-up over synchronous drafting, which takes T_SD a round

(SSD, 2603.03251.) PEARL (2408.11850) drafts g tokens during each verification. With chance a that a token passes, a token run ends
every 1 / (1 - a) tokens, which takes one round, and a more rounds for each window of g tokens that it passes:

    tokens per round = (1 / (1 - a)) / (1 + a / (1 - a^g)),   a round takes max(g t_d, T_v).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdbench.simulate.formulas import expected_tokens


@dataclass(frozen=True)
class Rounds:
    """What theorem 7 is fed with. t_primary, t_backup: T_p and T_b in units of `t_verify`, which is in seconds."""

    p_hit: float
    e_hit: float
    e_miss: float
    t_primary: float
    t_backup: float
    t_verify: float = 1.0

    @property
    def tokens(self) -> float:
        """Tokens per round."""
        return self.p_hit * self.e_hit + (1 - self.p_hit) * self.e_miss


def theorem_7(rounds: Rounds, batch: float = 1) -> float:
    """Speed-up over autoregressive decoding: tokens per verification time. batch: rows in lock step (corollary 16)."""
    together = rounds.p_hit**batch
    return rounds.tokens / (together * max(1.0, rounds.t_primary) + (1 - together) * (1 + rounds.t_backup))


def corollary_9(p_hit: float, e_hit: float, e_sd: float, t_sd: float) -> tuple[float, float]:
    """Bounds on the speed-up over synchronous speculative decoding, whose drafting takes t_sd a round."""
    gain = e_hit / e_sd
    return (1 + t_sd) / (1 + t_sd * (1 - p_hit)) * gain, (1 + t_sd) * gain


def stationary_hit_rate(after_hit: float, after_miss: float) -> float:
    """p_hit of the chain whose next speculation is held with these chances after a hit and after a miss."""
    return after_miss / (1 - after_hit + after_miss) if after_hit < 1 or after_miss > 0 else 1.0


def crossover_batch(p_hit: float, n_neural: float, n_fast: float, t_neural: float) -> float:
    """b* of theorem 17: from this batch size on a back-up of no cost beats the neural one, which takes t_neural.

    n_neural, n_fast: tokens per round under each. Infinite where the neural one always wins.
    """
    gain = n_neural / n_fast - 1
    if gain <= 0:
        return 0.0
    return math.inf if gain >= t_neural else math.log(1 - gain / t_neural) / math.log(p_hit)


def best_draft_length(t_verify: float, t_glue: float, t_tree: float) -> int:
    """The longest draft whose cache is built within a verification: floor((T_v - T_glue) / t_tree), 1 at least."""
    return max(1, math.floor((t_verify - t_glue) / t_tree))


def sd_speedup(acceptance: float, length: int, cost: float) -> float:
    """Synchronous speculative decoding over AR where a verification costs what one token does: E / (1 + c K)."""
    return expected_tokens(acceptance, length) / (1 + cost * length)


def pearl_tokens_per_round(acceptance: float, window: int) -> float:
    """PEARL's tokens per round."""
    if acceptance >= 1:
        return float(window)
    return (1 / (1 - acceptance)) / (1 + acceptance / (1 - acceptance**window))


def pearl_speedup(acceptance: float, window: int, t_draft: float, t_verify: float, t_target: float) -> float:
    """PEARL over AR: t_draft and t_target of one token, t_verify of the window."""
    return pearl_tokens_per_round(acceptance, window) * t_target / max(window * t_draft, t_verify)


def dsi_segment(acceptance: float, length: int, t_draft: float, t_target: float) -> tuple[float, float]:
    """DSI (2405.14105) with servers enough: tokens and seconds from one rejection to the next."""
    return 1 / (1 - acceptance), t_target + length * t_draft / (1 - acceptance**length)
