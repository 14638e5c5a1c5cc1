"""Prompt look-up finds what PLD finds."""

import numpy as np
import pytest
import torch

from sdbench.drafting import PromptLookup
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler, Sampling


def proposed(rows: list[list[int]], length: int, **knobs) -> list[list[int]]:
    tokens = torch.full((len(rows), 40), 99)
    for row, text in enumerate(rows):
        tokens[row, : len(text)] = torch.tensor(text)
    size = np.array([len(text) for text in rows])
    here = DecodeState(tokens, size, np.ones(len(rows), bool), Sampler(Sampling()), Trace())
    key = Key(np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64))
    draft = PromptLookup(**knobs).propose(here, length, key)
    return [draft.tokens[row, :n].tolist() for row, n in enumerate(draft.length.tolist())]


def by_hand(text: list[int], length: int, largest: int, match: str) -> list[int]:
    """PLD as its author describes it, one sequence at a time."""
    for n in range(largest, 0, -1):
        if len(text) <= n:
            continue
        starts = [i for i in range(len(text) - n) if text[i : i + n] == text[-n:]]
        if starts:
            start = (starts[0] if match == "first" else starts[-1]) + n
            return text[start : start + length]
    return []


def test_copies_what_followed():
    assert proposed([[1, 2, 3, 4, 5, 1, 2, 3]], 3) == [[4, 5, 1]]


def test_nothing_found_is_no_draft():
    assert proposed([[1, 2, 3]], 3) == [[]]


def test_first_and_last_match():
    text = [7, 1, 7, 2, 7]
    assert proposed([text], 1, match="first") == [[1]]
    assert proposed([text], 1, match="last") == [[2]]


@pytest.mark.parametrize("match", ["first", "last"])
def test_rows_of_any_length_equal_the_search_by_hand(match):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 4, (n,), generator=generator).tolist() for n in (1, 2, 3, 5, 9, 17, 30)]
    assert proposed(rows, 4, match=match) == [by_hand(row, 4, 3, match) for row in rows]


@pytest.mark.parametrize("knobs", [{"max_ngram": 0}, {"min_ngram": 4}, {"match": "best"}])
def test_bad_knobs_are_refused(knobs):
    with pytest.raises(InputError):
        PromptLookup(**knobs)
