"""A draft that never waits: lossless in law, greedy tokens of the target, in this process and in another."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import AMUSDDrafter
from sdbench.asynchronous.amusd import AMUSDServer
from sdbench.asynchronous.protocol import Outcome
from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model


@pytest.mark.parametrize(("ahead", "least"), [(1, 1), (2, 1), (2, 2), pytest.param(3, 1, marks=pytest.mark.slow)])
def test_lossless(ahead, least):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), AMUSDDrafter(draft, least, process=False), ahead)
    assert decoder.lossless
    # long enough that tokens of a run that survived are verified too
    assert distance_from_target(decoder, target, 4) < LOSSLESS


class Careless(AMUSDServer):
    """Wrong: goes on with a run whose next token the verifier has not chosen."""

    def serve(self, outcome):
        ahead, scores = self._ahead.copy(), [list(row) for row in self._scores]
        decided = self._decided.copy()
        speculation = super().serve(outcome)
        for row in range(len(ahead)):
            gone = int(outcome.length[row] - decided[row])
            if ahead[row] > gone >= 0 and self._rounds[row] > 0:
                keep = min(int(ahead[row]) - gone, self.length)
                speculation.logits[row, :keep] = torch.stack(scores[row][gone : gone + keep])
        return speculation


def test_the_scores_of_a_void_run_are_rejected(monkeypatch):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    monkeypatch.setattr("sdbench.asynchronous.amusd.AMUSDServer", Careless)
    decoder = Speculative(target, Exact(), AMUSDDrafter(draft, 1, process=False), 3)
    assert distance_from_target(decoder, target, 3) > 1e-3


@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_greedy_tokens(process):
    near = random_model("llama")
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    target, draft = Transformer("target", random_model("llama")), Transformer("draft", near)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist() for i in range(5)]
    requests = [Request(text, str(i)) for i, text in enumerate(texts)]

    def decode(decoder, rows):
        trace = Trace()
        done = decoder.generate(requests, Sampling(), NeverStop(), 24, rows=rows, trace=trace)
        tokens = {item.request.name: item.tokens for item in done}
        trace.close()
        return tokens, trace

    expected, _ = decode(Speculative(target), 1)
    decoder = Speculative(target, Exact(), AMUSDDrafter(draft, process=process), 6)
    for rows in (1, 3):
        got, trace = decode(decoder, rows)
        assert got == expected
        assert any(step["kind"] == "run" for step in trace.steps)
        assert max(row["accepted"] for row in trace.rounds) > 1
    decoder.close()


def test_refusals():
    with pytest.raises(InputError, match="at least 1"):
        AMUSDDrafter(TabularModel("draft", 2, 3), 0)


def test_a_run_ends_where_less_was_decided_than_before():
    """A lossy stage above may cut back behind what an inner one decided, and put the same token there."""
    draft = TabularModel("draft", 5, 1)
    server = AMUSDServer(draft, 2)
    streams = np.array([7], np.uint64)
    with torch.inference_mode():
        server.open(1, 64, 3, Sampler(Sampling(1.0)))
        server.admit(0, [1, 2], 7)
        server.serve(Outcome([True], [3], [2], [[4]], streams))
        server.work()
        server.serve(Outcome([True], [6], [5], [[0]], streams))
        server.work()
        same = int(server.state.tokens[0, 4])
        answer = server.serve(Outcome([True], [5], [4], [[same]], streams))
    drafted = answer.length[0]
    assert drafted == len(server._scores[0]) == server._ahead[0]
    before = [1, 2, *server.state.tokens[0, 2:5].tolist()]
    for place in range(drafted):
        assert torch.allclose(answer.logits[0, place].exp(), draft.table(tuple(before)).to(answer.logits.dtype))
        before.append(int(answer.tokens[0, place]))
