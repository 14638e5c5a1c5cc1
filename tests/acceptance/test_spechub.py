"""SpecHub by enumeration: lossless over its pairs, and as good as any rule over them (optimal transport)."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import Exact, KSeq, SpecHub, Traversal
from sdbench.sampling import Sampling
from sdbench.topology import Topology

from .enumeration import WORLDS, completed, distance, verifiers_own
from .trees import round_law, tokens_per_round, transport_bound

ONCE, WARPED = Sampling(1.0), Sampling(0.6, top_k=2)
PAIR = Topology.branching([2])
NAMES = [name for name in WORLDS if name != "certain proposer"]  # which has no second token


def off_by(rule, tree, siblings, names=("random", "near"), sampling=ONCE, total=3):
    return max(
        distance(
            completed(round_law(rule, WORLDS[name], tree, siblings, sampling), WORLDS[name][0], total, sampling),
            verifiers_own(WORLDS[name][0], total, sampling),
        )
        for name in names
    )


def chance(rule, name, siblings, sampling=ONCE):
    """The probability that one of two candidates is kept."""
    return tokens_per_round(round_law(rule, WORLDS[name], PAIR, siblings, sampling)) - 1


@pytest.mark.parametrize("widths", [[1], [2], [2, 1], [1, 2]])
def test_lossless_over_its_pairs(widths):
    assert off_by(SpecHub(), Topology.branching(widths), "hub") < 1e-12


@pytest.mark.parametrize("sampling", [ONCE, WARPED, Sampling(0.0)], ids=["1", "warped", "greedy"])
def test_lossless_in_every_world(sampling):
    assert off_by(SpecHub(), PAIR, "hub", NAMES, sampling, 2) < 1e-12


def test_the_exact_rule_is_lossless_over_the_pairs_too():
    assert off_by(Exact(), Topology.branching([2, 1]), "hub") < 1e-12


@pytest.mark.parametrize("siblings", ["with", "without"])
def test_other_pairs_break_it(siblings):
    assert off_by(SpecHub(), PAIR, siblings) > 1e-3


@pytest.mark.parametrize("sampling", [ONCE, WARPED], ids=["1", "warped"])
@pytest.mark.parametrize("name", NAMES)
def test_no_rule_keeps_more_of_its_pairs(name, sampling):
    kept = chance(SpecHub(), name, "hub", sampling)
    assert kept == pytest.approx(transport_bound(WORLDS[name], PAIR, "hub", sampling), abs=1e-12)
    assert kept > chance(Exact(), name, "hub", sampling) - 1e-12


@pytest.mark.parametrize("rule", [Exact(), KSeq(), Traversal()], ids=["exact", "kseq", "traversal"])
def test_no_rule_keeps_more_than_its_transport_bound(rule):
    for name in NAMES:
        for siblings in ["with"] if isinstance(rule, KSeq) else ["with", "without", "hub"]:
            assert chance(rule, name, siblings) < transport_bound(WORLDS[name], PAIR, siblings, ONCE) + 1e-12


def test_it_lies_between_the_walks_and_the_bound():
    """In most worlds. Where the hub is a bad guess, a draw without replacement keeps more ("random four")."""
    for name in ("random", "random other", "near", "certain verifier"):
        walks = chance(Exact(), name, "with"), chance(Exact(), name, "without")
        bound = transport_bound(WORLDS[name], PAIR, "hub", ONCE)
        assert max(walks) < chance(SpecHub(), name, "hub") < bound + 1e-12
    assert chance(SpecHub(), "random four", "hub") < chance(Exact(), "random four", "without")


class TokenServedTwice(SpecHub):
    """Wrong: keeps i behind the hub up to p(i), as if (i, a) had kept nothing."""

    def siblings(self, p, q, xs):
        chosen, rest = super().siblings(p, q, xs)
        hub = q[:, 0].best[:, None]
        behind_hub = xs[:, :1] == hub
        behind = q[:, 0].probs.gather(-1, hub) * q[:, 1].probs.gather(-1, xs[:, 1:])
        again = (p.probs.gather(-1, xs[:, 1:]) / behind).clamp(max=1)
        return torch.where(behind_hub, torch.cat([chosen[:, :1] * (1 - again), again], 1), chosen), rest


class HubForgotten(SpecHub):
    """Wrong: counts the kept hub not against p."""

    def siblings(self, p, q, xs):
        chosen, rest = super().siblings(p, q, xs)
        hub = q[:, 0].best[:, None]
        rest = rest.scatter(-1, hub, p.probs.gather(-1, hub))
        return chosen, rest / rest.sum(-1, keepdim=True)


@pytest.mark.parametrize("rule", [TokenServedTwice(), HubForgotten()], ids=lambda rule: type(rule).__name__)
def test_wrong_variants_are_rejected(rule):
    assert off_by(rule, PAIR, "hub", ["random four", "random other"]) > 1e-3
