"""Exact laws of one verification round over small vocabularies: what a rule's law implies, and what plain Python says.

A world is a pair of tables, verifier and proposer, that give logits for every context. `round_law` asks a rule;
`by_hand` walks the same round with an acceptance probability and a replacement in plain Python on lists of floats.
"""

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import torch

from sdbench.acceptance import Draft, Law, ProposalKind
from sdbench.sampling import Sampling, Scored

SAMPLINGS = [Sampling(temperature=1.0), Sampling(temperature=0.6, top_k=2)]
OFF = -math.inf


class Table:
    """Next-token logits for every context."""

    def __init__(self, V, make):
        self.V, self.make, self.known = V, make, {}

    def __call__(self, context):
        if context not in self.known:
            self.known[context] = [float(value) for value in self.make(context)]
        return self.known[context]


def _random(V, seed, scale=1.5):
    def make(context):
        code = sum((token + 1) * (V + 1) ** i for i, token in enumerate(context))
        generator = torch.Generator().manual_seed(1000 * seed + code)
        return (scale * torch.randn(V, generator=generator, dtype=torch.float64)).tolist()

    return Table(V, make)


def _near(table, seed, scale):
    noise = _random(table.V, seed, scale)
    return Table(table.V, lambda context: [a + b for a, b in zip(table(context), noise(context), strict=True)])


def _only(table, tokens):
    keep = set(tokens)
    return Table(table.V, lambda context: [a if i in keep else OFF for i, a in enumerate(table(context))])


def worlds():
    """name -> (verifier, proposer)."""
    p, q, four = _random(3, 1), _random(3, 2), _random(4, 3)
    return {
        "random": (p, q),
        "random other": (_random(3, 5, 0.7), _random(3, 6, 2.5)),
        "random four": (four, _random(4, 4)),
        "near": (p, _near(p, 7, 0.4)),
        "very near": (four, _near(four, 8, 0.05)),
        "equal": (p, p),
        "disjoint": (_only(four, [0, 1]), _only(_random(4, 4), [2, 3])),
        "overlapping": (_only(four, [0, 1, 2]), _only(_random(4, 4), [1, 2, 3])),
        "certain verifier": (_only(p, [1]), q),
        "certain proposer": (p, _only(q, [2])),
    }


WORLDS = worlds()


def plain(logits):
    top = max(logits)
    weights = [math.exp(value - top) for value in logits]
    return [weight / sum(weights) for weight in weights]


def warped(logits, sampling):
    """softmax(logits / temperature) over the top k; no ties are at stake in these worlds."""
    if sampling.greedy:
        return [float(i == logits.index(max(logits))) for i in range(len(logits))]
    least = sorted(logits, reverse=True)[min(sampling.top_k or len(logits), len(logits)) - 1]
    return plain([value / sampling.temperature if value >= least else OFF for value in logits])


@dataclass
class Place:
    """What is known at one drafted token x: warped p and q, the un-warped ones, and the logits."""

    x: int
    logits_p: list
    logits_q: list
    sampling: Sampling

    @property
    def p(self):
        return warped(self.logits_p, self.sampling)

    @property
    def q(self):
        return warped(self.logits_q, self.sampling)

    @property
    def plain_p(self):
        return plain(self.logits_p)

    @property
    def plain_q(self):
        return plain(self.logits_q)

    @property
    def best(self):
        return self.logits_p.index(max(self.logits_p))


def tensors(world, tokens, sampling, kind=ProposalKind.SAMPLED, start=()):
    """The draft and the verifier's scores for drafted chains (a list of tuples of one length) behind one context."""
    p, q = world
    K = len(tokens[0])
    contexts = [[start + chain[:i] for i in range(K + 1)] for chain in tokens]
    of_p = torch.tensor([[p(c) for c in row] for row in contexts], dtype=torch.float64)
    of_q = torch.tensor([[q(c) for c in row[:K]] for row in contexts], dtype=torch.float64).reshape(len(tokens), K, p.V)
    draft = Draft(
        torch.tensor(tokens, dtype=torch.long).reshape(len(tokens), K),
        torch.full((len(tokens),), K),
        None if kind is ProposalKind.DETERMINISTIC else Scored(of_q, sampling),
        kind,
    )
    return draft, Scored(of_p, sampling)


