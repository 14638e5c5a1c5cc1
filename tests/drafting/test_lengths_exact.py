"""Length policies through the oracle: each keeps the target's law, and one that looks at a dropped token does not."""

import pytest

from sdbench.acceptance import Exact, Match
from sdbench.asynchronous import SSDDrafter, Undrafted, Uniform
from sdbench.decoding import Speculative
from sdbench.drafting import (
    AdaptiveThreshold,
    EarlyExit,
    Heuristic,
    LengthPolicy,
    MatchLength,
    ModelDrafter,
    PromptLookup,
    SpeculativeVerification,
    StagedDrafter,
    StopWhenUnsure,
    SuffixLookup,
    Window,
)
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target

V = 2


@pytest.fixture(scope="module")
def models():
    return [TabularModel(name, V, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


def other(seed=4):
    return TabularModel("companion", V, seed, 0.6)


def sv(policy=SpeculativeVerification, **knobs):
    return policy(other(), verify_seconds=[1.0, 1.4, 2.0], bins=2, **knobs)


class OfTheDropped(SpeculativeVerification):
    """Wrong: A of the token in question decides whether it is verified, as the notes on the paper have it."""

    def worth(self, signals, memory):
        chain = expected = 1.0
        best = 0.0
        for count, (overlap, of_token) in enumerate(signals):
            chain *= self.chance(overlap, of_token, memory)
            if count and (expected + chain) / self._seconds(count + 2) <= best:
                return count
            expected += chain
            best = expected / self._seconds(count + 2)
        return len(signals)


class UnsureDropped(LengthPolicy):
    """Wrong: drops the first token to which the draft gave a low probability."""

    def cut(self, draft, memory):
        assert draft.q is not None
        own = draft.q.plain.gather(-1, draft.tokens[..., None])[..., 0]
        return (own >= 0.5).long().cumprod(-1).sum(-1)


class Ahead(LengthPolicy):
    """Wrong: ends the draft before a token 1."""

    def cut(self, draft, memory):
        return (draft.tokens != 1).long().cumprod(-1).sum(-1)


class Noting(Exact):
    """Note how many tokens the drafts have."""

    def __init__(self):
        self.seen = set()

    def law(self, draft, p, memory=None):
        self.seen.update(draft.length.tolist())
        return super().law(draft, p, memory)


def arms(target, qualifier, draft):
    """Return the policy and the proposer of each composition."""
    exact, one = Exact(), ModelDrafter(draft)

    def above(below, truncate=False):
        return StagedDrafter(qualifier, exact, below, 1, truncate)

    return {
        "heuristic": (Heuristic(2), one),
        "confidence": (StopWhenUnsure(0.5), one),
        "confidence, early exit": (StopWhenUnsure(0.5), EarlyExit(target, 1)),
        "adaptive threshold": (AdaptiveThreshold(0.5, step=0.5, momentum=0.5), one),
        "speculative verification": (sv(), one),
        "match length, lookup": (MatchLength(), PromptLookup(max_ngram=10)),
        "match length, suffix": (MatchLength(), SuffixLookup(1)),
        "heuristic, lookup": (Heuristic(2), PromptLookup()),
        "heuristic above a stage": (Heuristic(2), above(PromptLookup())),
        "confidence above a stage": (StopWhenUnsure(0.5), above(PromptLookup())),
        "confidence above a stage, truncated": (StopWhenUnsure(0.5), above(PromptLookup(), True)),
        "verification above a stage": (sv(), above(PromptLookup())),
    }


def slow_arms(target, qualifier, draft):
    exact, one = Exact(), ModelDrafter(draft)
    return {
        "confidence above a drafting stage": (StopWhenUnsure(0.5), StagedDrafter(qualifier, exact, one, 1)),
        "truncated": (StopWhenUnsure(0.5), StagedDrafter(qualifier, exact, one, 1, truncate=True)),
        "verification above a drafting stage": (sv(), StagedDrafter(qualifier, exact, one, 1)),
        "heuristic, ssd": (Heuristic(2), SSDDrafter(draft, Uniform(1), Undrafted(), process=False)),
        "confidence, ssd": (StopWhenUnsure(0.5), SSDDrafter(draft, Uniform(1), Undrafted(), process=False)),
    }


def wrong(target, qualifier, draft):
    exact, one = Exact(), ModelDrafter(draft)
    return {
        "verification that looks at the dropped token": Speculative(target, exact, one, 2, sv(OfTheDropped)),
        "unsure tokens dropped": Speculative(target, exact, one, 2, UnsureDropped()),
        "cut before a token": Speculative(target, exact, one, 2, Ahead()),
        "cut before a token, in a stage": Speculative(
            target, exact, StagedDrafter(qualifier, exact, one, 2, lengths=Ahead()), 1
        ),
    }


NAMES = [TabularModel(name, V, 0) for name in ("target", "qualifier", "draft")]
# A match grows with the text; 3 tokens behind a prompt of one give matches of one token only.
PROMPT = {"match length, lookup": (0, 1, 0, 0, 1), "match length, suffix": (0, 1, 0, 0, 1)}


@pytest.mark.parametrize(
    "name", [*arms(*NAMES), *(pytest.param(name, marks=pytest.mark.slow) for name in slow_arms(*NAMES))]
)
def test_lossless(models, name):
    """The proof is of drafts whose length really varies."""
    policy, proposer = {**arms(*models), **slow_arms(*models)}[name]
    rule = Noting()
    decoder = Speculative(models[0], rule, proposer, 2, policy)
    assert decoder.lossless
    assert distance_from_target(decoder, models[0], 3, PROMPT.get(name, (0,))) < LOSSLESS
    assert len(rule.seen) > 1


@pytest.mark.parametrize(
    "policy", [pytest.param(Heuristic(2), marks=pytest.mark.slow), StopWhenUnsure(0.5)], ids=["heuristic", "confidence"]
)
def test_lossless_in_a_stage(models, policy):
    target, qualifier, draft = models
    rule = Noting()
    stage = StagedDrafter(qualifier, rule, ModelDrafter(draft), 2, lengths=policy)
    decoder = Speculative(target, Exact(), stage, 1)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3 if isinstance(policy, Heuristic) else 2) < LOSSLESS
    assert len(rule.seen) > 1


def test_a_window_is_a_fixed_length(models):
    target, _, draft = models
    rule = Noting()
    assert distance_from_target(Speculative(target, rule, ModelDrafter(draft), 2, Window(1)), target, 3) < LOSSLESS
    assert rule.seen == {1}
    decoder = Speculative(target, Match(), ModelDrafter(draft), 2, Window(2))
    assert distance_from_target(decoder, target, 3) < LOSSLESS


@pytest.mark.parametrize("name", wrong(*NAMES))
def test_a_policy_that_looks_at_a_dropped_token_is_rejected(models, name):
    """Negative controls: each arm claims to be lossless, and the oracle sees that it is not."""
    decoder = wrong(*models)[name]
    assert decoder.lossless
    assert distance_from_target(decoder, models[0], 3) > 1e-3
