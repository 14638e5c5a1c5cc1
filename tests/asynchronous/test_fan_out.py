"""Fan-outs: limits, refusals, and what they learn from outcomes."""

import numpy as np
import pytest

from sdbench.asynchronous import Geometric, Learned, Listed, Uniform
from sdbench.asynchronous.fan_out import widest
from sdbench.errors import InputError
from sdbench.theory.ssd import fit_exponent, outcome_law


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


@pytest.mark.parametrize(("vocab", "length", "budget"), [(97, 5, 1), (2, 3, 10), (3, 2, 4), (97, 4, 12)])
def test_learning_needs_no_more_room(vocab, length, budget):
    """Room for the branches is made once, before anything was learned."""
    rng, learned = np.random.default_rng(0), Learned(budget)
    room = widest(learned, length, vocab)
    assert room == min(budget, length * (vocab - 1) + vocab)
    for _ in range(500):
        learned.learn(length, bool(rng.integers(2)), int(rng.integers(length + 1)), int(rng.geometric(0.4)))
        assert all(sum(learned.counts(length, vocab, hit)) <= room for hit in (True, False))
