"""Proofs by enumeration: what each rule's stream is, against its definition in plain Python."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import (
    EARS,
    Block,
    Cactus,
    Cascade,
    Ensemble,
    Exact,
    Fuzzy,
    Lenience,
    Match,
    Mentored,
    ProposalKind,
    Thresholds,
    Traversal,
    ZhouJoint,
    draw,
)
from sdbench.acceptance.base import Law, Memoryless, ratio, residual, row, tokenwise
from sdbench.keyed_random import Key, stream
from sdbench.sampling import Sampler

from .definitions import DEFINITIONS, cascade, mixture
from .enumeration import (
    SAMPLINGS,
    WORLDS,
    Place,
    by_hand,
    completed,
    distance,
    first,
    norm,
    rest,
    round_law,
    tensors,
    verifiers_own,
)

LOSSLESS = {
    "exact": Exact(),
    "match": Match(),
    "fuzzy": Fuzzy(0, divergence="tv"),
    "fuzzy, fallback": Fuzzy(0, divergence="tv", form="fallback"),
    "lenience": Lenience(1.0),
    "thresholds": Thresholds(1.0, 1.0),
    "mentored": Mentored(0),
    "cactus": Cactus(0),
    "diff": Cascade("diff", -1),
    "token_v1": Cascade("token_v1", -1),
    "token_v2": Cascade("token_v2", -1),
    "ensemble": Ensemble(1),
    "block": Block(),
    "zhou_joint": ZhouJoint(),
    "traversal": Traversal(),
    "ears": EARS(0),
}


def off_by(rule, kind, drafts=None, K=2, worlds=WORLDS):
    """The largest distance of the joint law of K+1 tokens from the verifier's own."""
    return max(
        distance(
            completed(round_law(rule, world, K, sampling, kind, drafts), world[0], K + 1, sampling),
            verifiers_own(world[0], K + 1, sampling),
        )
        for world in worlds.values()
        for sampling in SAMPLINGS
    )


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_stream_is_what_the_definition_says(name):
    rule, accept, replace, wrong = DEFINITIONS[name]
    rejected = 0.0
    for world in WORLDS.values():
        for K, sampling in ((1, SAMPLINGS[0]), (2, SAMPLINGS[1])):
            said = round_law(rule, world, K, sampling)
            assert distance(said, by_hand(accept, replace, world, K, sampling)) < 1e-12
            rejected = max(rejected, distance(said, by_hand(accept, wrong, world, K, sampling)))
    assert rejected > 1e-3, "the proof cannot tell the right replacement from a wrong one"


@pytest.mark.parametrize("name", [name for name in DEFINITIONS if not DEFINITIONS[name][0].lossless_over])
def test_a_rule_that_calls_itself_lossy_is(name):
    assert off_by(DEFINITIONS[name][0], ProposalKind.SAMPLED, K=1) > 1e-3


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_over_tokens_drawn_from_q(name):
    assert ProposalKind.SAMPLED in LOSSLESS[name].lossless_over
    assert off_by(LOSSLESS[name], ProposalKind.SAMPLED) < 1e-12


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_over_deterministic_tokens(name):
    assert ProposalKind.DETERMINISTIC in LOSSLESS[name].lossless_over
    for chain in [(0, 0), (2, 1)]:
        assert off_by(LOSSLESS[name], ProposalKind.DETERMINISTIC, {chain: 1.0}) < 1e-12


@pytest.mark.parametrize("rule", [Match(), Thresholds()])
def test_lossless_over_tokens_that_were_not_drawn_from_q(rule):
    assert ProposalKind.RELABELLED in rule.lossless_over
    for chain in [(0, 0), (2, 1)]:
        assert off_by(rule, ProposalKind.RELABELLED, {chain: 1.0}) < 1e-12


@pytest.mark.parametrize(
    "name", [name for name in LOSSLESS if ProposalKind.RELABELLED not in LOSSLESS[name].lossless_over]
)
def test_a_nominal_q_breaks_the_rules_that_read_it(name):
    assert off_by(LOSSLESS[name], ProposalKind.RELABELLED, {(0, 0): 1.0}) > 1e-3


class VerifierInPlaceOfResidual(Memoryless):
    def law(self, draft, p, memory=None):
        return tokenwise(draft, p, ratio(p.probs, draft.scored(p).probs, draft))


