"""DynaSD: the longest path makes it lossy, even where it is greedy; each of its other parts alone is lossless."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sdbench.acceptance import Exact, LongestPath
from sdbench.acceptance.longest import ends
from sdbench.decoding import DynaSD, Request, Speculative
from sdbench.drafting import Heuristic, ModelDrafter, StopWhenUnsure, TreeDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.topology import Topology
from tests.conftest import random_model


def family(vocab=2):
    return TabularModel("target", vocab, 1), TabularModel("draft", vocab, 3)


def distance(decoder, tokens):
    return distance_from_target(decoder, decoder.target, tokens)


def greedy(decoder, rows=1, count=3, new=10, trace=None):
    requests = [Request([0, 1] * (1 + number % 3), str(number)) for number in range(count)]
    finished = decoder.generate(requests, Sampling(), NeverStop(), new, seed=3, rows=rows, trace=trace)
    return {done.request.name: done.tokens for done in finished}


def longest_by_hand(tree, passing):
    """The end of the longest passing path, the first among equals in the order of siblings."""

    def best(node):
        found = [node]
        for child in tree.children[node]:
            if passing[child - 1] and len(path := [node, *best(child)]) > len(found):
                found = path
        return found

    return best(0)[-1]


@pytest.mark.parametrize("parent", [[0], [0, 0], [0, 1, 0, 3, 4], [0, 0, 1, 2, 3, 4], [0, 0, 0, 2, 2, 5]])
def test_the_law_of_the_longest_path_by_enumeration(parent):
    tree, passes = Topology.of(parent), np.random.default_rng(0).uniform(0.1, 0.9, len(parent))
    expected = np.zeros(len(parent) + 1)
    for passing in itertools.product([False, True], repeat=len(parent)):
        weight = np.prod(np.where(passing, passes, 1 - passes))
        expected[longest_by_hand(tree, passing)] += weight
    assert ends(tree, passes) == pytest.approx(expected, abs=1e-12)
    assert ends(tree, np.ones(len(parent))).max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("width", "depth", "policy", "tokens"),
    [
        (1, 2, None, 3),  # roots of the target
        (2, 2, None, 3),  # and a fork
        (2, 1, None, 3),
        (1, 3, StopWhenUnsure(0.6), 4),  # and an early stop
    ],
)
def test_each_lossless_part_is_lossless(width, depth, policy, tokens):
    decoder = DynaSD(*family(), width, depth, "exact", policy)
    assert decoder.lossless
    assert distance(decoder, tokens) < LOSSLESS


@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_longest_path_is_lossy(width):
    decoder = DynaSD(*family(3 if width == 1 else 2), width, 2, "longest")
    assert not decoder.lossless
    assert distance(decoder, 3) > 1e-3


def test_the_longest_path_is_lossy_without_the_targets_roots():
    target, draft = family(3)
    decoder = Speculative(target, LongestPath(), TreeDrafter(draft, [2]))
    assert not decoder.lossless
    assert distance(decoder, 2) > 1e-3


def test_greedy_output_is_the_targets_only_if_the_eldest_root_is_kept():
    target, draft = family(4)
    wanted = greedy(Speculative(target))
    assert greedy(DynaSD(target, draft, 3, 3, "exact")) == wanted
    assert greedy(DynaSD(target, draft, 1, 3, "longest")) == wanted, "one root has no rival"
    assert greedy(DynaSD(target, draft, 3, 3, "longest")) != wanted


def test_real_models_and_batches():
    target, draft = (
        Transformer(name, random_model("llama", layers, seed=4)) for name, layers in (("target", 2), ("draft", 1))
    )
    wanted = greedy(Speculative(target))
    trace = Trace()
    assert greedy(DynaSD(target, draft, 2, 3, "exact"), trace=trace) == wanted
    assert greedy(DynaSD(target, draft, 2, 4, "exact", StopWhenUnsure(0.02)), rows=3) == wanted
    lossy = DynaSD(target, draft, 3, 3)
    assert greedy(lossy, rows=3) == greedy(lossy)
    assert all(row["emitted"] <= row["accepted"] + 1 for row in trace.rounds)
    assert sum(row["emitted"] for row in trace.rounds) == 3 * 9, "all but the tokens of prefill"


def test_a_fork_keeps_no_fewer_tokens_than_a_chain():
    """The longest of several chains, the first of which is the chain of plain speculative decoding."""
    target, draft = family(4)

    def rounds(decoder):
        trace = Trace()
        greedy(decoder, count=6, new=24, trace=trace)
        return len(trace.rounds)

    assert rounds(DynaSD(target, draft, 3, 4, "longest")) < rounds(DynaSD(target, draft, 1, 4, "longest"))
    chain = Speculative(target, Exact(), ModelDrafter(draft), 3)
    assert abs(rounds(DynaSD(target, draft, 1, 4, "exact")) - rounds(chain)) <= 12, (
        "one round of a sequence more or less"
    )


def test_a_policy_that_learns_is_refused():
    with pytest.raises(InputError, match=r"policy is Heuristic, .* take one such as confidence"):
        DynaSD(*family(), 2, 2, "exact", Heuristic())
