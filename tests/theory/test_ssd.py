"""SSD's theorems against published test vectors, against simulated rounds, and against search."""

import itertools

import numpy as np
import pytest

from sdbench.theory.speculative import expected_tokens
from sdbench.theory.ssd import (
    Rounds,
    best_draft_length,
    best_fan_out,
    corollary_9,
    crossover_batch,
    geometric_fan_out,
    stationary_hit_rate,
    theorem_7,
)
from tests.theory.forms import geometric_real, hit_probability, sd_speedup

# a, K, c | E_SD, SD | SSD at p_hit .5 .8 .9 1 | with a back-up of no cost and no use at .5 .8 .9
THEOREM_7 = [
    (0.8, 6, 0.1, 3.951, 2.470, (3.040, 3.528, 3.728, 3.951), (2.476, 3.361, 3.656)),
    (0.7, 4, 0.1, 2.773, 1.981, (2.311, 2.568, 2.666, 2.773), (1.887, 2.418, 2.596)),
    (0.9, 6, 0.1, 5.217, 3.261, (4.013, 4.658, 4.922, 5.217), (3.109, 4.374, 4.795)),
    (0.8, 4, 0.2, 3.362, 1.868, (2.401, 2.898, 3.113, 3.362), (2.181, 2.889, 3.125)),
]


@pytest.mark.parametrize(("a", "K", "c", "e", "sd", "neural", "fast"), THEOREM_7)
def test_theorem_7(a, K, c, e, sd, neural, fast):
    assert expected_tokens(a, K) == pytest.approx(e, abs=6e-4)
    assert sd_speedup(a, K, c) == pytest.approx(sd, abs=6e-4)
    for p, wanted in zip((0.5, 0.8, 0.9, 1.0), neural, strict=True):
        assert theorem_7(Rounds(p, e, e, c * K, c * K)) == pytest.approx(wanted, abs=1.5e-3)
    for p, wanted in zip((0.5, 0.8, 0.9), fast, strict=True):
        assert theorem_7(Rounds(p, e, 1.0, c * K, 0.0)) == pytest.approx(wanted, abs=1.5e-3)


def test_no_hit_is_synchronous_decoding_and_all_hits_hide_the_draft():
    e = expected_tokens(0.8, 6)
    assert theorem_7(Rounds(0.0, e, e, 0.6, 0.6)) == pytest.approx(sd_speedup(0.8, 6, 0.1))
    assert theorem_7(Rounds(1.0, e, e, 0.6, 0.6)) == pytest.approx(e)
    assert theorem_7(Rounds(1.0, e, e, 1.5, 0.6)) == pytest.approx(e / 1.5)
    low, high = corollary_9(0.9, e, e, 0.6)
    assert low <= theorem_7(Rounds(0.9, e, e, 0.6, 0.6)) / sd_speedup(0.8, 6, 0.1) + 1e-9
    assert high == pytest.approx(1.6)


@pytest.mark.parametrize(("p", "neural"), [(0.8, [(1, 3.53), (2, 3.25), (4, 2.92), (8, 2.64), (16, 2.50)])])
def test_corollary_16(p, neural):
    e = expected_tokens(0.8, 6)
    for batch, wanted in neural:
        assert theorem_7(Rounds(p, e, e, 0.6, 0.6), batch) == pytest.approx(wanted, abs=6e-3)
        assert theorem_7(Rounds(p, e, 1.0, 0.6, 0.0), batch) == pytest.approx(3.36, abs=6e-3)


@pytest.mark.parametrize(("p", "wanted"), [(0.7, 1.84), (0.8, 1.55), (0.9, 1.37)])
def test_crossover_batch(p, wanted):
    e = expected_tokens(0.8, 6)
    assert crossover_batch(p, e, p * e + 1 - p, 0.6) == pytest.approx(wanted, abs=6e-3)


