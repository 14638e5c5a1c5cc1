"""No draft: the speculative loop is autoregressive decoding."""

import pytest

from sdbench.decoding import Request, Speculative
from sdbench.drafting import NoDraft
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.drafting.states import begun, key_of, model, state_of


def test_the_draft_is_empty():
    state = state_of([[1, 2], [3, 4]])
    draft = begun(NoDraft(), state, 4).propose(state, 4, key_of(state))
    assert draft.tokens.shape == (2, 0)
    assert draft.length.tolist() == [0, 0]


@pytest.mark.parametrize("rows", [1, 2])
def test_each_round_is_one_forward_and_one_token(rows):
    target, trace = model("target"), Trace()
    requests = [Request([1, 2], "a"), Request([3], "b")]
    done = list(Speculative(target).generate(requests, Sampling(), NeverStop(), 5, rows=rows, trace=trace))
    for item in done:
        text = list(item.request.tokens)
        for token in item.tokens:
            assert token == int(target.table(tuple(text)).argmax())
            text.append(token)
        assert item.target_calls == 4
    assert {(row["edge"], row["proposer"], row["verifier"]) for row in trace.rounds} == {("target", "", "target")}
    assert all(row["proposed"] == row["accepted"] == 0 and row["emitted"] == 1 for row in trace.rounds)
