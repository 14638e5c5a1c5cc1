"""Lookahead decoding: the window against plain Jacobi steps, the pool, and nodes that are read but not tested."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.acceptance.draft import Draft
from sdbench.decoding import Request, Speculative
from sdbench.drafting import Lookahead
from sdbench.errors import InputError
from sdbench.exactness import TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.drafting.states import V, begun, key_of, model, state_of


def best(target, context):
    return int(target.table(tuple(context)).argmax())


@pytest.mark.parametrize(("window", "ngram"), [(1, 2), (3, 2), (3, 3), (2, 4), (4, 5)])
def test_the_window_is_that_of_plain_jacobi_steps(window, ngram):
    """Each column sees the decided tokens, level 0 up to itself, and its own older levels."""
    target, proposer = model("target"), Lookahead(window, ngram, 2)
    state = state_of([[1, 2, 3]])
    target.allocate(1, 40)
    begun(proposer, state, 0)
    text = [1, 2, 3]
    levels = [list(proposer._rows[0].levels[0])]
    pool: dict[int, list[tuple[int, ...]]] = {}
    for _ in range(2 * ngram):
        draft = proposer.propose(state, 0, key_of(state))
        width = draft.tokens.shape[1]
        assert width <= proposer.max_lookahead(0)
        state.place_many(draft.tokens, state.length)
        output = target.score(state, width, draft.topology)
        proposer.observe(state, draft, output.logits)
        found = []
        for column in range(len(levels[0]) + 1):
            seen = [*text, *levels[0][:column], *(level[column] for level in levels[1:])]
            found.append(best(target, seen))
        if len(levels) == ngram - 1:
            assert len(levels[0]) == window - 1
            for column, key in enumerate([text[-1], *levels[0]]):
                gram = (*(level[column] for level in levels[1:]), found[column])
                own = [one for one in pool.get(key, []) if one != gram]
                pool[key] = [*own, gram][-2:]
            levels = [*levels[1:], found]
            levels[0] = levels[0][1:]
        else:
            levels = [*(level[1:] for level in levels), found[1:]]
        assert proposer._rows[0].levels == levels
        assert proposer._rows[0].pool == pool
        target.keep([len(text)], [[]])
        text.append(best(target, text))
        state.place([text[-1]], state.length)
        state.length[0] += 1


def test_the_candidates_are_the_newest_n_grams():
    proposer, state = Lookahead(2, 3, 2), state_of([[1, 2, 3]])
    begun(proposer, state, 0)
    proposer._rows[0].pool = {3: [(4, 5), (4, 0)], 2: [(1, 1)]}
    draft = proposer.propose(state, 0, key_of(state))
    assert draft.tested == [3]
    assert draft.tokens[0, :3].tolist() == [4, 0, 5]
    assert draft.topology is not None
    assert draft.topology[0].parent[:3] == (0, 1, 1)


def test_the_window_is_read_but_no_candidate():
    """The trace has the candidates alone; the steps show what was read."""
    target, trace = TabularModel("target", V, 1, sharpness=6.0), Trace()
    decoder = Speculative(target, Exact(), Lookahead(3, 3, 2))
    list(decoder.generate([Request([1, 2, 3], "one")], Sampling(), NeverStop(), 20, trace=trace))
    trace.close()
    verified = [row["nodes"] for row in trace.rounds if "nodes" in row]
    assert max(verified, default=0) <= 4
    assert all(step["tokens"] >= 1 + 3 for step in trace.steps if step["kind"] == "verify"), "window and root"


def test_scores_of_the_window_in_place_of_the_candidates_are_rejected(monkeypatch):
    """Wrong: the verifier tests the candidates against the last scores of the forward, which are those of the window."""
    honest = Draft.candidates

    def wrong(self, p):
        draft, scores = honest(self, p)
        return (draft, p[:, p.logits.shape[1] - scores.logits.shape[1] :]) if draft.topology else (draft, scores)

    monkeypatch.setattr(Draft, "candidates", wrong)
    target = TabularModel("target", 2, 1)
    decoder = Speculative(target, Exact(), Lookahead(2, 2, 2))
    assert decoder.lossless, "it claims to be"
    assert distance_from_target(decoder, target, 4, (0, 1)) > 1e-3


def test_a_draft_without_untested_nodes_stays_as_it_is():
    draft = Draft(torch.zeros(1, 2, dtype=torch.long), torch.tensor([2]), None, Lookahead.kind)
    scores = object()
    assert draft.candidates(scores) == (draft, scores)  # pyright: ignore[reportArgumentType]


def test_wrong_values():
    with pytest.raises(InputError, match="ngram is 1; it must be a whole number of at least 2"):
        Lookahead(ngram=1)
