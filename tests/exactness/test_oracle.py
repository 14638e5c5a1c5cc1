"""Every composition of drafter, rule, policy and decoder on tabular models: lossless ones to 1e-12, wrong ones rejected."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Block, Cactus, Consultant, Exact, Fuzzy, Lenience, Match, Typical, ZhouJoint
from sdbench.acceptance.base import Law, at, normalised, ratio, residual, tokenwise
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.asynchronous import OnDemandDrafter
from sdbench.decoding import Pearl, Speculative
from sdbench.drafting import EarlyExit, ModelDrafter, PromptLookup, StagedDrafter, StopWhenUnsure, hierarchy
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target, output_law, sequence_law, total_variation
from sdbench.sampling import Sampling, Scored

V = 2


@pytest.fixture(scope="module")
def models():
    return [TabularModel(name, V, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


class ResidualForgotten(Exact):
    """Wrong: draws the correction from p in place of the residual."""

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        q = draft.scored(p).probs
        return tokenwise(draft, p, ratio(p.probs, q, draft), lambda n: at(p.probs, n))


class LowDrafted(Exact):
    """Wrong: drops a drafted token because its own q is low, and draws from p (FA B.1)."""

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        q = draft.scored(p).probs
        own = q.gather(-1, draft.tokens[..., None])[..., 0]
        passes = torch.where(own < 0.4, 0.0, ratio(p.probs, q, draft))

        def replacement(n):
            dropped = at(own, n)[:, None] < 0.4
            return torch.where(dropped, at(p.probs, n), residual(at(p.probs, n), at(q, n)))

        return tokenwise(draft, p, passes, replacement)


class NotDrawnFrom(ModelDrafter):
    """Wrong: says that its tokens were drawn from a flatter q than they were."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        assert draft.q is not None
        return Draft(draft.tokens, draft.length, Scored(draft.q.logits / 3, draft.q.sampling), ProposalKind.SAMPLED)


class ValueDropped(ModelDrafter):
    """Wrong: cuts the draft before a token because of that token's value, which depends on what was drawn."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        kept = (draft.tokens != 1).long().cumprod(-1).sum(-1)
        return Draft(draft.tokens, kept, draft.q, draft.kind)


class LastTokenDropped(StagedDrafter):
    """Wrong: hands up no token that ends a round, so a token's existence depends on its value."""

    def _draft(self, stage, size, origin, scores):
        return super()._draft(stage, np.maximum(size - 1, 1), origin, scores)


