"""Exact laws of one verification round over token trees: every filling of a tree, and what a rule says of it."""

from __future__ import annotations

import itertools
from collections import defaultdict

import torch

from sdbench.acceptance import Draft, ProposalKind
from sdbench.sampling import Scored
from sdbench.topology import Topology

from .enumeration import OFF, chain_law, warped


def fillings(table, tree, siblings, sampling):
    """Every way to fill a tree: its tokens, its probability, and the logits of each token's law given its elder siblings.

    siblings: how they are chosen: "with" or "without" replacement, "top" (the most likely ones), or "hub" (a pair with the most
    likely one).
    """

    def fill(tokens, weight, laws):
        node = len(tokens) + 1
        if node > tree.size:
            yield tuple(tokens), weight, laws
            return
        parent = tree.parent[node - 1]
        logits = list(table(tuple(tokens[i - 1] for i in tree.path(parent))))
        elder = [tokens[i - 1] for i in tree.children[parent] if i < node]
        if siblings == "hub" and elder:
            hub = logits.index(max(logits))
            logits = [OFF if (token == hub) == (elder == [hub]) else value for token, value in enumerate(logits)]
        elif siblings != "with":
            logits = [OFF if token in elder else value for token, value in enumerate(logits)]
        law = warped(logits, sampling)
        if siblings == "top":
            best = logits.index(max(logits))
            law = [float(token == best) for token in range(len(law))]
        for token, mass in enumerate(law):
            if mass > 0:
                yield from fill([*tokens, token], weight * mass, [*laws, logits])

    return list(fill([], 1.0, []))


def round_law(rule, world, tree: Topology, siblings, sampling, order=None):
    """The law of the tokens that one round over a tree emits: {kept tokens + the verifier's own: probability}.

    order: a function of (tokens, laws) that returns others, for wrong variants.
    """
    p, q = world
    filled = fillings(q, tree, siblings, sampling)
    if order is not None:
        filled = [(*order(tokens, laws), weight) for tokens, weight, laws in filled]
        filled = [(tokens, weight, laws) for tokens, laws, weight in filled]
    tokens = torch.tensor([line for line, _, _ in filled])
    contexts = [[tuple(line[i - 1] for i in tree.path(node)) for node in range(tree.size + 1)] for line, _, _ in filled]
    scores = torch.tensor([[p(context) for context in row] for row in contexts], dtype=torch.float64)
    stated = torch.tensor([laws for _, _, laws in filled], dtype=torch.float64)
    kind = ProposalKind.DETERMINISTIC if siblings == "top" else ProposalKind.SAMPLED
    draft = Draft(
        tokens,
        torch.full((len(filled),), tree.size),
        None if siblings == "top" else Scored(stated, sampling),
        kind,
        topology=[tree] * len(filled),
    )
    law = rule.tree_law(draft, Scored(scores, sampling))
    torch.testing.assert_close(law.accepted.sum(-1), torch.ones(len(filled)).double(), atol=1e-12, rtol=0)
    out = defaultdict(float)
    for node in range(tree.size + 1):
        following = law.next_token(torch.full((len(filled),), node)).tolist()
        for row, (_, weight, _) in enumerate(filled):
            reached = weight * law.accepted[row, node].item()
            for token, share in enumerate(following[row]):
                out[(*contexts[row][node], token)] += reached * share
    return out


def tokens_per_round(emitted):
    return sum(len(tokens) * weight for tokens, weight in emitted.items())


def transport_bound(world, tree, siblings, sampling):
    """The most that any rule can keep of the candidates of one node (SpecTr's optimal transport), as the least cut.

    A rule sends the mass of each set of candidates to one of them, at most p to each. The cut through some tokens, and through
    the sets that are not within these, bounds what arrives. The least cut is reached.
    """
    p, q = world
    drawn: dict[frozenset[int], float] = defaultdict(float)
    for tokens, weight, _ in fillings(q, tree, siblings, sampling):
        drawn[frozenset(tokens)] += weight
    of_p = warped(p(()), sampling)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(p.V), size) for size in range(p.V + 1))
    return min(
        sum(of_p[token] for token in some) + sum(mass for these, mass in drawn.items() if not these <= set(some))
        for some in subsets
    )


__all__ = ["chain_law", "fillings", "round_law", "tokens_per_round", "transport_bound"]
