"""Mirror-SD: lossless in law, the target's greedy tokens, branches from the target's own early exit in the middle of its step."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import MirrorDrafter, Undrafted, Uniform
from sdbench.asynchronous.mirror import MirrorServer
from sdbench.asynchronous.protocol import Outcome
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter, StagedDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model

SAMPLINGS = {"greedy": Sampling(), "sampled": Sampling(0.8, top_k=30, top_p=0.95)}


@pytest.mark.parametrize(("length", "backup", "new"), [(1, None, 3), (2, Undrafted(), 2)])
def test_lossless(length, backup, new):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), MirrorDrafter(draft, target, 1, 1, backup, process=False), length)
    assert decoder.lossless
    assert distance_from_target(decoder, target, new) < LOSSLESS


class Mixed(MirrorServer):
    """Wrong: states the laws of another branch than the one whose tokens it sends."""

    def serve(self, outcome):
        speculation, drafted = super().serve(outcome), self.cache.drafted
        if all(speculation.hit) and drafted is not None:
            speculation.logits = drafted.of([drafted.width - 1 - self._branch[0]])[1]
        return speculation


def test_the_law_of_another_branch_is_rejected(monkeypatch):
    monkeypatch.setattr("sdbench.asynchronous.mirror.MirrorServer", Mixed)
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), MirrorDrafter(draft, target, 1, 1, process=False), 1)
    assert distance_from_target(decoder, target, 3) > 1e-3


def pair(architecture="llama"):
    near = random_model(architecture)
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    return Transformer("target", random_model(architecture)), Transformer("draft", near)


def decode(decoder, sampling=SAMPLINGS["greedy"], rows=1):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist() for i in range(4)]
    requests, trace = [Request(text, str(i)) for i, text in enumerate(texts)], Trace()
    done = decoder.generate(requests, sampling, NeverStop(), 14, seed=3, rows=rows, trace=trace)
    tokens = {item.request.name: item.tokens for item in done}
    trace.close()
    return tokens, trace


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_tokens_are_those_of_synchronous_decoding(sampling, rows):
    target, draft = pair()
    expected, plain = decode(Speculative(target, Exact(), ModelDrafter(draft), 3), SAMPLINGS[sampling])
    mirror = MirrorDrafter(draft, target, 3, 3, process=False)
    got, trace = decode(Speculative(target, Exact(), mirror, 3), SAMPLINGS[sampling], rows)
    assert got == expected
    assert len(trace.rounds) == len(plain.rounds)
    hits = [row["hit"] for row in trace.rounds]
    assert any(hits)
    assert not all(hits)


def test_a_pyramid_over_it_reads_the_exit_of_its_own_verifier():
    target, draft = pair()
    qualifier = Transformer("qualifier", random_model("llama"))
    expected, _ = decode(Speculative(target))
    inner = StagedDrafter(qualifier, Exact(), MirrorDrafter(draft, qualifier, 3, 3, process=False), 2)
    got, trace = decode(Speculative(target, Exact(), inner, 4))
    assert got == expected
    assert any(row["hit"] for row in trace.rounds if row["edge"] == "draft>qualifier")


def test_the_branches_come_from_the_early_exit_and_nothing_runs_twice(monkeypatch):
    """The exit names the roots before the upper layers have run. A hit is an outcome among them."""
    target, draft = pair()
    calls, named = [], []
    for number in (0, 3):
        target.model.model.layers[number].register_forward_hook(lambda *_, at=number: calls.append(at))
    grow = MirrorServer._grow

    def watched(self, caller, likely=None):
        grow(self, caller, likely)
        if likely is not None:
            calls.append("exit")
            named.append((likely[0], [dict(row) for row in self.cache.branches], self._verified[0], self._drafted[0]))

    monkeypatch.setattr(MirrorServer, "_grow", watched)
    _, trace = decode(Speculative(target, Exact(), MirrorDrafter(draft, target, 2, 2, process=False), 3))
    rounds = len(trace.rounds)
    assert calls.count(0) == calls.count(3) == rounds + 4, "each layer runs once a round, and once for each prompt"
    assert [calls[at : at + 3] for at, call in enumerate(calls[:-2]) if calls[at + 1] == "exit"] == [
        [0, "exit", 3]
    ] * rounds
    for likely, (held,), verified, drafted in named:
        wanted = {
            (k, token)
            for k, line in enumerate(likely)
            for token in [t for t in line if k == drafted or t != verified[k]][:2]
        }
        assert held.keys() == wanted


def test_an_exit_in_the_middle_is_the_truncated_model():
    for architecture in ("llama", "qwen3-sliding", "gemma3", "phi3", "gpt2"):
        model = Transformer("target", random_model(architecture))
        model.allocate(2, 16)
        tokens = torch.randint(0, V, (2, 5), generator=torch.Generator().manual_seed(1))
        positions, seen = torch.arange(5).expand(2, -1), []
        with torch.inference_mode():
            expected = model.truncated(2).model(tokens, use_cache=False).logits[:, -3:]
            model.exit_once(2, lambda logits, rows, seen=seen: seen.append((logits, rows)))
            for _ in range(2):  # the second step is not asked
                model.step(tokens, positions, positions, num_logits=3, attend_len=5)
        ((logits, rows),) = seen
        assert rows == slice(None)
        assert torch.allclose(logits, expected, atol=1e-5), architecture


def test_without_an_early_exit_the_cache_is_empty(monkeypatch):
    """The state machine alone: after an answer the server waits. Nothing of an older cache answers the next outcome."""
    server = MirrorServer(pair()[1], Uniform(2))
    streams = np.array([7], np.uint64)
    with torch.inference_mode():
        server.open(1, 64, 2, Sampler(Sampling()))
        server.admit(0, [5, 3, 8], 7)
        server.serve(Outcome([True], [4], [3], [[9]], streams))
        server.work()
        server.early_exit([[[1, 2, 3], [1, 2, 3], [1, 2, 3]]])
        assert (2, 1) in server.cache.branches[0]
        assert server.serve(Outcome([True], [7], [6], [[1]], streams)).hit == [True]
        server.work()
        assert server.cache.branches == [{}]
        assert server.serve(Outcome([True], [10], [9], [[1]], streams)).hit == [False]


@pytest.mark.slow
def test_in_a_process():
    target, draft = pair()
    expected, _ = decode(Speculative(target))
    decoder = Speculative(target, Exact(), MirrorDrafter(draft, target, 3, 3), 3)
    for rows in (1, 3):
        got, trace = decode(decoder, rows=rows)
        assert got == expected
        assert any(row["hit"] for row in trace.rounds if row["round"])
    decoder.close()


def test_refusals():
    target, draft = pair()
    with pytest.raises(InputError, match="choose 1 to 3"):
        MirrorDrafter(draft, target, 4)
    with pytest.raises(InputError, match="width"):
        MirrorDrafter(draft, target, 2, 0)
    compiled = Transformer("target", target.model, execution=execution_of("compile"))
    with pytest.raises(InputError, match="execution=eager"):
        MirrorDrafter(draft, compiled, 2)
