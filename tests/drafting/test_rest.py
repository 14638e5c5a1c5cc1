"""REST: the suffix array against plain search, and the trees that it drafts."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sdbench.drafting import Rest
from sdbench.drafting.rest import Corpus, suffix_order
from sdbench.errors import InputError
from tests.drafting.states import begun, key_of, state_of


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 12))
def test_the_suffixes_are_in_order(tokens, depth):
    order = suffix_order(np.array(tokens), depth).tolist()
    assert sorted(order) == list(range(len(tokens)))
    starts = [tokens[start : start + depth] for start in order]
    assert starts == sorted(starts)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
)
def test_the_longest_match_and_what_follows(texts, tail):
    corpus, most, least = Corpus(texts, 8), 4, 1
    places = {
        n: [text[at + n] if at + n < len(text) else None for text in texts for at in range(len(text) - n + 1)
            if text[at : at + n] == tail[-n:]]
        for n in range(least, min(most, len(tail)) + 1)
    }  # fmt: skip
    longest = max((n for n, found in places.items() if found), default=0)
    length, first, behind = corpus.longest(tail, most, least)
    assert length == longest
    if length:
        assert behind - first == len(places[length])
        found = {token: stop - start for token, start, stop in corpus.following(first, behind, length, 9)}
        assert found == {token: n for token, n in Counter(places[length]).items() if token is not None}


def rest(path, text, **knobs):
    path.write_text(text, encoding="utf-8")
    drafter = Rest(str(path), **knobs)
    drafter.take_encoder(lambda words: [int(word) for word in words.split()])
    return drafter


def drafted(proposer, text, length):
    state = state_of([text])
    draft = begun(proposer, state, length).propose(state, length, key_of(state))
    return draft.tokens[0].tolist(), list(draft.topology[0].parent) if draft.topology else []


def test_the_most_frequent_continuations(tmp_path):
    proposer = rest(tmp_path / "corpus.txt", "1 2 3 4 1 2 3 5 1 2 4")
    assert drafted(proposer, [0, 1, 2], 3) == ([3, 4, 4], [0, 0, 1])
    assert drafted(proposer, [0, 1, 2], 1) == ([3], [0])
    assert drafted(proposer, [2, 1, 1], 3) == ([], []), "a match of one token is too short"
    assert drafted(proposer, [2, 3, 4], 9)[0] == [1, 2, 3, 5, 1, 2, 4]


def test_the_depth_is_bounded(tmp_path):
    proposer = rest(tmp_path / "corpus.txt", "1 2 3 4 5 6", depth=2)
    assert drafted(proposer, [1, 2], 9)[0] == [3, 4]


def test_lines_of_json_are_texts_of_their_own(tmp_path):
    lines = "\n".join(json.dumps({"answer": text}) for text in ("1 2", "3 4"))
    proposer = rest(tmp_path / "corpus.jsonl", lines, field="answer", min_match=1)
    assert drafted(proposer, [1], 9)[0] == [2], "no draft reaches into the next text"
    assert proposer.files == [tmp_path / "corpus.jsonl"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.txt", None, "it must be a text or .jsonl file in UTF-8"),
        ("empty.txt", " \n", "holds no text"),
        ("bad.jsonl", '{"words": "a"}', "must be a JSON object with a text in 'text'"),
        ("bad.jsonl", "a b", "must be a JSON object with a text in 'text'"),
    ],
)
def test_a_corpus_that_cannot_be_read(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        Rest(str(tmp_path / name))


def test_a_corpus_and_a_tokenizer_are_needed(tmp_path):
    with pytest.raises(InputError, match=r"rest needs proposer\.corpus"):
        Rest()
    (tmp_path / "corpus.txt").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="rest needs a tokenizer"):
        begun(Rest(str(tmp_path / "corpus.txt")), state_of([[1]]), 2)
