"""Closed formulas that only tests need: the simulator and the theorems are held against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdbench.theory.speculative import expected_tokens, speculative_throughput
from sdbench.theory.ssd import outcome_law


def geometric_real(acceptance: float, exponent: float, length: int, budget: float) -> np.ndarray:
    """Return theorem 12's F_0 .. F_length as real numbers."""
    shares = outcome_law(acceptance, length) ** (1 / (1 + exponent))
    return budget * shares / shares.sum()


def hit_probability(counts: Sequence[float] | np.ndarray, acceptance: float, exponent: float) -> float:
    """Return p_hit of a fan-out under the power law."""
    values = np.asarray(counts, float)
    missed = np.where(values > 0, np.maximum(values, 1.0) ** -exponent, 1.0)
    return float((outcome_law(acceptance, len(values) - 1) * (1 - missed)).sum())


def sd_speedup(acceptance: float, length: int, cost: float) -> float:
    """Return the speed-up of synchronous decoding if a verification costs as much as one token: E / (1 + c K)."""
    return expected_tokens(acceptance, length) / (1 + cost * length)


def dsi_segment(acceptance: float, length: int, t_draft: float, t_target: float) -> tuple[float, float]:
    """Return the tokens and the seconds from one rejection to the next under DSI (2405.14105), with servers enough."""
    return 1 / (1 - acceptance), t_target + length * t_draft / (1 - acceptance**length)


def pyramid_throughput(
    betas: Sequence[float], lengths: Sequence[float], draft_speed: float, verifier_speeds: Sequence[float]
) -> float:
    """Return V_pyramid of any height: the stages from the draft outwards, one beta, length and verifier speed each."""
    speed = draft_speed
    for beta, length, verifier_speed in zip(betas, lengths, verifier_speeds, strict=True):
        speed = speculative_throughput(beta, length, speed, verifier_speed)
    return speed
