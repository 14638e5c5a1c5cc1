"""Consultant Decoding: the running surprise decides, is remembered, and goes back with the tokens."""

import math
from collections import defaultdict

import pytest
import torch

from sdbench.acceptance import Consultant

from .enumeration import SAMPLINGS, WORLDS, distance, plain, round_law, tensors, warped

START = {"first": (0.0, 0.0), "zero": (0.0, 1.0)}


def by_hand(world, K, sampling, threshold, beta, memory, test=None):
    p, q = world
    out = defaultdict(float)

    def walk(kept, weight, r):
        if len(kept) == K:
            for token, share in enumerate(warped(p(kept), sampling)):
                out[(*kept, token)] += weight * share
            return
        for x, drawn in enumerate(warped(q(kept), sampling)):
            its = (test or plain)(p(kept))[x]
            surprise = -math.log(its) if its > 0 else math.inf
            average = surprise if r is None else beta * r + (1 - beta) * surprise
            if average <= threshold:
                walk((*kept, x), weight * drawn, average)
            else:
                for token, share in enumerate(warped(p(kept), sampling)):
                    out[(*kept, token)] += weight * drawn * share

    walk((), 1.0, memory)
    return out


@pytest.mark.parametrize("initial", ["first", "zero"])
@pytest.mark.parametrize("threshold", [1.0, 1.5])
def test_the_stream_is_what_the_definition_says(initial, threshold):
    rule, rejected = Consultant(threshold, 0.7, initial), 0.0
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            r_0 = None if initial == "first" else 0.0
            said = round_law(rule, world, 2, sampling)
            assert distance(said, by_hand(world, 2, sampling, threshold, 0.7, r_0)) < 1e-12
            rejected = max(rejected, distance(said, by_hand(world, 2, sampling, threshold, 0.0, r_0)))
    assert rejected > 1e-3, "the proof cannot tell an average from a single surprise"


def test_it_takes_up_where_it_was():
    world, sampling = WORLDS["random"], SAMPLINGS[0]
    said = round_law(Consultant(1.0, 0.6), world, 2, sampling, memory=(2.5, 1.0))
    assert distance(said, by_hand(world, 2, sampling, 1.0, 0.6, 2.5)) < 1e-12
    assert distance(said, by_hand(world, 2, sampling, 1.0, 0.6, None)) > 1e-3


def test_the_surprise_may_be_that_of_the_warped_distribution():
    world, sampling = WORLDS["random four"], SAMPLINGS[1]
    said = round_law(Consultant(0.7, 0.2, warped=True), world, 2, sampling)
    expected = by_hand(world, 2, sampling, 0.7, 0.2, None, test=lambda logits: warped(logits, sampling))
    assert distance(said, expected) < 1e-12


@pytest.mark.parametrize("reset", ["never", "rejection"])
@pytest.mark.parametrize("initial", ["first", "zero"])
def test_the_memory_after_n_tokens(reset, initial):
    world, sampling, beta = WORLDS["random"], SAMPLINGS[0], 0.3
    rule = Consultant(1.0, beta, initial, reset)
    draft, p = tensors(world, [(0, 2), (1, 1)], sampling)
    law = rule.law(draft, p, rule.start(2))
    assert law.memory is not None
    for b, (x, y) in enumerate([(0, 2), (1, 1)]):
        first, second = -math.log(plain(world[0](()))[x]), -math.log(plain(world[0]((x,)))[y])
        one = first if initial == "first" else (1 - beta) * first
        after = [None if initial == "first" else 0.0, one, beta * one + (1 - beta) * second]
        for n in range(3):
            r, begun = law.memory(torch.full((2,), n))[b].tolist()
            start = n < 2 and reset == "rejection"
            expected = START[initial] if start or after[n] is None else (after[n], 1.0)
            assert (r, begun) == pytest.approx(expected)


def test_a_round_in_two_halves_is_the_same_round():
    """The memory behind the first token, given to a second call, says the same of the second token."""
    world, sampling, rule = WORLDS["random"], SAMPLINGS[0], Consultant(1.0, 0.6)
    draft, p = tensors(world, [(0, 2)], sampling)
    both = rule.law(draft, p)
    one = rule.law(*tensors(world, [(0,)], sampling))
    assert one.memory is not None
    two = rule.law(*tensors(world, [(2,)], sampling, start=(0,)), one.memory(torch.tensor([1])))
    assert (one.accepted[0, 1] * two.accepted[0, 1]).item() == both.accepted[0, 2].item()
    assert two.memory is not None
    assert both.memory is not None
    torch.testing.assert_close(two.memory(torch.tensor([1])), both.memory(torch.tensor([2])))
