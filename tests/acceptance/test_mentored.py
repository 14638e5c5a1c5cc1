"""Mentored decoding: its stream is q clipped around p, within the budget, and nothing in the budget keeps more."""

import itertools
import math

import pytest
import torch

from sdbench.acceptance import Exact, Mentored
from sdbench.sampling import Sampling, Scored

from .definitions import kl
from .enumeration import SAMPLINGS, WORLDS, Place, by_hand, distance, first, rest, round_law

T1 = Sampling(temperature=1.0)


def clipped(p, q, alpha):
    """(beta, pi) for one alpha, with beta found by bisection of sum(pi) = 1."""
    low, high = 1.0, 1e6
    for _ in range(200):
        beta = (low + high) / 2
        total = sum(min(max(b, a / beta), a / alpha) for a, b in zip(p, q, strict=True))
        low, high = (beta, high) if total > 1 else (low, beta)
    return low, [min(max(b, a / low), a / alpha) for a, b in zip(p, q, strict=True)]


def solve(p, q, budget, tolerance=0.2):
    """(alpha, beta, pi), as the notebook's bisection finds them."""
    if kl(p, q) <= budget * (1 + tolerance):
        return 0.0, math.inf, q
    low, high, best = 0.0, 1.0, (1.0, 1.0, p)
    for _ in range(10):
        alpha = (low + high) / 2
        if not any(b > a / alpha for a, b in zip(p, q, strict=True)):
            low = alpha  # nothing is clipped: pi is q, which is too far
            continue
        beta, pi = clipped(p, q, alpha)
        apart = kl(p, pi)
        if apart < budget * (1 - tolerance):
            high, best = alpha, (alpha, beta, pi)
        elif apart > budget * (1 + tolerance):
            low = alpha
        else:
            return alpha, beta, pi
    return best


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.5])
def test_the_stream_is_q_clipped_around_p(budget):
    def accept(at):
        alpha, _, _ = solve(at.p, at.q, budget)
        return 1.0 if alpha == 0 else min(1.0, at.p[at.x] / (alpha * at.q[at.x]))

    def replace(at):
        _, beta, _ = solve(at.p, at.q, budget)
        return rest([a / beta for a in at.p], at.q)

    seen, rejected = set(), 0.0
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            said = round_law(Mentored(budget), world, 2, sampling)
            assert distance(said, by_hand(accept, replace, world, 2, sampling)) < 1e-9
            rejected = max(rejected, distance(said, by_hand(accept, lambda at: at.p, world, 2, sampling)))
            at = Place(0, world[0](()), world[1](()), sampling)
            alpha, _, pi = solve(at.p, at.q, budget)
            out = first(said, world[0].V)
            assert out == pytest.approx(pi, abs=1e-9)
            assert sum(out) == pytest.approx(1, abs=1e-12)
            assert kl(at.p, out) <= budget * 1.2 + 1e-9
            if 0 < alpha < 1 and kl(at.p, out) >= budget * 0.8:
                seen.add("within")
            if alpha == 0:
                seen.add("all kept")
    assert rejected > 1e-3
    assert seen == {"within", "all kept"}


def test_no_distribution_in_the_budget_keeps_more():
    p, q = [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]
    scores = [Scored(torch.tensor(side, dtype=torch.float64).log()[None, None], T1) for side in (p, q)]
    alpha, beta = (bound.item() for bound in Mentored(0.1, tolerance=0.01).bounds(*(side.probs for side in scores)))
    pi = [min(max(b, a / beta), a / alpha) for a, b in zip(p, q, strict=True)]
    kept = sum(map(min, pi, q))
    steps = [i / 100 for i in range(1, 100)]
    others = ([a, b, 1 - a - b] for a, b in itertools.product(steps, steps) if a + b < 0.995)
    assert all(sum(map(min, other, q)) <= kept + 1e-9 for other in others if kl(p, other) <= 0.0985)


def test_no_budget_is_the_exact_rule():
    for world in WORLDS.values():
        said = round_law(Mentored(0), world, 2, T1)
        assert distance(said, round_law(Exact(), world, 2, T1)) < 1e-12


def test_it_holds_over_a_large_vocabulary_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(4, 2, 5000, generator=generator)).softmax(-1)
    q = (p.log() + 0.8 * torch.randn(4, 2, 5000, generator=generator)).softmax(-1)
    alpha, beta = Mentored(0.1).bounds(p, q)
    pi = torch.minimum(torch.maximum(q, p / beta[..., None]), p / alpha[..., None])
    torch.testing.assert_close(pi.sum(-1), torch.ones(4, 2), atol=1e-4, rtol=0)
    apart = (p * (p / pi).log()).sum(-1)
    assert ((apart > 0.08 - 1e-4) & (apart < 0.12 + 1e-4)).all()
