"""Length policies: how far they draft, and which values they may look at."""

import pytest
import torch

from sdbench.drafting import Fixed, ModelDrafter, StopWhenUnsure
from sdbench.errors import InputError
from sdbench.sampling import Sampling, Scored
from tests.drafting.states import begun, key_of, model, state_of


def test_the_fixed_policy_drafts_as_far_as_asked():
    scored = Scored(torch.zeros(2, 5), Sampling())
    assert Fixed().go_on(scored, torch.tensor([0, 1])) is None
    state = state_of([[1, 2], [3, 4]])
    draft = begun(ModelDrafter(model(), Fixed()), state, 4).propose(state, 4, key_of(state))
    assert draft.full
    assert draft.length.tolist() == [4, 4]


def test_it_stops_behind_the_first_token_below_the_threshold():
    scored = Scored(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log(), Sampling(0.1))
    # The probability is the un-warped one: at temperature 0.1 token 0 would have almost all mass.
    assert StopWhenUnsure(0.5).go_on(scored, torch.tensor([0, 1])).tolist() == [True, False]
    assert StopWhenUnsure(0.15).go_on(scored, torch.tensor([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5])
def test_every_kept_token_but_the_last_is_sure(threshold):
    lm, asked = model(), 6
    state = state_of([[row, row + 1] for row in range(4)], Sampling(1.0))
    draft = begun(ModelDrafter(lm, StopWhenUnsure(threshold)), state, asked).propose(state, asked, key_of(state))
    assert draft.q is not None
    for row, length in enumerate(draft.length.tolist()):
        own = draft.q.plain[row].gather(-1, draft.tokens[row, :, None])[:length, 0]
        assert (own[:-1] >= threshold).all()
        assert length == asked or own[-1] < threshold
    assert len(set(draft.length.tolist())) > 1, "the rows stop at different lengths"


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_outside_0_and_1_is_refused(threshold):
    with pytest.raises(InputError, match="must lie in"):
        StopWhenUnsure(threshold)