def test_stationary_hit_rate():
    rng = np.random.default_rng(0)
    hit, hits, rounds = False, 0, 100_000
    for draw in rng.random(rounds):
        hit = bool(draw < (0.85 if hit else 0.6))
        hits += hit
    assert stationary_hit_rate(0.85, 0.6) == pytest.approx(hits / rounds, abs=0.01)


def test_best_draft_length():
    assert best_draft_length(11.3, 1.3, 1.6) == 6
    assert best_draft_length(1.0, 2.0, 1.0) == 1


# K, a, r, budget | real-valued F | whole F (None: a true tie) | p_hit real, whole, uniform  (theorem 12)
VECTORS = [
    (4, 0.8, 1, 15, [3.10, 2.77, 2.48, 2.22, 4.43], [3, 3, 3, 2, 4], 0.6875, 0.6837, 0.6667),
    (4, 0.8, 0.5, 20, [4.12, 3.55, 3.06, 2.64, 6.64], [4, 3, 3, 3, 7], 0.5213, 0.5198, 0.5),
    (7, 0.8, 1, 24, [3.90, 3.49, 3.12, 2.79, 2.49, 2.23, 2.00, 3.99], [4, 3, 3, 3, 3, 2, 2, 4], 0.684, 0.6811, 0.6667),
    (7, 0.8, 0.5, 24, [4.20, 3.62, 3.12, 2.69, 2.32, 2.00, 1.72, 4.34], [4, 4, 3, 3, 2, 2, 2, 4], 0.4425, 0.4408, 0.4226),
    (7, 0.9, 1, 24, [2.93, 2.78, 2.64, 2.50, 2.37, 2.25, 2.13, 6.40], [3, 3, 3, 3, 2, 2, 2, 6], 0.72, 0.7167, 0.6667),
    (7, 0.6, 1, 24, [6.06, 4.70, 3.64, 2.82, 2.18, 1.69, 1.31, 1.60], None, 0.7388, 0.7344, 0.6667),
    (5, 0.7, 1, 18, [4.13, 3.45, 2.89, 2.42, 2.02, 3.09], [4, 4, 3, 2, 2, 3], 0.6831, 0.68, 0.6667),
]  # fmt: skip


@pytest.mark.parametrize(("K", "a", "r", "budget", "real", "whole", "p_real", "p_whole", "p_uniform"), VECTORS)
def test_theorem_12(K, a, r, budget, real, whole, p_real, p_whole, p_uniform):
    assert geometric_real(a, r, K, budget) == pytest.approx(real, abs=0.006)
    assert hit_probability(geometric_real(a, r, K, budget), a, r) == pytest.approx(p_real, abs=6e-5)
    made = geometric_fan_out(a, r, K, budget)
    assert sum(made) == budget
    if whole is not None:
        assert list(made) == whole
    assert hit_probability(made, a, r) == pytest.approx(p_whole, abs=6e-5)
    assert hit_probability([budget / (K + 1)] * (K + 1), a, r) == pytest.approx(p_uniform, abs=6e-5)


def test_no_whole_fan_out_is_better():
    a, r, K, budget = 0.7, 0.8, 3, 9
    everything = [f for f in itertools.product(range(1, budget), repeat=K + 1) if sum(f) == budget]
    assert hit_probability(geometric_fan_out(a, r, K, budget), a, r) == pytest.approx(
        max(hit_probability(f, a, r) for f in everything)
    )


def test_best_against_search():
    rng = np.random.default_rng(1)
    law, held = np.array([0.5, 0.2, 0.3]), np.sort(rng.random((3, 7)), axis=1)
    most, budget = (5, 6, 3), 6
    value = max(
        sum(law[k] * held[k, f] for k, f in enumerate(counts))
        for counts in itertools.product(*(range(m + 1) for m in most))
        if sum(counts) <= budget
    )
    made = best_fan_out(law, held, most, budget)
    assert sum(made) <= budget
    assert sum(law[k] * held[k, f] for k, f in enumerate(made)) == pytest.approx(value)
