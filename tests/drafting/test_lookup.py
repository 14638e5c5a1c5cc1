"""Prompt look-up finds what PLD finds."""

import numpy as np
import pytest
import torch

from sdbench.drafting import PromptLookup
from sdbench.errors import InputError
from sdbench.harness.config import compose
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


def by_hand(
    text: list[int], length: int, largest: int, match: str, least: int = 1, per_match: float | None = None
) -> list[int]:
    """PLD as its author describes it, one sequence at a time. `per_match` limits the copy as in SuffixDecoding."""
    for n in range(largest, least - 1, -1):
        if len(text) <= n:
            continue
        starts = [i for i in range(len(text) - n) if text[i : i + n] == text[-n:]]
        if starts:
            start = (starts[0] if match == "first" else starts[-1]) + n
            most = length if per_match is None else min(length, int(n * per_match))
            return text[start : start + most]
    return []


def test_copies_what_followed():
    assert proposed([[1, 2, 3, 4, 5, 1, 2, 3]], 3) == [[4, 5, 1]]


def test_nothing_found_is_no_draft():
    assert proposed([[1, 2, 3]], 3) == [[]]


def test_first_and_last_match():
    text = [7, 1, 7, 2, 7]
    assert proposed([text], 1, match="first") == [[1]]
    assert proposed([text], 1, match="last") == [[2]]


@pytest.mark.parametrize("per_match", [None, 1, 1.5, 2])
@pytest.mark.parametrize(("largest", "least"), [(3, 1), (3, 2), (10, 1), (10, 2), (40, 3)])
@pytest.mark.parametrize("match", ["first", "last"])
def test_rows_of_any_length_equal_the_search_by_hand(match, largest, least, per_match):
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(0, symbols, (n,), generator=generator).tolist() for symbols in (2, 4) for n in (1, 2, 3, 9, 30)
    ]
    rows.append([5, 6, 7, 8] * 6)  # every match length occurs
    got = proposed(rows, 4, max_ngram=largest, min_ngram=least, match=match, per_match=per_match)
    assert got == [by_hand(row, 4, largest, match, least, per_match) for row in rows]


def test_a_longer_match_drafts_more_tokens():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    knobs = {"max_ngram": 10, "per_match": 2}
    assert proposed([[*text, 1], [*text, 1, 2], [*text, 1, 2, 3]], 5, **knobs) == [
        [2, 3],
        [3, 4, 5, 6],
        [4, 5, 6, 7, 8],
    ]


def test_max_ngram_is_the_longest_match_that_counts():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert proposed([text], 10, max_ngram=2, per_match=1) == [[4, 5]]


def test_a_shorter_match_than_min_ngram_drafts_nothing():
    assert proposed([[1, 2, 3, 1]], 3, min_ngram=2) == [[]]
    assert proposed([[1, 2, 3, 1, 2]], 3, min_ngram=2) == [[3, 1, 2]]


def test_the_arm_drafts_nothing_behind_a_match_of_one_token():
    """Such drafts made the arm slower than `ar` on SmolLM2: few of their tokens were kept."""
    arm = compose(["arms=[ar,lookup]"])["arms"]["lookup"]
    knobs = {key: value for key, value in arm["proposer"].items() if key != "_target_"}
    assert proposed([[1, 2, 3, 4, 5, 6, 7, 1]], arm["draft_length"], **knobs) == [[]]
    assert proposed([[1, 2, 3, 4, 5, 6, 7, 1, 2]], arm["draft_length"], **knobs) == [[3, 4, 5, 6]]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"max_ngram": 0}, "max_ngram is 0"),
        ({"min_ngram": 4}, "at most max_ngram, which is 3"),
        ({"min_ngram": 1.5}, "min_ngram is 1.5"),
        ({"match": "best"}, "one of first, last"),
        ({"per_match": 0.5}, "must be at least 1, which is 1 / min_ngram"),
        ({"per_match": "2"}, "per_match is '2'"),
        ({"per_match": float("inf")}, "finite"),
    ],
)
def test_bad_knobs_are_refused(knobs, said):
    with pytest.raises(InputError, match=said):
        PromptLookup(**knobs)
