"""The function that drafts K tokens for all: its draws, its laws, early ends, and what it reads besides."""

import numpy as np
import pytest
import torch

from sdbench.drafting.draft_tokens import draft_token, draft_tokens, drafting_key
from sdbench.keyed_random import HashChoices
from sdbench.sampling import Sampling
from tests.drafting.states import SLOTS, key_of, model, state_of

ROWS = [[1, 2, 3], [4, 0]]


class Watched(HashChoices):
    """Note the names of all choices."""

    def __init__(self):
        self.names = []

    def choose(self, probs, key):
        self.names.append(key.path)
        return super().choose(probs, key)


def drafted(sampling=None, choices=None, length=3, **options):
    state, draft = state_of(ROWS, sampling, choices), model()
    draft.allocate(2, SLOTS)
    return state, draft, draft_tokens(draft, state, length, "draft", key_of(state), **options)


def test_each_token_is_drawn_from_the_law_behind_the_tokens_before_it():
    watched = Watched()
    _, lm, made = drafted(Sampling(0.7), watched)
    assert made.length is None
    assert watched.names == [("draft", 0), ("draft", 1), ("draft", 2)]
    for row, text in enumerate(ROWS):
        for depth in range(3):
            context = (*text, *made.tokens[row, :depth].tolist())
            law = lm.table(context) ** (1 / 0.7)
            assert torch.allclose(made.q.probs[row, depth], law / law.sum())
            assert torch.allclose(made.logits[row, depth], lm.table(context).log())


def test_greedy_tokens_are_the_most_likely_ones_and_need_no_choice():
    watched = Watched()
    _, lm, made = drafted(Sampling(), watched)
    assert watched.names == []
    for row, text in enumerate(ROWS):
        for depth, token in enumerate(made.tokens[row].tolist()):
            assert token == int(lm.table((*text, *made.tokens[row, :depth].tolist())).argmax())


def test_a_change_of_the_logits_is_drawn_from_and_stated():
    """Token 5 is the only one left at every second depth."""

    def only_5(logits, depth):
        return torch.full_like(logits, -torch.inf).index_fill(-1, torch.tensor([5]), 0.0) if depth % 2 else logits

    _, lm, made = drafted(modify=only_5)
    assert made.tokens[:, 1].tolist() == [5, 5]
    assert (made.q.probs[:, 1, 5] == 1).all()
    assert torch.allclose(made.logits[0, 1], lm.table((*ROWS[0], int(made.tokens[0, 0]))).log())


def test_drafting_ends_where_no_row_goes_on():
    asked = []

    def go_on(scored, token, depth):
        asked.append(token.tolist())
        return torch.tensor([len(asked) < 3, len(asked) < 2])

    _, _, made = drafted(length=6, go_on=go_on)
    assert made.length is not None
    assert made.length.tolist() == [3, 2]
    assert made.tokens.shape == (2, 3)
    assert made.tokens.t().tolist() == asked


def test_the_first_step_also_gives_the_logits_before_the_last_decided_token():
    _, lm, made = drafted(num_logits=2)
    assert made.before is not None
    for row, text in enumerate(ROWS):
        assert torch.allclose(made.before[row, 0], lm.table(tuple(text[:-1])).log())


def test_one_token_is_the_first_of_many():
    state, lm, made = drafted(Sampling(0.9))
    again = model()
    again.allocate(2, SLOTS)
    token, scored, logits = draft_token(again, state, state.length, "draft", drafting_key(key_of(state)) / 0)
    assert token.tolist() == made.tokens[:, 0].tolist()
    assert torch.equal(scored.probs, made.q.probs[:, 0])
    assert torch.equal(logits[:, -1], made.logits[:, 0])
    assert lm.kv_len == tuple(np.add(state.length, 2))  # it has read all but its last token


@pytest.mark.parametrize("length", [1, 4])
def test_the_same_name_gives_the_same_tokens(length):
    assert drafted(length=length)[2].tokens.equal(drafted(length=length)[2].tokens)
