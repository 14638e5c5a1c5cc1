"""SuffixDecoding: its counts against plain search, its drafts on small texts, and what it keeps between sequences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from sdbench.drafting import SuffixDecoding
from sdbench.drafting.suffix_decoding import CountingAutomaton
from sdbench.errors import InputError
from tests.drafting.states import begun, key_of, state_of


def occurrences(text, part):
    return sum(text[at : at + len(part)] == part for at in range(len(text) - len(part) + 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=25))
def test_the_counts_are_those_of_a_search(text):
    automaton = CountingAutomaton()
    automaton.read(text)
    seen = dict.fromkeys(length for _, length in automaton.suffixes())
    for state, length in automaton.suffixes():
        part = text[-length:]
        assert automaton.count(state) == occurrences(text, part) > 1
        assert state in automaton.ends()
        after = {token: automaton.count(behind) for token, behind in automaton.following(state)}
        assert after == {token: occurrences(text, [*part, token]) for token in after}
        # The last occurrence is the end of the text. All others have a follower.
        assert sum(after.values()) == automaton.count(state) - 1
    assert not seen or max(seen) < len(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=10), min_size=1, max_size=4),
    st.lists(st.integers(0, 2), max_size=10),
)
def test_a_match_lies_within_one_earlier_text(texts, tail):
    automaton = CountingAutomaton()
    for text in texts:
        automaton.read(text)
        automaton.close_text()
    longest = max(
        (n for n in range(1, len(tail) + 1) if any(occurrences(text, tail[-n:]) for text in texts)), default=0
    )
    found = list(automaton.matches(tail))
    assert max((length for _, length in found), default=0) == longest
    for state, length in found:
        assert automaton.count(state) == sum(occurrences(text, tail[-length:]) for text in texts)


def drafted(proposer, text, length, earlier=()):
    state = state_of([text])
    for answer in earlier:
        proposer.learn([], answer)
    draft = begun(proposer, state, length).propose(state, length, key_of(state))
    return draft.tokens[0].tolist(), list(draft.topology[0].parent) if draft.topology else None


def test_the_most_frequent_continuation():
    assert drafted(SuffixDecoding(2.0), [1, 2, 1, 3, 4, 1, 3, 5, 1], 2)[0] == [3, 4]


def test_the_draft_is_as_long_as_the_match():
    text = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert drafted(SuffixDecoding(1.0), text, 9)[0] == [4, 5, 6]
    assert drafted(SuffixDecoding(2.0), text, 9)[0] == [4, 5, 6, 1, 2, 3]
    assert drafted(SuffixDecoding(0.5), text, 9)[0] == [4]
    assert drafted(SuffixDecoding(0.0, 2.0), text, 9)[0] == [4, 5]


def test_an_improbable_path_ends_the_draft():
    text = [1, 2, 1, 3, 1, 4, 1]
    assert drafted(SuffixDecoding(1.0, min_prob=0.3), text, 4)[0] == [2]
    assert drafted(SuffixDecoding(1.0, min_prob=0.4), text, 4)[0] == []


def test_a_tree_has_several_continuations():
    tokens, parents = drafted(SuffixDecoding(4.0, tree=True), [1, 2, 3, 1, 2, 4, 1, 5, 1], 4)
    assert tokens[0] == 2, "of three occurrences of 1, two go on with 2"
    assert set(zip(tokens, parents, strict=True)) >= {(2, 0), (5, 0), (3, 1)}


def test_earlier_answers_win_if_they_score_higher():
    text = [1, 2, 4, 1, 2]
    assert drafted(SuffixDecoding(), text, 2)[0] == [4, 1]
    # Once 9, 1, 2 occurs, three tokens match instead of two.
    assert drafted(SuffixDecoding(), [0, *text], 3, [[4, 1, 2, 5, 6, 3]])[0] == [5, 6, 3]
    assert drafted(SuffixDecoding(memory="sequence"), [0, *text], 3, [[4, 1, 2, 5, 6, 3]])[0] == [4, 1]


def test_a_pass_forgets_earlier_answers():
    proposer = SuffixDecoding()
    proposer.learn([], [1, 2, 3])
    proposer.forget()
    assert drafted(proposer, [0, 1, 2], 2)[0] == []


def test_wrong_values():
    with pytest.raises(InputError, match="memory is 'ever'; it must be one of run, sequence"):
        SuffixDecoding(memory="ever")
    with pytest.raises(InputError, match=r"min_prob is 2"):
        SuffixDecoding(min_prob=2)
