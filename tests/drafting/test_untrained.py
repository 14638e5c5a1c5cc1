"""What holds for every drafter without a model: the law stays the target's, and greedy tokens do not depend on the drafts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from sdbench.acceptance import Exact, Match
from sdbench.acceptance.draft import ProposalKind
from sdbench.decoding import Request, Speculative
from sdbench.drafting import Lookahead, Rest, StagedDrafter, SuffixDecoding, TokenRecycling
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.sampling import Sampling, Scored
from sdbench.stopping import NeverStop

PROMPT = (0, 1, 0, 1)


class WarmSuffixDecoding(SuffixDecoding):
    """Every pass begins with an earlier answer."""

    def forget(self):
        super().forget()
        self.learn([], [0, 1, 1, 0, 0])


@pytest.fixture(scope="module")
def drafters(tmp_path_factory):
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("abbaababbb", encoding="utf-8")

    def rest(kind: Any = Rest):
        drafter = kind(str(corpus), max_match=3, min_match=1, depth=2)
        drafter.take_encoder(lambda text: [ord(letter) % 2 for letter in text])
        return drafter

    return {
        "suffix decoding, chains": (partial(SuffixDecoding, 2.0), 2),
        "suffix decoding, trees": (partial(SuffixDecoding, 2.0, tree=True), 3),
        "suffix decoding, earlier answers": (partial(WarmSuffixDecoding, 2.0, tree=True), 3),
        "token recycling": (partial(TokenRecycling, [0.5, 0.3], 4, 2), 0),
        "lookahead, n-grams of 2": (partial(Lookahead, 1, 2, 1), 0),
        "lookahead, n-grams of 3": (partial(Lookahead, 2, 3, 2), 0),
        "rest": (rest, 3),
    }


NAMES = [
    "suffix decoding, chains",
    "suffix decoding, trees",
    "suffix decoding, earlier answers",
    "token recycling",
    "lookahead, n-grams of 2",
    "lookahead, n-grams of 3",
    "rest",
]


def accepted(decoder, target) -> int:
    """The drafted tokens that a long answer keeps."""
    (done,) = decoder.generate([Request(list(PROMPT), "prompt")], Sampling(), NeverStop(), 30)
    return len(done.tokens) - 1 - done.target_calls


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", [Exact(), Match()], ids=["exact", "match"])
def test_lossless(drafters, name, rule):
    make, length = drafters[name]
    target = TabularModel("target", 2, 1)
    decoder = Speculative(target, rule, make(), length)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 4, PROMPT) < LOSSLESS
    assert accepted(decoder, target) > 3, "a draft of no use proves nothing"


@pytest.mark.parametrize("name", NAMES)
def test_a_false_claim_is_found(drafters, name):
    """Wrong: says that the tokens were drawn from a flat q, although they follow from the text."""
    make, length = drafters[name]
    target, proposer = TabularModel("target", 2, 1), make()
    propose = proposer.propose

    def claimed(state, asked, key):
        draft = propose(state, asked, key)
        shape = (*draft.tokens.shape, 2)
        draft.q = Scored(torch.zeros(shape, dtype=torch.float64), state.sampler.sampling)
        draft.kind = ProposalKind.SAMPLED
        return draft

    proposer.propose = claimed
    decoder = Speculative(target, Exact(), proposer, length)
    assert decoder.lossless, "it claims to be"
    assert distance_from_target(decoder, target, 4, PROMPT) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_below_a_stage_whose_text_is_cut(drafters, name):
    make, _ = drafters[name]
    target, qualifier = TabularModel("target", 2, 1), TabularModel("qualifier", 2, 2)
    stage = StagedDrafter(qualifier, Exact(), make(), 1)
    assert distance_from_target(Speculative(target, Exact(), stage, 1), target, 3, PROMPT) < LOSSLESS


def decoded(decoder, order, temperature, rows=1):
    texts = [[0, 1, 2] * 3, [2, 2, 1, 0], [1, 1, 1, 1, 1], [0, 1, 2, 0, 1]]
    decoder.begin_pass()
    requests = [Request(texts[number], str(number)) for number in order]
    finished = decoder.generate(requests, Sampling(temperature), NeverStop(), 16, seed=3, rows=rows)
    return {done.request.name: (done.tokens, done.target_calls) for done in finished}


LEARNING = [
    partial(SuffixDecoding, 2.0, tree=True, memory="run"),
    partial(TokenRecycling, [0.5, 0.3], 4, 2, memory="run"),
]
ALONE = [
    partial(SuffixDecoding, 2.0, tree=True, memory="sequence"),
    partial(TokenRecycling, [0.5, 0.3], 4, 2, memory="sequence"),
    partial(Lookahead, 2, 3, 2),
]


@pytest.mark.parametrize("make", ALONE, ids=["suffix decoding", "token recycling", "lookahead"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_order_nor_batch_matters_without_a_memory(make, temperature):
    decoder = Speculative(TabularModel("target", 3, 1, sharpness=4.0), Exact(), make(), 4)
    expected = decoded(decoder, [0, 1, 2, 3], temperature)
    assert decoded(decoder, [3, 1, 0, 2], temperature) == expected
    assert decoded(decoder, [0, 1, 2, 3], temperature, rows=3) == expected


@pytest.mark.parametrize("make", LEARNING, ids=["suffix decoding", "token recycling"])
def test_order_matters_with_a_memory_but_not_for_greedy_tokens(make):
    decoder = Speculative(TabularModel("target", 3, 1, sharpness=4.0), Exact(), make(), 4)
    first, second = decoded(decoder, [0, 1, 2, 3], 0.0), decoded(decoder, [3, 2, 1, 0], 0.0)
    assert {name: tokens for name, (tokens, _) in first.items()} == {
        name: tokens for name, (tokens, _) in second.items()
    }
    assert first != second, "the drafts depend on the order"
    assert decoded(decoder, [0, 1, 2, 3], 0.0) == first, "a pass begins without earlier sequences"
    drawn = [decoded(decoder, order, 1.0) for order in ([0, 1, 2, 3], [3, 2, 1, 0])]
    assert drawn[0] != drawn[1], "sampled tokens depend on the drafts, so they depend on the order"
    assert decoded(decoder, [0, 1, 2, 3], 1.0) == drawn[0]