class CorrectionDropped(StagedDrafter):
    """Wrong: ends the buffer before the first correction, so the place of the cut depends on the token that is dropped."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        assert draft.origins is not None
        kept = [len([origin for origin in row if "correction" not in origin]) for row in draft.origins]
        return Draft(draft.tokens, torch.tensor(kept), draft.q, draft.kind)


def lossless(target, qualifier, draft):
    exact, one = Exact(), ModelDrafter(draft)
    return {
        "ar": Speculative(target),
        "sd": Speculative(target, exact, one, 2),
        "sd, match": Speculative(target, Match(), one, 2),
        "lookup": Speculative(target, exact, PromptLookup(), 2),
        "lookup, last match": Speculative(target, exact, PromptLookup(match="last"), 2),
        "lookup, by the match": Speculative(target, exact, PromptLookup(max_ngram=10, per_match=1), 2),
        "early exit": Speculative(target, exact, EarlyExit(target, 1), 2),
        "stop when unsure": Speculative(target, exact, one, 2, StopWhenUnsure(0.5)),
        "pyramid": Speculative(target, exact, StagedDrafter(qualifier, exact, one, 1), 2),
        "pyramid, truncated": Speculative(target, exact, StagedDrafter(qualifier, exact, one, 1, truncate=True), 2),
        "pyramid, matched": Speculative(target, exact, StagedDrafter(qualifier, Match(), one, 1), 1),
        "pyramid over look-up": Speculative(target, exact, StagedDrafter(qualifier, exact, PromptLookup(), 1), 2),
        "match over a fuzzy stage": Speculative(target, Match(), StagedDrafter(qualifier, Fuzzy(0.2), one, 1), 1),
        "three high": Speculative(
            target, exact, StagedDrafter(qualifier, exact, StagedDrafter(draft, exact, PromptLookup(), 1), 1), 1
        ),
        "four levels with an early exit": Speculative(
            target, exact, hierarchy([target.truncated(1), draft], [1, 1], PromptLookup()), 1
        ),
        "flushed on a mismatch": Speculative(
            target, exact, StagedDrafter(qualifier, exact, one, 1, flush_on_mismatch=True), 2
        ),
        "flushed at two stages": Speculative(
            target, exact, hierarchy([qualifier, draft], [1, 1], PromptLookup(), flush_on_mismatch=True), 2
        ),
        "lenience of 1": Speculative(target, Lenience(1.0), one, 1),
        "cactus of 0": Speculative(target, Cactus(0.0), one, 1),
        "block": Speculative(target, Block(), one, 2),
        "block, stop when unsure": Speculative(target, Block(), one, 2, StopWhenUnsure(0.5)),
        "block over look-up": Speculative(target, Block(), PromptLookup(), 2),
        "zhou_joint": Speculative(target, ZhouJoint(), one, 2),
        "pearl with block": Pearl(target, OnDemandDrafter(draft, process=False), Block(), 2),
        "block below": Speculative(target, exact, StagedDrafter(qualifier, Block(), one, 2), 1),
        "block below, truncated": Speculative(target, exact, StagedDrafter(qualifier, Block(), one, 2, True), 1),
        "block at both stages": Speculative(target, Block(), StagedDrafter(qualifier, Block(), one, 2), 1),
    }


def lossy(target, qualifier, draft):
    exact, one = Exact(), ModelDrafter(draft)
    return {
        "fuzzy": Speculative(target, Fuzzy(0.2), one, 2),
        "fuzzy below": Speculative(target, exact, StagedDrafter(qualifier, Fuzzy(0.2), one, 1), 1),
        "typical": Speculative(target, Typical(), one, 1),
        "consultant": Speculative(target, Consultant(), one, 2),
        "lenience": Speculative(target, Lenience(0.5), one, 1),
        "psd, fuzzy at both stages": Speculative(target, Fuzzy(0.2), StagedDrafter(qualifier, Fuzzy(0.2), one, 1), 1),
    }


def wrong(target, qualifier, draft):
    exact, one = Exact(), ModelDrafter(draft)
    return {
        "p in place of the residual": Speculative(target, ResidualForgotten(), one, 2),
        "p in place of the residual, below": Speculative(
            target, exact, StagedDrafter(qualifier, ResidualForgotten(), one, 1), 1
        ),
        "a low token dropped": Speculative(target, LowDrafted(), one, 2),
        "a q that was not drawn from": Speculative(target, exact, NotDrawnFrom(draft), 2),
        "flushed without the correction": Speculative(
            target, exact, CorrectionDropped(qualifier, exact, one, 1, flush_on_mismatch=True), 2
        ),
        "cut by value": Speculative(target, exact, ValueDropped(draft), 2),
        "the last token of a joint stage dropped": Speculative(
            target, exact, LastTokenDropped(qualifier, Block(), one, 2), 1
        ),
    }


NAMES = [TabularModel(name, V, 0) for name in ("target", "qualifier", "draft")]
LARGE = ("pyramid, truncated", "block below", "block below, truncated", "block at both stages", "flushed at two stages")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else []) for name in lossless(*NAMES)]
)
def test_lossless(models, name):
    decoder = lossless(*models)[name]
    assert decoder.lossless
    assert distance_from_target(decoder, models[0], 3) < LOSSLESS


@pytest.mark.parametrize("name", lossy(*NAMES))
def test_lossy_says_so_and_is(models, name):
    decoder = lossy(*models)[name]
    assert not decoder.lossless
    assert distance_from_target(decoder, models[0], 2) > 1e-3


@pytest.mark.parametrize("name", wrong(*NAMES))
def test_wrong_variants_are_rejected(models, name):
    """Negative controls: each claims to be lossless, and the oracle sees that it is not."""
    decoder = wrong(*models)[name]
    assert decoder.lossless
    assert distance_from_target(decoder, models[0], 3) > 1e-3


def test_warped_sampling_is_lossless_too(models):
    target, _, draft = (TabularModel(name, 3, seed) for name, seed in (("target", 1), ("q", 2), ("draft", 3)))
    decoder = Speculative(target, Exact(), ModelDrafter(draft), 2)
    sampling = Sampling(0.7, top_k=2)

    def run(walk):
        from sdbench.decoding import Request
        from sdbench.stopping import NeverStop

        (finished,) = decoder.generate([Request([0], "prompt")], sampling, NeverStop(), 2, choices=walk)
        return tuple(finished.tokens)

    expected = {}
    for first in range(3):
        for second in range(3):
            expected[first, second] = float(warped(target, (0,), sampling)[first])
            expected[first, second] *= float(warped(target, (0, first), sampling)[second])
    assert total_variation(output_law(run), expected) < LOSSLESS


def warped(model, context, sampling):
    weights = model.table(context) ** (1 / sampling.temperature)
    keep = weights >= weights.topk(sampling.top_k).values[-1]
    return normalised(torch.where(keep, weights, 0.0))


def test_a_law_sums_to_one(models):
    law = sequence_law(models[0], (0,), 3)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
