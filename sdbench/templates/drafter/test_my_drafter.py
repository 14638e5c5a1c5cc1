"""Test `MyDrafter`: what it drafts, that the output stays the target's, and that a false claim about the draft is found."""

import pytest
import torch
from my_drafter import MyDrafter

from sdbench.acceptance import Draft, Exact, ProposalKind
from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop


class FalseClaim(MyDrafter):
    """Claim that the copied tokens were drawn from a uniform q. Then the exact rule makes a wrong correction."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        q = state.sampler.score(torch.zeros(*draft.tokens.shape, 2, dtype=torch.float64))
        return Draft(draft.tokens, draft.length, q, ProposalKind.SAMPLED)


def distance(drafter) -> float:
    """Return the total variation distance between the output of speculative decoding with the drafter and the target's own."""
    target = TabularModel("target", 2, seed=1)
    return distance_from_target(Speculative(target, Exact(), drafter, draft_length=2), target, 4)


def greedy(drafter) -> tuple[list[list[int]], int]:
    """Return the greedy output for two prompts that are decoded together, and the target calls."""
    target = TabularModel("target", 2, seed=1)
    decoder = Speculative(target, Exact(), drafter, draft_length=4 if drafter else 0)
    requests = [Request([0], "short"), Request([0, 1, 1, 0], "long")]
    finished = list(decoder.generate(requests, Sampling(0.0), NeverStop(), 24, rows=2))
    finished.sort(key=lambda one: one.request.name)
    return [one.tokens for one in finished], sum(one.target_calls for one in finished)


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),  # at most 3 tokens
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the most recent occurrence
        ([5, 5, 5], [5]),  # occurrences may overlap
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_the_draft(text, draft):
    assert MyDrafter(ngram=2).copy(text, 3) == draft


def test_lossless():
    assert distance(MyDrafter(ngram=1)) < LOSSLESS


def test_a_false_claim_is_found():
    assert distance(FalseClaim(ngram=1)) > 1e-3


def test_greedy_output_is_the_target_s_own_in_fewer_calls():
    tokens, calls = greedy(MyDrafter(ngram=1))
    expected, without_draft = greedy(None)
    assert tokens == expected
    assert calls < without_draft


@pytest.mark.parametrize("ngram", [0, 1.5, "two"])
def test_a_bad_value_is_refused(ngram):
    with pytest.raises(InputError, match=r"my_drafter\.ngram"):
        MyDrafter(ngram)
