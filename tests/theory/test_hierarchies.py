"""The planner of hierarchies against brute force over all chains and lengths, and against a simulated pipeline."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from sdbench.theory.hierarchies import Edge, Level, best_chain, chains
from sdbench.theory.speculative import expected_tokens

LONGEST = 4


def made(rng, count=4, lookup=False):
    """Random levels of rising cost, each with an acceptance by every larger one."""
    base, slope = np.sort(rng.uniform(0.02, 1, count)), rng.uniform(0, 0.2, count)
    levels = [
        Level(f"m{i}", lambda n, i=i: base[i] * (1 + slope[i] * n), verifies=not (lookup and i == 0))
        for i in range(count)
    ]
    edges = {
        (f"m{i}", f"m{j}"): Edge(rng.uniform(0.3, 0.99), rng.uniform(0.2, 1) if lookup and i == 0 else 1.0)
        for i, j in combinations(range(count), 2)
    }
    return levels, edges


def brute(levels, edges):
    """The least seconds per token, written out: every subset in order, every tuple of lengths."""
    found = []
    *smaller, target = levels
    for size in range(len(levels)):
        for chosen in combinations(smaller, size):
            path = [*chosen, target]
            if not all(level.verifies for level in path[1:]):
                continue
            for lengths in product(range(1, LONGEST + 1), repeat=size):
                spent = path[0].seconds(0)
                for low, high, n in zip(path, path[1:], lengths, strict=False):
                    a, o = edges[low.name, high.name].acceptance, edges[low.name, high.name].offered
                    tokens = sum(a**k for k in range(n + 1))
                    spent = (o * (n * spent + high.seconds(n)) + (1 - o) * high.seconds(0)) / (o * tokens + 1 - o)
                found.append((spent, tuple(level.name for level in path[::-1]), lengths[::-1]))
    return min(found)


@pytest.mark.parametrize("lookup", [False, True], ids=["models", "with a look-up"])
def test_bellman_is_the_best_of_all_chains(lookup):
    heights = set()
    for seed in range(60):
        levels, edges = made(np.random.default_rng(seed), lookup=lookup)
        seconds, names, lengths = brute(levels, edges)
        chain = best_chain(levels, edges, LONGEST)
        assert chain.seconds == pytest.approx(seconds, rel=1e-12)
        assert (chain.levels, chain.lengths) == (names, lengths)
        assert chain.speedup == pytest.approx(levels[-1].seconds(0) / seconds)
        every = chains(levels, edges, LONGEST)
        assert every[0] == chain
        assert len({each.levels for each in every}) == len(every) == 8
        heights.add(len(names))
    assert {2, 3} <= heights, "the instances have best chains of several heights"


def test_the_tokens_of_a_round_are_those_of_leviathan():
    assert Edge(0.7).tokens(5) == pytest.approx(expected_tokens(0.7, 5))
    assert Edge(1.0).tokens(5) == 6
    assert Edge(0.5, 0.25).tokens(1) == pytest.approx(0.25 * 1.5 + 0.75)


def test_a_pair_that_was_not_measured_is_not_used():
    levels, edges = made(np.random.default_rng(0), 3)
    del edges["m1", "m2"]
    assert {chain.levels for chain in chains(levels, edges)} == {("m2",), ("m2", "m0")}
    assert best_chain(levels, edges).levels in {("m2",), ("m2", "m0")}


def test_where_drafting_does_not_pay_the_target_decodes_alone():
    levels = [Level("draft", lambda n: 0.9), Level("target", lambda n: 1.0)]
    chain = best_chain(levels, {("draft", "target"): Edge(0.2)})
    assert (chain.levels, chain.lengths, chain.speedup) == (("target",), (), 1.0)


def test_a_simulated_pipeline_agrees_within_ten_percent():
    """Three levels, token by token: the middle level hands up whole chunks, so it overshoots what was asked."""
    rng = np.random.default_rng(0)
    costs, passed, asked = (0.05, 0.2, 1.0), (0.8, 0.85), (3, 6)
    seconds, tokens = 0.0, 0
    for _ in range(4000):
        held = 0
        while held < asked[1]:
            refused = rng.random(asked[0]) >= passed[0]
            held += (int(refused.argmax()) if refused.any() else asked[0]) + 1
            seconds += asked[0] * costs[0] + costs[1]
        refused = rng.random(held) >= passed[1]
        tokens += (int(refused.argmax()) if refused.any() else held) + 1
        seconds += costs[2]
    middle = Edge(passed[0]).seconds_per_token(costs[0], Level("middle", lambda n: costs[1]), asked[0])
    predicted = Edge(passed[1]).seconds_per_token(middle, Level("target", lambda n: costs[2]), asked[1])
    assert predicted == pytest.approx(seconds / tokens, rel=0.1)
    # A negative control: a formula without the bonus token is off by more.
    wrong = (asked[1] * middle + costs[2]) / (Edge(passed[1]).tokens(asked[1]) - 1)
    assert wrong != pytest.approx(seconds / tokens, rel=0.1)
