"""The suffix automaton against plain search, and drafting by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import StagedDrafter, SuffixLookup
from sdbench.drafting.suffix import SuffixAutomaton
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop


def searched(text):
    """The longest suffix that occurs earlier, and the position behind its oldest occurrence, by trying all."""
    for length in range(len(text) - 1, 0, -1):
        for end in range(length, len(text)):
            if text[end - length : end] == text[-length:]:
                return length, end
    return 0, 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_the_longest_match_is_found(text):
    automaton = SuffixAutomaton()
    for count, token in enumerate(text, start=1):
        automaton.read([token])
        assert automaton.longest() == searched(text[:count])


@pytest.mark.parametrize("min_match", [1, 2])
def test_lossless(min_match):
    target = TabularModel("target", 2, 1)
    decoder = Speculative(target, Exact(), SuffixLookup(min_match), 2)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 4, (0, 1, 0, 1)) < LOSSLESS


def test_below_a_stage_whose_text_is_cut():
    target, qualifier = TabularModel("target", 2, 1), TabularModel("qualifier", 2, 2)
    decoder = Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), SuffixLookup(1), 1), 1)
    assert distance_from_target(decoder, target, 3, (0, 1, 0, 1)) < LOSSLESS


def test_rows_do_not_learn_from_each_other():
    target = TabularModel("target", 3, 1, sharpness=6.0)
    texts = [[0, 1, 2] * 3, [2, 2, 1, 0], [1, 1, 1, 1, 1]]

    def decoded(rows):
        decoder = Speculative(target, Exact(), SuffixLookup(1, 2.0), 4)
        requests = [Request(text, str(number)) for number, text in enumerate(texts)]
        finished = decoder.generate(requests, Sampling(1.0), NeverStop(), 12, seed=3, rows=rows)
        return {done.request.name: (done.tokens, done.target_calls) for done in finished}

    assert decoded(1) == decoded(3)
