"""The published forms against their test vectors, and against simulated rounds."""

import numpy as np
import pytest

from sdbench.simulate.formulas import expected_tokens
from sdbench.simulate.overlap import (
    Rounds,
    best_draft_length,
    corollary_9,
    crossover_batch,
    pearl_tokens_per_round,
    sd_speedup,
    stationary_hit_rate,
    theorem_7,
)

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


PEARL = {0.6: (1.416, 1.515, 1.553), 0.7: (1.614, 1.810, 1.913), 0.8: (1.894, 2.283, 2.549), 0.9: (2.314, 3.127, 3.876)}


@pytest.mark.parametrize("a", PEARL)
def test_pearl(a):
    for window, wanted in zip((3, 5, 8), PEARL[a], strict=True):
        assert pearl_tokens_per_round(a, window) == pytest.approx(wanted, abs=6e-4)


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
