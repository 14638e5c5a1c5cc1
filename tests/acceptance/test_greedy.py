"""The greedy (temperature 0) forms: deterministic, and as each rule's source has them, for every possible draft."""

import itertools

import pytest
import torch

from sdbench.acceptance import (
    EARS,
    EASD,
    BiLD,
    Block,
    Cactus,
    Cascade,
    Consultant,
    Ensemble,
    Exact,
    Fuzzy,
    Lenience,
    Match,
    Mentored,
    ProposalKind,
    RelaxedTopK,
    SpecHub,
    Thresholds,
    TopBeta,
    Traversal,
    Typical,
    ZhouJoint,
    draw,
)
from sdbench.acceptance.base import Memoryless, tokenwise, verify
from sdbench.keyed_random import Key
from sdbench.sampling import Sampler, Sampling

from .definitions import cascade, fsd_js, fuzzy, relaxed, rollback, top_beta, unsure
from .enumeration import WORLDS, Place, tensors

GREEDY = Sampling(temperature=0.0)


def is_best(at):
    return float(at.x == at.best)


def best(at):
    return at.best


def top(law):
    return law.index(max(law))


def mixed(at):
    return top([0.4 * a + 0.6 * b for a, b in zip(at.plain_p, at.plain_q, strict=True)])


def towards(deferral, a):
    """Greedy, pi is one-hot: at q's best token where the small model is trusted, else at p's."""

    def aim(at):
        return top(cascade(deferral, a)(at))

    return lambda at: float(at.x == aim(at)), aim


refused = unsure(0.5, 0.6, 2, 0.5)


def best_allowed(at):
    """EASD's replacement: the best token, or the best other one where x is refused."""
    return max((i for i in range(len(at.logits_p)) if not (refused(at) and i == at.x)), key=lambda i: at.logits_p[i])


def near(beta):
    """EARS: a probability near the best one, and the nearer the surer the verifier is."""
    return lambda at: float(at.plain_p[at.x] >= (1 - beta * (1 - max(at.plain_p))) * max(at.plain_p))


# name: (rule, keeps(place), token in place of x)
FORMS = {
    "exact": (Exact(), is_best, best),
    "match": (Match(), is_best, best),
    "block": (Block(), is_best, best),
    "zhou_joint": (ZhouJoint(), is_best, best),
    "traversal": (Traversal(), is_best, best),
    "spechub": (SpecHub(), is_best, best),
    "typical": (Typical(), is_best, best),
    "thresholds": (Thresholds(0.2, 0.3), is_best, best),
    "cactus": (Cactus(1.0), is_best, best),
    "mentored": (Mentored(0.1), is_best, best),
    "fuzzy": (Fuzzy(0.1), fuzzy(fsd_js, 0.1), best),
    "fuzzy, residual": (Fuzzy(0.1, replacement="residual"), fuzzy(fsd_js, 0.1), best),
    "fuzzy, fallback": (Fuzzy(0.1, "fallback"), lambda at: max(fuzzy(fsd_js, 0.1)(at), is_best(at)), best),
    "lenience": (Lenience(0.5), lambda at: float(at.plain_p[at.x] >= 0.5 * max(at.plain_p)), best),
    "lenience, 1": (Lenience(1.0), is_best, best),
    "relaxed top-k": (RelaxedTopK(2, 0.3), relaxed(2, 0.3), best),
    "relaxed top-k, 1": (RelaxedTopK(1, 0.0), is_best, best),
    "top beta": (TopBeta(2, 0.8), top_beta(2, 0.8), best),
    "top beta, 1": (TopBeta(1, 0.0), is_best, best),
    "bild": (BiLD(1.0), rollback(1.0), best),
    "easd": (EASD(0.5, 0.6, 2, 0.5), lambda at: float(is_best(at) and not refused(at)), best_allowed),
    "ears": (EARS(0.8), near(0.8), best),
    "ears, 0": (EARS(0.0), is_best, best),
    "ensemble": (Ensemble(0.4), lambda at: float(at.x == mixed(at)), mixed),
    **{
        f"{deferral}, {a}": (Cascade(deferral, a), *towards(deferral, a))
        for deferral, a in [("chow", 0.4), ("diff", 0.1), ("opt", 0.3), ("token_v1", 0.2), ("token_v3", 0.5)]
    },
}


