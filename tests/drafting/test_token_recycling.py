"""Token recycling: the matrix of candidates, and the tree that it fills."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.drafting import TokenRecycling
from sdbench.drafting.token_recycling import most_likely_tokens
from sdbench.errors import InputError
from sdbench.topology import Topology
from tests.drafting.states import V, begun, key_of, state_of


def logits_of(*orders):
    """Logits of one row whose most likely tokens are these, node by node."""
    logits = torch.zeros(1, len(orders), V)
    for node, order in enumerate(orders):
        for rank, token in enumerate(order):
            logits[0, node, token] = 9.0 - rank
    return logits


def proposed(proposer, state):
    draft = proposer.propose(state, 0, key_of(state))
    return draft, draft.tokens[0].tolist(), list(draft.topology[0].parent) if draft.topology else []


def test_the_tree_is_filled_from_the_matrix():
    proposer = TokenRecycling([0.5, 0.4], budget=4, depth=2)
    assert proposer.topology == Topology.of((0, 0, 1, 1))
    state = state_of([[3]])
    begun(proposer, state, 0)
    draft, tokens, _ = proposed(proposer, state)
    assert tokens == [], "nothing was read yet"
    proposer.observe(state, draft, logits_of([5, 1]))
    draft, tokens, parents = proposed(proposer, state)
    assert (tokens, parents) == ([5, 1], [0, 0]), "5 and 1 were never read, so the tree ends there"
    proposer.observe(state, draft, logits_of([1, 5], [2, 4], [3, 0]))
    _, tokens, parents = proposed(proposer, state)
    assert tokens == [1, 5, 3, 0], "refused nodes count too, and the newest candidates replace the older ones"
    assert parents == [0, 0, 1, 1]


@pytest.mark.parametrize(("memory", "kept"), [("run", [5, 1]), ("sequence", [])])
def test_the_memory_between_sequences(memory, kept):
    proposer, state = TokenRecycling([0.5, 0.4], 2, 1, memory), state_of([[3]])
    begun(proposer, state, 0)
    proposer.observe(state, proposed(proposer, state)[0], logits_of([5, 1]))
    assert proposed(proposer, state)[1] == [5, 1]
    proposer.admit(state, 0)
    assert proposed(proposer, state)[1] == kept
    proposer.forget()
    assert proposed(proposer, state)[1] == []


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 9), st.integers(0, 1 << 30))
def test_the_most_likely_tokens(vocab, count, seed):
    logits = torch.rand(2, 3, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert (most_likely_tokens(logits, count) == logits.topk(min(count, vocab), -1).indices).all()


def test_wrong_values():
    with pytest.raises(InputError, match="their sum must be above 0 and at most 1"):
        TokenRecycling([0.9, 0.9])