def check_law(law: Law, K):
    """A law is a law: non-negative and normalised, whatever number was kept."""
    assert (law.accepted >= 0).all()
    torch.testing.assert_close(
        law.accepted.sum(-1), torch.ones(len(law.accepted), dtype=torch.float64), atol=1e-12, rtol=0
    )
    for n in range(K + 1):
        following = law.next_token(torch.full((len(law.accepted),), n))
        assert (following >= 0).all()
        torch.testing.assert_close(
            following.sum(-1), torch.ones(len(following), dtype=torch.float64), atol=1e-12, rtol=0
        )


def round_law(rule, world, K, sampling, kind=ProposalKind.SAMPLED, drafts=None, memory=None, start=()):
    """The law of the tokens that one round emits: {kept tokens + the verifier's own: probability}.

    drafts: {chain: probability}; by default the proposer draws them from its warped q.
    """
    p, q = world
    if drafts is None:
        drafts = {chain: chain_law(q, chain, sampling, start) for chain in itertools.product(range(p.V), repeat=K)}
        drafts = {chain: weight for chain, weight in drafts.items() if weight > 0}
    draft, scored = tensors(world, list(drafts), sampling, kind, start)
    rows = None if memory is None else torch.tensor([memory] * len(drafts), dtype=torch.float64)
    law = rule.law(draft, scored, rule.start(len(drafts)) if rows is None else rows)
    check_law(law, K)
    out = defaultdict(float)
    for n in range(K + 1):
        following = law.next_token(torch.full((len(drafts),), n))
        for b, (chain, weight) in enumerate(drafts.items()):
            for token, share in enumerate(following[b].tolist()):
                out[(*chain[:n], token)] += weight * law.accepted[b, n].item() * share
    return out


def chain_law(table, chain, sampling, start=()):
    """The probability that a table, sampled from, goes on with this chain."""
    return math.prod(warped(table(start + chain[:i]), sampling)[token] for i, token in enumerate(chain))


def by_hand(accept, replace, world, K, sampling):
    """The law of one round, from accept(place) -> probability and replace(place) -> list, in plain Python."""
    p, q = world
    out = defaultdict(float)

    def walk(kept, weight):
        if len(kept) == K:
            for token, share in enumerate(warped(p(kept), sampling)):
                out[(*kept, token)] += weight * share
            return
        for x, drawn in enumerate(warped(q(kept), sampling)):
            if drawn == 0:
                continue
            place = Place(x, p(kept), q(kept), sampling)
            a = accept(place)
            if a > 0:
                walk((*kept, x), weight * drawn * a)
            if a < 1:
                for token, share in enumerate(replace(place)):
                    out[(*kept, token)] += weight * drawn * (1 - a) * share

    walk((), 1.0)
    return out


def completed(emitted, p, total, sampling):
    """The law of the first `total` tokens, when the verifier alone goes on behind what the round emitted."""
    out = defaultdict(float)
    for sequence, weight in emitted.items():
        for rest in itertools.product(range(p.V), repeat=total - len(sequence)):
            out[sequence + rest] += weight * chain_law(p, rest, sampling, sequence)
    return out


def verifiers_own(p, total, sampling):
    return {chain: chain_law(p, chain, sampling) for chain in itertools.product(range(p.V), repeat=total)}


def first(emitted, V):
    """The law of the first emitted token."""
    out = [0.0] * V
    for sequence, weight in emitted.items():
        out[sequence[0]] += weight
    return out


def distance(a, b):
    """Total variation."""
    return 0.5 * sum(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in {*a, *b})


def norm(weights):
    """weights / their sum; zeros stay zeros (a rounding error may lead there, with a probability of that size)."""
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else weights


def rest(p, q):
    """norm((p - q)+)."""
    return norm([max(a - b, 0.0) for a, b in zip(p, q, strict=True)])
