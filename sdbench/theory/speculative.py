"""Formulas of synchronous speculative decoding: tokens per round, and throughput.

PyramidSD's model (arXiv 2510.12966; the equations come from secondary sources) gives the throughput of a stage in tokens per
second. Here beta is the share of a round's l + 1 places that yield a token. V is the speed of a model that decodes alone.

    V_SD      = beta_TD (l_D + 1) / (l_D / V_D  + 1 / V_T)
    V_QD      = beta_QD (l_D + 1) / (l_D / V_D  + 1 / V_Q)
    V_pyramid = beta_TQ (l_Q + 1) / (l_Q / V_QD + 1 / V_T)

A pyramid is a stage over a stage, so one function states all three lines.
"""

from __future__ import annotations

from collections.abc import Mapping


def speculative_throughput(beta: float, length: float, draft_speed: float, verifier_speed: float) -> float:
    """Return V_SD, the tokens per second of one proposer under one verifier. All speeds are in tokens per second.

    Args:
        beta: share of the length + 1 places of a round that yield a token, in 1 / (length + 1) .. 1.
        length: drafted tokens per round.
        draft_speed: of the proposer, which may itself be a verified pair.
        verifier_speed: of the verifier when it decodes alone.
    """
    return beta * (length + 1) / (length / draft_speed + 1 / verifier_speed)


def expected_tokens(acceptance: float, length: int) -> float:
    """Return the tokens per round if each drafted token passes with probability a: (1 - a^(K+1)) / (1 - a).

    acceptance: a, in [0, 1]. length: K drafted tokens. Source: Leviathan et al., 2211.17192, equation 1.
    """
    return float(length + 1) if acceptance == 1 else (1 - acceptance ** (length + 1)) / (1 - acceptance)


def rounds_until(wanted: int, yields: Mapping[int, float]) -> float:
    """Return the expected number of rounds until their yields add up to `wanted` tokens (a renewal sum).

    Args:
        wanted: tokens, 0 or more.
        yields: the law of a round's yield, {tokens >= 1: probability}.
    """
    expected = [0.0]
    for missing in range(1, wanted + 1):
        expected.append(1 + sum(p * expected[max(missing - n, 0)] for n, p in yields.items()))
    return expected[wanted]
