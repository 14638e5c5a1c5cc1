"""Fan-outs against the published law's test vectors, and against search over all of them."""

import itertools

import numpy as np
import pytest

from sdbench.asynchronous import Geometric, Learned, Listed, Uniform
from sdbench.asynchronous.fan_out import (
    best,
    fit_exponent,
    geometric,
    geometric_real,
    hit_probability,
    outcome_law,
    widest,
)
from sdbench.errors import InputError

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
    made = geometric(a, r, K, budget)
    assert sum(made) == budget
    if whole is not None:
        assert list(made) == whole
    assert hit_probability(made, a, r) == pytest.approx(p_whole, abs=6e-5)
    assert hit_probability([budget / (K + 1)] * (K + 1), a, r) == pytest.approx(p_uniform, abs=6e-5)


def test_no_whole_fan_out_is_better():
    a, r, K, budget = 0.7, 0.8, 3, 9
    everything = [f for f in itertools.product(range(1, budget), repeat=K + 1) if sum(f) == budget]
    assert hit_probability(geometric(a, r, K, budget), a, r) == pytest.approx(
        max(hit_probability(f, a, r) for f in everything)
    )


def test_no_place_gets_more_than_there_are_tokens():
    assert Uniform(9).counts(2, 4, True) == (3, 3, 4)
    assert Geometric(100, 0.8, 1.0).counts(2, 4, True) == (3, 3, 4)
    assert Listed([9, 9, 9]).counts(2, 4, True) == (3, 3, 4)


def test_lists_behind_hits_and_misses():
    fan_out = Listed([1, 2, 3], [3, 2, 1])
    assert fan_out.counts(2, 50, True) == (1, 2, 3)
    assert fan_out.counts(2, 50, False) == (3, 2, 1)


@pytest.mark.parametrize(
    "make",
    [lambda: Uniform(0), lambda: Geometric(0), lambda: Geometric(8, 1.2), lambda: Geometric(8, 0.5, -1),
     lambda: Listed([]), lambda: Listed([0, 0]), lambda: Listed([1, -1]), lambda: Learned(0),
     lambda: Listed([1, 1]).counts(2, 50, True)],
)  # fmt: skip
def test_refusals(make):
    with pytest.raises(InputError):
        make()


def drawn(a, r, K, count, seed=0):
    """Outcomes by the power law: (kept, rank)."""
    rng = np.random.default_rng(seed)
    kept = rng.choice(K + 1, count, p=outcome_law(a, K))
    ranks = np.floor(rng.random(count) ** (-1 / r)).astype(int) + 1
    return list(zip(kept.tolist(), np.minimum(ranks, 10**6).tolist(), strict=True))


def test_online_estimates_find_the_law():
    fan_out = Geometric(24)
    for kept, rank in drawn(0.6, 0.5, 5, 5000):
        fan_out.learn(5, True, kept, rank)
    wanted = Geometric(24, 0.6, 0.5).counts(5, 10**6, True)
    assert np.abs(np.subtract(fan_out.counts(5, 10**6, True), wanted)).max() <= 1
    # What was learned behind hits says nothing of what follows a miss.
    assert fan_out.counts(5, 10**6, False) == Geometric(24, 0.8, 1.0).counts(5, 10**6, False)
    assert fit_exponent([rank for _, rank in drawn(0.6, 0.5, 5, 20000)]) == pytest.approx(0.5, abs=0.05)


def test_what_follows_a_prompt_says_nothing_of_speculations():
    fan_out = Geometric(24)
    before = fan_out.counts(4, 50000, False)
    for _ in range(200):
        fan_out.learn(0, False, 0, 1)
    assert fan_out.counts(4, 50000, False) == before


def test_learned_is_the_best_for_what_was_seen():
    """Corrections have ranks up to 9, bonuses rank 1: one unit does for those, whatever a power law would say."""
    fan_out = Learned(10)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        kept = int(rng.choice(3, p=[0.3, 0.1, 0.6]))
        fan_out.learn(2, True, kept, 1 if kept == 2 else int(rng.integers(1, 10)))
    assert fan_out.counts(2, 100, True)[2] == 1
    assert sum(fan_out.counts(2, 100, True)) <= 10


def test_best_against_search():
    rng = np.random.default_rng(1)
    law, held = np.array([0.5, 0.2, 0.3]), np.sort(rng.random((3, 7)), axis=1)
    most, budget = (5, 6, 3), 6
    value = max(
        sum(law[k] * held[k, f] for k, f in enumerate(counts))
        for counts in itertools.product(*(range(m + 1) for m in most))
        if sum(counts) <= budget
    )
    made = best(law, held, most, budget)
    assert sum(made) <= budget
    assert sum(law[k] * held[k, f] for k, f in enumerate(made)) == pytest.approx(value)


@pytest.mark.parametrize(("vocab", "length", "budget"), [(97, 5, 1), (2, 3, 10), (3, 2, 4), (97, 4, 12)])
def test_learning_needs_no_more_room(vocab, length, budget):
    """Room for the branches is made once, before anything was learned."""
    rng, learned = np.random.default_rng(0), Learned(budget)
    room = widest(learned, length, vocab)
    assert room == min(budget, length * (vocab - 1) + vocab)
    for _ in range(500):
        learned.learn(length, bool(rng.integers(2)), int(rng.integers(length + 1)), int(rng.geometric(0.4)))
        assert all(sum(learned.counts(length, vocab, hit)) <= room for hit in (True, False))
