"""Drafts with another vocabulary than the target's three tokens: lossless to 1e-12, and the negative controls are rejected."""

import pytest
import torch

from sdbench.acceptance import Exact, Match
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.asynchronous import SSDDrafter, Uniform
from sdbench.decoding import Speculative
from sdbench.drafting import DynamicTree, ModelDrafter, ReencodedDrafter, StagedDrafter, TreeDrafter
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.models.text_bridge import TextBridge
from sdbench.models.token_map import MappedIds
from sdbench.models.vocabulary import reduced
from sdbench.sampling import Scored
from tests.mapped import MappedTable
from tests.tasks.tokenizers_made import letters

# The draft has four tokens. Its 2 and 1 are the target's 0 and 2, and it reads its 3 in place of the target's 1.
TWO_SHARED = MappedIds(reads=[2, 3, 1], proposes=[0, 2], rows=[2, 1], width=4)
THREE_SHARED = MappedIds(reads=[3, 0, 2], proposes=[0, 1, 2], rows=[3, 0, 2], width=4)
REDUCED = reduced([0, 2], vocab=3, width=3)
MAPS = {"two shared": TWO_SHARED, "three shared": THREE_SHARED, "reduced": REDUCED}


@pytest.fixture(scope="module")
def target():
    return TabularModel("target", 3, 1)


def lossless(target, draft):
    one, qualifier = ModelDrafter(draft), MappedTable("qualifier", THREE_SHARED, 2)
    return {
        "sd": (Speculative(target, Exact(), one, 2), 3),
        "sd, one token": (Speculative(target, Exact(), one, 1), 3),
        "match": (Speculative(target, Match(), one, 1), 2),
        "pyramid": (Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), one, 1), 1), 2),
        "tree": (Speculative(target, Exact(), TreeDrafter(draft, [2])), 3),
        "dynamic tree": (Speculative(target, Exact(), DynamicTree(draft, 2, 2, 3)), 3),
        "ssd": (Speculative(target, Exact(), SSDDrafter(draft, Uniform(1), process=False), 1), 2),
    }


LARGE = [
    ("pyramid", "two shared"),
    ("pyramid", "reduced"),
    ("sd", "two shared"),
    ("sd", "three shared"),
    ("sd", "reduced"),
    ("ssd", "three shared"),
]


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        pytest.param(name, shared, marks=pytest.mark.slow if (name, shared) in LARGE else [])
        for name in lossless(TabularModel("name", 3, 0), TabularModel("name", 3, 0))
        for shared in MAPS
    ],
)
def test_lossless_over_a_map(target, shared, name):
    decoder, tokens = lossless(target, MappedTable("draft", MAPS[shared], 3))[name]
    assert decoder.lossless
    assert distance_from_target(decoder, target, tokens) < LOSSLESS


class NotRenormalised(ModelDrafter):
    """Wrong: states the draft's own probabilities, which the tokens that only it has make sum to less than 1."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        assert draft.q is not None
        draft.q = draft.q.knowing(probs=draft.q.logits.exp())
        return draft


@pytest.mark.parametrize("shared", ["two shared", "three shared", "reduced"])
def test_q_that_is_not_renormalised_is_rejected(target, shared):
    decoder = Speculative(target, Exact(), NotRenormalised(MappedTable("draft", MAPS[shared], 3)), 1)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 2) > 1e-3


def reencoded(tokens: list[str], kind: type[ReencodedDrafter] = ReencodedDrafter):
    """A drafter whose text is encoded again with the target's tokens a, b and ab."""
    draft = TabularModel("draft", len(tokens), 3)
    draft.bridge = TextBridge(letters(["a", "b", "ab"]), letters(tokens), 3, len(tokens))
    return kind(draft)


@pytest.mark.parametrize("tokens", [["b", "a", "c", "ba"], ["a", "b", "aa", "bb"], ["b", "a"]])
@pytest.mark.parametrize("length", [1, 3])
def test_reencoding_is_lossless(target, tokens, length):
    decoder = Speculative(target, Exact(), reencoded(tokens), length)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3, prompt=(0, 1)) < LOSSLESS


def test_reencoding_below_a_stage_is_lossless(target):
    stage = StagedDrafter(TabularModel("qualifier", 3, 2), Exact(), reencoded(["b", "a", "c", "ba"]), 2)
    assert distance_from_target(Speculative(target, Exact(), stage, 1), target, 2) < LOSSLESS


class StatedAsDrawn(ReencodedDrafter):
    """Wrong: says that the encoded text was drawn from a law."""

    kind = ProposalKind.SAMPLED

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        flat = torch.zeros(*draft.tokens.shape, 3, dtype=torch.float64)
        return Draft(draft.tokens, draft.length, Scored(flat, state.sampler.sampling), self.kind)


def test_a_text_that_is_stated_as_drawn_is_rejected(target):
    decoder = Speculative(target, Exact(), reencoded(["b", "a", "c", "ba"], StatedAsDrawn), 2)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3) > 1e-3