def wrong_drafts(name, rule):
    """How many of all drafts of two tokens, over all worlds, the rule's greedy form treats otherwise than said."""
    _, keeps, instead = FORMS[name]
    wrong = 0
    for p, q in WORLDS.values():
        drafts = list(itertools.product(range(p.V), repeat=2))
        law = rule.law(*tensors((p, q), drafts, GREEDY, ProposalKind.RELABELLED))
        assert set(law.accepted.flatten().tolist()) <= {0.0, 1.0}
        verdict = draw(law, Sampler(GREEDY), Key(torch.zeros(0).numpy(), torch.zeros(0).numpy()))
        for chain, n, token in zip(drafts, verdict.accepted.tolist(), verdict.next_token.tolist(), strict=True):
            places = [Place(chain[i], p(chain[:i]), q(chain[:i]), GREEDY) for i in range(2)]
            kept = next((i for i in range(2) if not keeps(places[i])), 2)
            bonus = Place(0, p(chain), q(chain), GREEDY).best
            wrong += (n, token) != (kept, bonus if kept == 2 else instead(places[kept]))
    return wrong


@pytest.mark.parametrize("name", FORMS)
def test_the_greedy_form(name):
    assert wrong_drafts(name, FORMS[name][0]) == 0


class EverythingKept(Memoryless):
    def law(self, draft, p, memory=None):
        return tokenwise(draft, p, torch.ones_like(draft.tokens))


@pytest.mark.parametrize("name", FORMS)
def test_the_proof_rejects_a_wrong_greedy_form(name):
    assert wrong_drafts(name, EverythingKept()) > 0


def test_consultant_decoding_is_deterministic():
    p, q = WORLDS["random four"]
    law = Consultant(1.0).law(*tensors((p, q), list(itertools.product(range(4), repeat=2)), GREEDY))
    assert set(law.accepted.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    "rule",
    [
        *(Exact(), Match(), Typical(), Thresholds(), Cactus(), Mentored(), Lenience(1.0), Ensemble(1), EARS(0)),
        *(Block(), ZhouJoint()),
    ],
)
def test_greedy_rules_follow_the_verifier_over_any_draft(rule):
    """Whatever was drafted, with scores or without: what comes out is the verifier's own greedy continuation."""
    for world in WORLDS.values():
        p = world[0]
        drafts = list(itertools.product(range(p.V), repeat=2))
        for kind in ProposalKind:
            law = rule.law(*tensors(world, drafts, GREEDY, kind))
            n = law.accepted.argmax(-1)
            for chain, kept, token in zip(drafts, n.tolist(), law.next_token(n).argmax(-1).tolist(), strict=True):
                context = ()
                for emitted in (*chain[:kept], token):
                    assert emitted == top(p(context))
                    context += (emitted,)


@pytest.mark.parametrize("rule", [Exact(), Match(), Cactus(1.0), Block()])
def test_what_is_decided_is_what_the_law_says(rule):
    """Greedy decisions are made of lists on the host: over every draft, whole or short, they are the law's."""
    key, sampler = Key(torch.zeros(0).numpy(), torch.zeros(0).numpy()), Sampler(GREEDY)
    for world, length in itertools.product(WORLDS.values(), range(3)):
        drafts = list(itertools.product(range(world[0].V), repeat=2))
        draft, scored = tensors(world, drafts, GREEDY)
        draft.length = torch.full((len(drafts),), length)
        decided, law = verify(rule, draft, scored, None, sampler, key)
        said = draw(law, sampler, key)
        assert decided.proposed == [length] * len(drafts)
        assert decided.accepted == said.accepted.tolist()
        assert decided.next_token == said.next_token.tolist()
        assert decided.tokens == [
            [*chain[:n], token] for chain, n, token in zip(drafts, decided.accepted, decided.next_token, strict=True)
        ]
        assert max(decided.accepted) == length  # some draft was kept whole
