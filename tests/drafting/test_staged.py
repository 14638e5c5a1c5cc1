"""A verified pair as a proposer: its tokens, the laws that it states, its inner rounds, and what remains after a cut."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact, Fuzzy, Match, ProposalKind
from sdbench.drafting import ModelDrafter, PromptLookup, StagedDrafter, hierarchy
from sdbench.errors import InputError
from sdbench.sampling import Sampling
from tests.drafting.states import begun, key_of, model, state_of

ROWS = [[1, 2, 3, 1, 2], [4, 0, 4, 0, 4, 0], [5, 5]]


def pair(rule=None, draft_length=2, **options):
    return StagedDrafter(model("qualifier", 2), rule or Exact(), ModelDrafter(model()), draft_length, **options)


def proposed(stage, length, rows=ROWS, number=0, sampling=None):
    state = state_of(rows, sampling)
    return state, begun(stage, state, length).propose(state, length, key_of(state, number))


@pytest.mark.parametrize("rule", [Exact(), Match(), Fuzzy(0.2)], ids=["exact", "match", "fuzzy"])
def test_it_states_the_verifiers_law_of_each_token(rule):
    stage = pair(rule)
    _, draft = proposed(stage, 4)
    assert draft.q is not None
    for row, text in enumerate(ROWS):
        tokens = draft.tokens[row].tolist()
        for place in range(int(draft.length[row])):
            law = stage.verifier.table((*text, *tokens[:place]))  # pyright: ignore[reportAttributeAccessIssue]
            assert torch.allclose(draft.q.probs[row, place], law)


def test_under_a_lossless_rule_its_tokens_are_drawn_and_under_a_lossy_one_relabelled():
    assert pair(Exact()).kind is ProposalKind.SAMPLED
    assert pair(Match()).kind is ProposalKind.SAMPLED
    assert pair(Fuzzy(0.2)).kind is ProposalKind.RELABELLED
    # The exact rule over a relabelled draft is not lossless.
    over = StagedDrafter(model("target", 1), Exact(), pair(Fuzzy(0.2)), 2)
    assert over.kind is ProposalKind.RELABELLED


@pytest.mark.parametrize("length", [1, 3, 5])
def test_it_gives_at_least_what_was_asked_and_truncation_cuts_the_rest(length):
    whole, cut = pair(), pair(truncate=True)
    state, long = proposed(whole, length)
    _, short = proposed(cut, length)
    assert int(long.length.min()) >= length
    assert int(long.length.max()) <= whole.max_lookahead(length)
    assert short.length.tolist() == [length] * len(ROWS)
    assert short.tokens.equal(long.tokens[:, :length])
    emitted = np.zeros(len(ROWS), int)
    for row in state.trace.rounds:
        emitted[row["sequence"]] += row["emitted"]
    assert emitted.tolist() == long.length.tolist()


def test_inner_rounds_are_numbered_and_end_when_a_row_has_enough():
    state, _ = proposed(pair(), 5)
    for sequence in range(len(ROWS)):
        rounds = [row for row in state.trace.rounds if row["sequence"] == sequence]
        assert [row["inner_round"] for row in rounds] == list(range(len(rounds)))
        assert {row["edge"] for row in rounds} == {"draft>qualifier"}
        assert {row["proposed"] for row in rounds} == {2}
        before_last = sum(row["emitted"] for row in rounds[:-1])
        assert before_last < 5 <= before_last + rounds[-1]["emitted"]


def four(rule=None):
    """Three levels below the target: the qualifier over a middle model over the draft."""
    return StagedDrafter(
        model("qualifier", 2), rule or Exact(), StagedDrafter(model("middle", 4), Exact(), ModelDrafter(model()), 2), 3
    )


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("pair", "rule"), [(pair, Exact()), (pair, Match()), (four, Exact())], ids=["exact", "match", "four levels"]
)
def test_after_a_cut_it_drafts_as_if_nothing_had_been_drafted(kept, pair, rule):
    """The outer stage keeps some tokens and adds its own. A fresh pair over the same text gives the same next draft."""
    state = state_of(ROWS)
    stage = begun(pair(rule), state, 4)
    draft = stage.propose(state, 4, key_of(state))
    state.place_many(draft.tokens, state.length)
    state.place([6] * len(ROWS), state.length + kept)
    state.length[:] += kept + 1
    stage.commit(state.length - 1)
    for each in stage.models:  # no level holds a token of the buffer that the outer stage refused
        assert max(held - length for held, length in zip(each.kv_len, state.length.tolist(), strict=True)) < 0
    following = stage.propose(state, 4, key_of(state, 1))
    texts = [state.tokens[row, : int(state.length[row])].tolist() for row in range(len(ROWS))]
    _, fresh = proposed(pair(rule), 4, texts, number=1)
    assert following.length.tolist() == fresh.length.tolist()
    for row, length in enumerate(fresh.length.tolist()):
        assert following.tokens[row, :length].equal(fresh.tokens[row, :length])


def test_greedy_tokens_are_the_verifiers_own():
    stage = StagedDrafter(model("qualifier", 2), Exact(), PromptLookup(), 3)
    _, draft = proposed(stage, 4, sampling=Sampling())
    for row, text in enumerate(ROWS):
        for place in range(int(draft.length[row])):
            law = stage.verifier.table((*text, *draft.tokens[row, :place].tolist()))  # pyright: ignore[reportAttributeAccessIssue]
            assert int(draft.tokens[row, place]) == int(law.argmax())


def test_a_flushed_buffer_ends_with_its_first_correction():
    state, draft = proposed(pair(flush_on_mismatch=True), 9)
    whole, longer = proposed(pair(), 9)
    flushed = 0
    for row, length in enumerate(draft.length.tolist()):
        assert draft.tokens[row, :length].equal(longer.tokens[row, :length]), "the same draws, up to the cut"
        own = [each for each in state.trace.rounds if each["sequence"] == row]
        assert [each["outcome"] for each in own[:-1]] == ["bonus"] * (len(own) - 1)
        assert own[-1]["outcome"] == "correction" or length >= 9
        flushed += length < 9
    assert flushed
    assert len(whole.trace.rounds) > len(state.trace.rounds)


def test_the_origin_of_each_token():
    stage = four()
    state, draft = proposed(stage, 5)
    assert draft.origins is not None
    for row in range(len(ROWS)):
        buffers = {"middle": [], "qualifier": []}
        for each in (each for each in state.trace.rounds if each["sequence"] == row):
            below = ["draft"] * each["proposed"] if each["proposer"] == "draft" else buffers["middle"]
            assert each["proposer"] == "draft" or each["origins"] == below
            buffers[each["verifier"]] += [*below[: each["accepted"]], f"{each['verifier']} {each['outcome']}"]
            if each["proposer"] == "middle":
                buffers["middle"] = []
        assert draft.origins[row] == buffers["qualifier"]
    found = {origin for row in draft.origins for origin in row}
    assert found >= {"draft", "middle correction", "qualifier correction"}


def test_a_list_of_levels_is_the_same_nesting():
    listed = hierarchy([model("qualifier", 2), model("middle", 4), model()], [3, 2])
    assert proposed(listed, 4)[1].tokens.equal(proposed(four(), 4)[1].tokens)
    over_lookup = hierarchy([model("qualifier", 2)], [3], PromptLookup(), Match(), True)
    assert isinstance(over_lookup, StagedDrafter)
    assert isinstance(over_lookup.rule, Match)
    assert over_lookup.flush_on_mismatch
    assert over_lookup.proposer.name == "lookup"
    assert hierarchy([], [], PromptLookup()).name == "lookup"


@pytest.mark.parametrize(
    ("levels", "lengths", "said"),
    [([], [], "at least one level"), (["a", "b"], [1, 2], "a, b need 1 lengths.*there are 2")],
)
def test_levels_and_lengths_that_do_not_fit_are_refused(levels, lengths, said):
    with pytest.raises(InputError, match=said):
        hierarchy([model(name) for name in levels], lengths)


def test_a_draft_length_below_1_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        pair(draft_length=0)
