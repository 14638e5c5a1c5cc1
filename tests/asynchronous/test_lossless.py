"""SSD's exact output law on tabular models: lossless for every back-up and every C; its wrong variants are seen."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import Lookup, Neural, Random, Saguaro, SpeculationServer, SSDDrafter, Undrafted, Uniform
from sdbench.asynchronous.backup import BackedUp
from sdbench.decoding import Speculative
from sdbench.drafting import StagedDrafter
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target

V = 2


@pytest.fixture(scope="module")
def models():
    return [TabularModel(name, V, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


def remote(draft, **knobs):
    return SSDDrafter(draft, Uniform(1), process=False, **knobs)


LOSSLESS_ARMS = {
    "neural": {},
    "neural, whole batch": {"backup": Neural(whole_batch=True)},
    "lookup": {"backup": Lookup()},
    "random": {"backup": Random()},
    "none": {"backup": Undrafted()},
    "C = 0.5": {"saguaro": Saguaro(0.5, top=1)},
    "C = 0.1": {"saguaro": Saguaro(0.1, top=1)},
    "C = 0": {"saguaro": Saguaro(0.0, top=1)},
    "C = 0.1, random": {"saguaro": Saguaro(0.1, top=1), "backup": Random()},
}


@pytest.mark.parametrize("name", LOSSLESS_ARMS)
def test_lossless(models, name):
    target, _, draft = models
    decoder = Speculative(target, Exact(), remote(draft, **LOSSLESS_ARMS[name]), 1)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3) < LOSSLESS


def test_two_drafted_tokens(models):
    target, _, draft = models
    decoder = Speculative(target, Exact(), remote(draft, backup=Undrafted()), 2)
    assert distance_from_target(decoder, target, 2) < LOSSLESS


def test_a_pyramid_over_it_is_lossless(models):
    target, qualifier, draft = models
    pair = StagedDrafter(qualifier, Exact(), remote(draft), 1)
    decoder = Speculative(target, Exact(), pair, 1)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 2) < LOSSLESS


class UnmodifiedQ(SpeculationServer):
    """Wrong: draws from sigma, and says that it was the draft's own distribution."""

    def serve(self, outcome):
        speculation = super().serve(outcome)
        shift = self.state.sampler.sampling.temperature * np.log(self.saguaro.c)
        logits = speculation.logits
        # On two tokens with F = 1 the modified token is the likelier one before the change.
        first = logits.clone()
        first[..., 0] -= shift
        was_first = first.argmax(-1, keepdim=True) == 0
        second = logits.clone()
        second[..., 1] -= shift
        speculation.logits = torch.where(was_first, first, second)
        return speculation


class GreedyRandom(Random):
    """Wrong: a random token said to be drawn from the draft."""

    def draft(self, request):
        backed = super().draft(request)
        return BackedUp(
            backed.tokens, backed.length, torch.log(torch.tensor([0.9, 0.1])).expand(*backed.tokens.shape, 2)
        )


def test_an_unmodified_q_in_the_test_is_rejected(models, monkeypatch):
    target, _, draft = models
    monkeypatch.setattr("sdbench.asynchronous.drafter.SpeculationServer", UnmodifiedQ)
    decoder = Speculative(target, Exact(), remote(draft, saguaro=Saguaro(0.1, top=1)), 1)
    assert distance_from_target(decoder, target, 3) > 1e-3


def test_a_backup_with_another_q_is_rejected(models):
    target, _, draft = models
    decoder = Speculative(target, Exact(), remote(draft, backup=GreedyRandom()), 1)
    assert distance_from_target(decoder, target, 3) > 1e-3


@pytest.mark.parametrize("c", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_sigma_is_definition_14(c, temperature):
    from sdbench.sampling import Sampling, warp

    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature)
    made = warp(Saguaro(c).modify(logits, 2, sampling), sampling)
    q = warp(logits, sampling)
    weights = torch.where(q >= q.topk(3).values[:, -1:], c * q, q)
    assert torch.allclose(made, weights / weights.sum(-1, keepdim=True), atol=1e-12)


def test_a_smaller_c_hits_more_and_accepts_less():
    """Theorem 15, measured: the same prompts, models and seeds."""
    from sdbench.decoding import Request
    from sdbench.lm.trace import Trace
    from sdbench.sampling import Sampling
    from sdbench.stopping import NeverStop

    target, draft = TabularModel("target", 12, 1), TabularModel("draft", 12, 1, sharpness=1.2)
    hits, accepted = [], []
    for c in (1.0, 0.3, 0.05):
        decoder = Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), saguaro=Saguaro(c), process=False), 2)
        trace = Trace()
        requests = [Request([index % 12, index // 12], str(index)) for index in range(40)]
        for _ in decoder.generate(requests, Sampling(1.0), NeverStop(), 12, trace=trace):
            pass
        trace.close()
        hits.append(np.mean([row["hit"] for row in trace.rounds]))
        accepted.append(np.mean([row["accepted"] for row in trace.rounds]))
    assert hits[0] < hits[1] < hits[2]
    assert accepted[0] > accepted[1] > accepted[2]