class EverythingKept(Memoryless):
    def law(self, draft, p, memory=None):
        return tokenwise(draft, p, torch.ones_like(draft.tokens))


class Unnormalised(Memoryless):
    def law(self, draft, p, memory=None):
        q = draft.scored(p).probs
        law = Exact().law(draft, p)
        return Law(law.accepted, lambda n: (p.probs[:, 0] - q[:, 0]).clamp(min=0))


class ResidualOfTheWrongPlace(Memoryless):
    def law(self, draft, p, memory=None):
        q = draft.scored(p)
        passes = ratio(p.probs, q.probs, draft)
        return tokenwise(draft, p, passes, lambda n: residual(row(p, n * 0).probs, row(q, n * 0).probs))


@pytest.mark.parametrize("wrong", [VerifierInPlaceOfResidual(), EverythingKept(), ResidualOfTheWrongPlace()])
def test_the_proof_rejects_wrong_variants_of_the_exact_rule(wrong):
    assert off_by(wrong, ProposalKind.SAMPLED) > 1e-2


def test_the_proof_rejects_what_is_not_a_law():
    with pytest.raises(AssertionError):
        round_law(Unnormalised(), WORLDS["random"], 1, SAMPLINGS[0])


@pytest.mark.parametrize(
    ("rule", "pi"),
    [
        (Ensemble(0.4), mixture(0.4)),
        (Cascade("chow", 0.4), cascade("chow", 0.4)),
        (Cascade("diff", 0.1), cascade("diff", 0.1)),
        (Cascade("opt", 0.3), cascade("opt", 0.3)),
        (Cascade("token_v1", 0.2), cascade("token_v1", 0.2)),
        (Cascade("token_v2", 0.2), cascade("token_v2", 0.2)),
        (Cascade("token_v3", 0.5), cascade("token_v3", 0.5)),
    ],
)
def test_the_next_token_has_the_law_that_the_rule_aims_at(rule, pi):
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            at = Place(0, world[0](()), world[1](()), sampling)
            assert first(round_law(rule, world, 1, sampling), world[0].V) == pytest.approx(pi(at), abs=1e-12)


def test_leniency_keeps_below_its_bound_and_has_the_closed_form():
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            at = Place(0, world[0](()), world[1](()), sampling)
            kept = [min(b, a / 0.3) for a, b in zip(at.p, at.q, strict=True)]
            closed = [k + (1 - sum(kept)) * r for k, r in zip(kept, rest(at.p, at.q), strict=True)]
            out = first(round_law(Lenience(0.3), world, 1, sampling), world[0].V)
            assert out == pytest.approx(closed, abs=1e-12)
            assert all(o <= a / 0.3 + 1e-12 for o, a in zip(out, at.p, strict=True))
            # The residual that belongs to the test is the exact rule's.
            consistent = norm([max(a - k, 0.0) for a, k in zip(at.p, kept, strict=True)])
            assert consistent == pytest.approx(rest(at.p, at.q), abs=1e-12)


def test_where_the_proposer_covers_the_verifier_the_residual_is_the_verifier():
    """No token drawn from q gets there, but a nominal draft may, and must not be answered with any token at all."""
    p = torch.tensor([[0.7, 0.3, 0.0]])
    assert residual(p, p).tolist() == p.tolist()
    assert residual(p, torch.tensor([[0.6, 0.4, 0.0]])).tolist() == [[1.0, 0.0, 0.0]]


def test_drawing_follows_the_law():
    """4,000 rows of one draft, each with a stream of its own: frequencies near the law's probabilities."""
    rows, sampling = 4000, SAMPLINGS[0]
    draft, p = tensors(WORLDS["random"], [(0, 1)] * rows, sampling)
    law = Exact().law(draft, p)
    streams = np.array([stream(0, f"row {b}", 0) for b in range(rows)], dtype=np.uint64)
    verdict = draw(law, Sampler(sampling), Key(streams, np.zeros(rows, dtype=np.int64)))
    for n in range(3):
        these = verdict.next_token[verdict.accepted == n]
        assert len(these) / rows == pytest.approx(law.accepted[0, n].item(), abs=0.03)
        following = law.next_token(torch.full((rows,), n))[0]
        for token in range(3):
            assert (these == token).double().mean().item() == pytest.approx(following[token].item(), abs=0.06)
