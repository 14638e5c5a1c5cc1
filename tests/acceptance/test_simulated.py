"""Simulated acceptance: the rate is the one that was forced, a recording is replayed, and neither looks at a token."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Draft, Forced, ProposalKind, Recorded, draw
from sdbench.acceptance.base import verify
from sdbench.acceptance.simulated_acceptance import chance
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.sampling import Sampler, Sampling, Scored

GREEDY, SAMPLED = Sampling(), Sampling(temperature=0.7)
ROWS = 20_000


def key(rows, number=0):
    return Key(np.arange(rows, dtype=np.uint64), np.full(rows, number))


def draft_of(lengths, K, sampling, V=5):
    generator = torch.Generator().manual_seed(0)
    B = len(lengths)
    tokens = torch.randint(V, (B, K), generator=generator)
    q = Scored(torch.randn(B, K, V, generator=generator), sampling)
    p = Scored(torch.randn(B, K + 1, V, generator=generator), sampling)
    return Draft(tokens, torch.tensor(lengths), q, ProposalKind.SAMPLED), p


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("K", [1, 4, 8])
@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_the_rate_is_the_forced_one(rate, K, sampling):
    draft, p = draft_of([K] * ROWS, K, sampling)
    verdict = draw(Forced(rate).law(draft, p), Sampler(sampling), key(ROWS))
    found = verdict.accepted.double().mean() / K
    # Accepted lengths lie in 0 .. K, so four standard errors of the rate are at most 4 x 0.5 / sqrt(ROWS).
    assert abs(found - rate) < 2 / np.sqrt(ROWS)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 0), (1.0, 4)])
def test_the_ends_are_certain(rate, kept):
    draft, p = draft_of([4] * 50, 4, GREEDY)
    assert (draw(Forced(rate).law(draft, p), Sampler(GREEDY), key(50)).accepted == kept).all()


def test_rows_that_draft_less_have_the_same_rate():
    lengths = [2, 6] * (ROWS // 2)
    draft, p = draft_of(lengths, 6, GREEDY)
    accepted = draw(Forced(0.6).law(draft, p), Sampler(GREEDY), key(ROWS)).accepted.double().numpy()
    for length in (2, 6):
        assert abs(accepted[np.array(lengths) == length].mean() / length - 0.6) < 3 / np.sqrt(ROWS)


def test_the_chance_solves_its_equation():
    assert chance(0.8, 1) == pytest.approx(0.8)
    a = chance(0.8, 5)
    assert sum(a**n for n in range(1, 6)) / 5 == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_recording_is_replayed_and_begins_anew(sampling):
    rule, sampler = Recorded([3, 0, 4, 1]), Sampler(sampling)
    draft, p = draft_of([4, 4, 2], 4, sampling)
    memory, replayed = rule.start(3), []
    for number in range(6):
        decided, law = verify(rule, draft, p, memory, sampler, key(3, number))
        assert law is not None
        assert law.memory is not None
        memory = law.memory(torch.tensor(decided.accepted))
        replayed.append(decided.accepted)
    whole = [3, 0, 4, 1, 3, 0]
    assert replayed == [[n, n, min(n, 2)] for n in whole]


def test_what_follows_is_the_verifiers_own():
    draft, p = draft_of([4], 4, SAMPLED)
    for rule in (Forced(0.5), Recorded([2])):
        law = rule.law(draft, p, rule.start(1))
        for n in range(5):
            torch.testing.assert_close(law.next_token(torch.tensor([n]))[0], p.probs[0, n])


def test_they_say_so():
    assert Forced().simulated
    assert Recorded().simulated
    assert not Forced().lossless_over
    assert not Recorded().lossless_over


@pytest.mark.parametrize("lengths", [[], [-1], [1.5], "401", [True]])
def test_a_bad_recording_is_refused(lengths):
    with pytest.raises(InputError, match="list of accepted lengths"):
        Recorded(lengths)


@pytest.mark.parametrize("rate", [-0.1, 1.1, "often", float("nan")])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(InputError, match="rate"):
        Forced(rate)
