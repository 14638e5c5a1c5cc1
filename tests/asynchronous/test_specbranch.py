"""SpecBranch: lossless in law, the target's greedy tokens, drafts that end where the draft is unsure, branches behind them."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import SpecBranchDrafter
from sdbench.asynchronous.protocol import Outcome
from sdbench.asynchronous.specbranch import AtBranchPoint, SpecBranchServer, confidence
from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model


@pytest.mark.parametrize(("branches", "epsilon", "length"), [(2, 0.8, 2), (1, 0.7, 1), (2, 0.0, 1), (2, 1.0, 1)])
def test_lossless(branches, epsilon, length):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), SpecBranchDrafter(draft, branches, epsilon, process=False), length)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3 if length == 1 else 2) < LOSSLESS


class ValueDropped(SpecBranchServer):
    """Wrong: the draft ends before a drawn token of low probability, so it depends on the token's value."""

    def serve(self, outcome):
        speculation = super().serve(outcome)
        own = torch.softmax(speculation.logits, -1).gather(-1, speculation.tokens[..., None])[..., 0]
        sure = (own >= self.epsilon).long().cumprod(-1).sum(-1).tolist()
        speculation.length = self._drafted = [min(self.length, count) for count in sure]
        return speculation


def test_a_draft_cut_by_a_drawn_token_is_rejected(monkeypatch):
    monkeypatch.setattr("sdbench.asynchronous.specbranch.SpecBranchServer", ValueDropped)
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), SpecBranchDrafter(draft, 2, 0.4, process=False), 1)
    assert distance_from_target(decoder, target, 3) > 1e-3


@pytest.fixture(scope="module")
def pair():
    """A target, and a draft that agrees with it often and is sometimes sure."""
    target, near = random_model("llama"), random_model("llama")
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    return Transformer("target", target), Transformer("draft", near)


@pytest.mark.parametrize(("epsilon", "rows"), [(0.0, 3), (0.25, 1), (0.25, 3), (1.0, 1)])
def test_greedy_tokens(pair, epsilon, rows):
    target, draft = pair
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist() for i in range(4)]
    requests = [Request(text, str(i)) for i, text in enumerate(texts)]

    def decode(decoder, rows):
        trace = Trace()
        done = decoder.generate(requests, Sampling(), NeverStop(), 14, rows=rows, trace=trace)
        tokens = {item.request.name: item.tokens for item in done}
        trace.close()
        return tokens, trace

    expected, _ = decode(Speculative(target), 1)
    drafter = SpecBranchDrafter(draft, 3, epsilon, process=False)
    got, trace = decode(Speculative(target, Exact(), drafter, 4), rows)
    assert got == expected
    lengths = {row["proposed"] for row in trace.rounds}
    assert len(lengths) > 2 if epsilon == 0.25 else lengths == {4 if epsilon == 0 else 0}
    for row, after in zip(trace.rounds, trace.rounds[1:], strict=False):
        if rows == 1 and row["sequence"] == after["sequence"] and row["accepted"] < row["proposed"]:
            assert not after["hit"], "every branch is behind the whole draft"
    assert any(row["hit"] for row in trace.rounds)


def test_the_branches_of_a_draft(pair):
    """The state machine alone: a draft ends before the first unsure place; fewer branches start where the draft is surer."""
    draft = pair[1]
    counted = set()
    for epsilon in (0.2, 0.4):
        server = SpecBranchServer(draft, AtBranchPoint(6), epsilon)
        with torch.inference_mode():
            server.open(1, 64, 4, Sampler(Sampling()))
            server.admit(0, [5, 3, 8], 7)
            length, token = 4, 9
            for number in range(8):
                answer = server.serve(Outcome([True], [length], [length - 1], [[token]], np.array([7], np.uint64)))
                server.work()
                kept, sure = answer.length[0], confidence(answer.logits)[0].tolist()
                assert all(q >= epsilon for q in sure[:kept])
                assert kept == 4 or sure[kept] < epsilon
                held, behind = server.cache.branches[0], confidence(server._glue[0, kept]).item()
                assert {k for k, _ in held} == {kept}
                assert len(held) == max(1, int(6 * (1 - behind)))
                counted.add(len(held))
                best = server._glue[0, kept].argmax().item()
                assert (kept, best) in held
                length, token = length + kept + 1, best
                assert number == 0 or answer.hit == [True]
    assert len(counted) > 2


def test_refusals():
    with pytest.raises(InputError, match="branches"):
        SpecBranchDrafter(TabularModel("draft", 2, 3), 0)
    with pytest.raises(InputError, match="epsilon"):
        SpecBranchDrafter(TabularModel("draft", 2, 3), epsilon=1.5)
