"""Divergences: known values, and what holds for all distributions."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.acceptance import DIVERGENCES, Divergence, Draft, ProposalKind
from sdbench.acceptance.divergence import OVER_DISTRIBUTIONS
from sdbench.sampling import Sampling, Scored

from .definitions import buckets, fsd_js, kl, total_variation, true_js

BY_HAND = {"js": true_js, "js_fsd_code": fsd_js, "kl_pq": kl, "kl_qp": lambda p, q: kl(q, p), "tv": total_variation}
T1 = Sampling(temperature=1.0)

weights = st.lists(st.floats(1e-6, 1.0), min_size=5, max_size=5)


def of(name, p, q, token=0, top_k=None, sampling=T1, warped=False):
    """The divergence of two distributions (lists), through the class."""
    logits = [torch.tensor(side, dtype=torch.float64).log()[None, None] for side in (p, q)]
    draft = Draft(torch.tensor([[token]]), torch.tensor([1]), Scored(logits[1], sampling), ProposalKind.SAMPLED)
    verifier = Scored(torch.cat([logits[0], logits[0]], 1), sampling)
    return Divergence(name, top_k, warped)(draft, verifier).item()


@pytest.mark.parametrize(
    ("p", "q", "js", "code", "tv", "kl_qp"),
    [
        ((0.9, 0.1), (0.5, 0.5), 0.102, 0.118, 0.40, 0.51),
        ((0.99, 0.01), (0.5, 0.5), 0.193, 0.370, 0.49, 1.61),
        ((0.999, 0.001), (0.001, 0.999), 0.685, 2.76, 0.998, 6.9),
    ],
)
def test_known_values(p, q, js, code, tv, kl_qp):
    assert of("js", p, q) == pytest.approx(js, abs=6e-4)
    assert of("js_fsd_code", p, q) == pytest.approx(code, abs=6e-3)
    assert of("tv", p, q) == pytest.approx(tv, abs=6e-4)
    assert of("kl_qp", p, q) == pytest.approx(kl_qp, abs=6e-2 if kl_qp > 5 else 6e-3)


@settings(max_examples=60, deadline=None)
@given(weights, weights)
def test_they_are_what_plain_python_says_and_not_negative(p, q):
    p, q = ([w / sum(side) for w in side] for side in (p, q))
    for name, by_hand in BY_HAND.items():
        value = of(name, p, q)
        assert value == pytest.approx(by_hand(p, q), abs=1e-9)
        assert value >= -1e-12
    assert of("js", p, q) <= math.log(2) + 1e-12
    assert of("js", p, q) <= of("tv", p, q) * math.log(2) + 1e-12
    assert of("js", p, q) == pytest.approx(of("js", q, p), abs=1e-12)
    assert of("kl_pq", p, q) >= 2 * of("tv", p, q) ** 2 - 1e-9  # Pinsker
    assert of("abs_logprob", p, q, 2) == pytest.approx(abs(math.log(p[2] / q[2])), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(weights, weights, st.integers(1, 5), st.integers(0, 4))
def test_over_the_top_k(p, q, k, token):
    p, q = ([w / sum(side) for w in side] for side in (p, q))
    if len(set(p)) < 5:
        return  # which of equals is among the top k is open
    coarse = buckets(p, q, k) if k < 5 else (p, q)
    for name, by_hand in BY_HAND.items():
        assert of(name, p, q, token, top_k=k) == pytest.approx(by_hand(*coarse), abs=1e-9)
        assert of(name, p, q, token, top_k=k) <= of(name, p, q) + 1e-9  # summing up never moves things apart
    order = sorted(range(5), key=lambda i: -p[i])
    at = order.index(token) if token in order[:k] else k
    expected = abs(math.log(p[token] / q[token])) if k == 5 else abs(math.log(coarse[0][at] / coarse[1][at]))
    for name in ("abs_logprob", "abs_logit"):
        assert of(name, p, q, token, top_k=k) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
@settings(max_examples=20, deadline=None)
@given(weights)
def test_zero_between_equals(name, p):
    assert of(name, [w / sum(p) for w in p], [w / sum(p) for w in p]) == pytest.approx(0, abs=1e-12)


def test_between_disjoint_distributions():
    p, q = (0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.3, 0.7)
    assert of("js", p, q) == pytest.approx(math.log(2))
    assert of("tv", p, q) == pytest.approx(1)
    for name in ("js_fsd_code", "kl_pq", "kl_qp", "abs_logprob", "abs_logit"):
        assert of(name, p, q, 2) == math.inf


def test_warped_or_not():
    cold = Sampling(temperature=0.5)
    p, q = (0.9, 0.1), (0.6, 0.4)
    sharp = [[w**2 / sum(v**2 for v in side) for w in side] for side in (p, q)]
    assert of("js", p, q, sampling=cold) == pytest.approx(true_js(p, q))
    assert of("js", p, q, sampling=cold, warped=True) == pytest.approx(true_js(*sharp))


@pytest.mark.parametrize("name", OVER_DISTRIBUTIONS)
def test_a_probability_too_small_for_its_type_is_not_zero(name):
    logits = torch.tensor([[[0.0, -200.0]]])
    draft = Draft(torch.tensor([[0]]), torch.tensor([1]), Scored(logits, T1), ProposalKind.SAMPLED)
    value = Divergence(name)(draft, Scored(torch.tensor([[[0.0, -100.0], [0.0, 0.0]]]), T1))
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_of_a_deterministic_draft():
    """q is one-hot: js is bounded, KL(q||p) is the surprise, what the code computes is infinite."""
    p = torch.tensor([[[0.7, 0.2, 0.1]] * 2], dtype=torch.float64).log()
    draft = Draft(torch.tensor([[1]]), torch.tensor([1]), None, ProposalKind.DETERMINISTIC)
    value = {name: Divergence(name)(draft, Scored(p, T1)).item() for name in DIVERGENCES}
    assert value["tv"] == pytest.approx(0.8)
    assert value["kl_qp"] == pytest.approx(-math.log(0.2))
    assert value["js"] == pytest.approx(true_js([0.7, 0.2, 0.1], [0.0, 1.0, 0.0]))
    assert value["js_fsd_code"] == value["kl_pq"] == math.inf
