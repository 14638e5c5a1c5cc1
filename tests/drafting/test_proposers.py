"""What holds of every proposer: the state stays as it is, and the draft has the shape and the law that it states."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact, Match, ProposalKind
from sdbench.asynchronous import AMUSDDrafter, OnDemandDrafter, SSDDrafter, Uniform
from sdbench.drafting import EarlyExit, ModelDrafter, NoDraft, PromptLookup, StagedDrafter, StopWhenUnsure
from sdbench.drafting.lengths import limited
from sdbench.sampling import Sampling
from tests.drafting.states import V, begun, key_of, model, state_of

ROWS = [[1, 2, 3, 1, 2], [4, 0, 4, 0, 4, 0], [5, 5]]

PROPOSERS = {
    "model": lambda: ModelDrafter(model()),
    "model, stops when unsure": lambda: limited(ModelDrafter(model()), StopWhenUnsure(0.3), 3, model("target")),
    "early exit": lambda: EarlyExit(model("target"), 1),
    "lookup": PromptLookup,
    "none": NoDraft,
    "staged": lambda: StagedDrafter(model("qualifier", 2), Exact(), ModelDrafter(model()), 2),
    "staged, truncated": lambda: StagedDrafter(model("qualifier", 2), Match(), ModelDrafter(model()), 2, truncate=True),
    "three high": lambda: StagedDrafter(
        model("target", 1), Exact(), StagedDrafter(model("qualifier", 2), Exact(), ModelDrafter(model()), 2), 2
    ),
    "ssd": lambda: SSDDrafter(model(), Uniform(2), process=False),
    "on demand": lambda: OnDemandDrafter(model(), process=False),
    "amusd": lambda: AMUSDDrafter(model(), process=False),
}


@pytest.mark.parametrize("name", PROPOSERS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8)], ids=["greedy", "sampled"])
def test_a_proposer_leaves_the_state_to_the_loop(name, sampling):
    state, length = state_of(ROWS, sampling), 3
    proposer = begun(PROPOSERS[name](), state, length)
    for number in range(3):
        before, lengths, active = state.tokens.clone(), state.length.copy(), state.active.copy()
        draft = proposer.propose(state, length, key_of(state, number))
        assert state.tokens.equal(before)
        assert np.array_equal(state.length, lengths)
        assert np.array_equal(state.active, active)
        rows, K = draft.tokens.shape
        assert rows == len(ROWS)
        assert proposer.max_lookahead(length) >= K
        assert int(draft.length.max()) <= K
        assert draft.full in (False, bool((draft.length == K).all()))
        if draft.q is not None:
            assert draft.q.logits.shape == (rows, K, V)
            # No token was drafted against its own law.
            kept = torch.arange(K) < draft.length[:, None]
            assert (draft.q.probs.gather(-1, draft.tokens[..., None])[..., 0][kept] > 0).all()
        elif K:
            assert draft.kind is ProposalKind.DETERMINISTIC
        # The verifier keeps one drafted token, where there is one, and adds a token of its own.
        state.place_many(draft.tokens, state.length)
        kept = np.minimum(draft.length.numpy(), 1)
        state.place([number] * rows, state.length + kept)
        state.length[:] += kept + 1
        proposer.commit(state.length - 1)


@pytest.mark.parametrize("name", PROPOSERS)
def test_an_inactive_row_changes_nothing_in_the_others(name):
    drafts = []
    for active in ([True, True, True], [True, False, True]):
        state = state_of(ROWS)
        proposer = begun(PROPOSERS[name](), state, 3)
        draft = proposer.propose(state.ahead(state.length, np.array(active)), 3, key_of(state))
        drafts.append(
            [(int(draft.length[row]), draft.tokens[row, : int(draft.length[row])].tolist()) for row in (0, 2)]
        )
    assert drafts[0] == drafts[1]
