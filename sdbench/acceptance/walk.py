"""Make the law of a verdict on a token tree from a decision on the children of one node.

A rule decides which child of a node is kept, if any. The kept child's own children come next. If no child of node n is kept, the
path ends at n. So with the probability c_n that node n is kept once its parent is, and s_n that no child of n is kept,

    accepted[n] = (product of c over the path to n) s_n,

and the rule says which law the token behind n then has. A token rule tests the children one after the other, and keeps the first
that passes: recursive rejection sampling (SpecInfer, 2305.09781; Sequoia, 2402.12374), with the test left open. On a chain it is
`tokenwise`.

q is the law that a token was drawn from, given its elder siblings. Siblings drawn independently have the same law. In a draw
without replacement, the law has no mass on the elder siblings. A deterministic choice has all mass on the token. Then this test is
lossless for all three:

    passes = min(1, left(x) / q(x)),    rest = norm((left - q)+).

`left` is the verifier's law with the elder siblings refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, keep_best
from sdbench.acceptance.draft import Draft, wide
from sdbench.device import upload
from sdbench.sampling import Scored
from sdbench.topology import Topology

Siblings = Callable[[Scored, Scored, Int[Tensor, "M W"]], tuple[Float[Tensor, "M W"], Float[Tensor, "M V"]]]


class TreeRule(Protocol):
    """An acceptance rule that can verify token trees."""

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a draft with a topology. accepted: [B, N+1], over the nodes where the path ends."""
        ...


class SiblingRule(Memoryless):
    """Provide the law of a rule that looks at all children of a node together, on chains and on trees.

    A subclass writes `siblings`. Greedy form: keep the tokens that are the verifier's most likely ones.

    siblings_drawn: how the drafter must choose siblings (`TreeDrafter`); None if any choice that q states will do.
    """

    siblings_drawn: str | None = None

    def siblings(
        self, p: Scored, q: Scored, xs: Int[Tensor, "M W"]
    ) -> tuple[Float[Tensor, "M W"], Float[Tensor, "M V"]]:
        """Decide on the W children of each of M nodes.

        p: [M, V], the verifier's scores. q: [M, W, V], the proposer's scores of each child, given its elder siblings.
        Returns the probability that each child is kept (at most one is), and the law of the token behind the node if none is.
        """
        raise NotImplementedError

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B M"] | None = None) -> Law:
        return self.tree_law(draft, p)

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a chain or a tree."""
        return keep_best(draft, p) if p.sampling.greedy else walk(draft, p, self.siblings)


class TokenRule(SiblingRule):
    """Provide the law of a rule that tests one token at a time. A subclass writes `test`."""

    def test(
        self, p: Scored, q: Scored, x: Int[Tensor, " M"], left: Float[Tensor, "M V"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M V"]]:
        """Test M tokens, each of another node's children.

        p, q: [M, V], the scores of the verifier and of the proposer. left: [M, V], the verifier's law once the elder siblings
        were refused. Returns the probability that x is kept, and the verifier's law once x is refused too.
        """
        raise NotImplementedError

    def siblings(
        self, p: Scored, q: Scored, xs: Int[Tensor, "M W"]
    ) -> tuple[Float[Tensor, "M W"], Float[Tensor, "M V"]]:
        left, chosen = p.probs, []
        stays = left.new_ones(len(xs))
        for rank in range(xs.shape[1]):
            passes, left = self.test(p, q[:, rank], xs[:, rank], left)
            chosen.append(stays * passes)
            stays = stays * (1 - passes)
        return torch.stack(chosen, 1), left


def decide(draft: Draft, p: Scored, siblings: Siblings) -> tuple[Float[Tensor, "B N1"], Float[Tensor, "B N1 V"]]:
    """Decide on the children of each node.

    p: [B, N+1, V], the verifier's scores behind each node. siblings: as `SiblingRule.siblings`.

    Returns the probability that each node is kept once its parent is (0 at node 0), and the law of the token behind each node if
    no child of it is kept.
    """
    q, trees, device = draft.scored(p), draft.trees, p.logits.device
    left = p.probs.clone()
    chosen = torch.zeros(left.shape[:2], dtype=wide(p.logits), device=device)
    for row, node, children in _families(trees):
        rows, nodes, kids = (upload(part, device) for part in (row, node, children))
        each = rows[:, None]
        kept, rest = siblings(p[rows, nodes], q[each, kids - 1], draft.tokens[each, kids - 1])
        chosen[each, kids] = kept.to(chosen.dtype)
        left[rows, nodes] = rest
    return chosen, left


def walk(draft: Draft, p: Scored, siblings: Siblings) -> Law:
    """Return the law of a rule that decides on the children of each node. The arguments are those of `decide`."""
    trees, device = draft.trees, p.logits.device
    chosen, left = decide(draft, p, siblings)
    reach, stays = torch.zeros_like(chosen), torch.ones_like(chosen)
    reach[:, 0] = 1
    for row, node, above in _levels(trees):
        rows, nodes, parents = (upload(part, device) for part in (row, node, above))
        reach[rows, nodes] = reach[rows, parents] * chosen[rows, nodes]
        stays.index_put_((rows, parents), -chosen[rows, nodes], accumulate=True)
    return Law(reach * stays.clamp(min=0), lambda n: at(left, n))


def _families(trees: Sequence[Topology]) -> list[tuple[np.ndarray, ...]]:
    """Group the nodes with children by the number of these. Returns (rows, nodes, children [M, W]) of each group."""
    groups: dict[int, list[tuple[int, int, tuple[int, ...]]]] = {}
    for row, tree in enumerate(trees):
        for node, children in enumerate(tree.children):
            if children:
                groups.setdefault(len(children), []).append((row, node, children))
    return [tuple(np.array(part) for part in zip(*group, strict=True)) for group in groups.values()]


def _levels(trees: Sequence[Topology]) -> list[tuple[np.ndarray, ...]]:
    """Group the drafted nodes by their depth. Returns (rows, nodes, parents) of each depth, from 1 on."""
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for row, tree in enumerate(trees):
        for node, parent in enumerate(tree.parent, start=1):
            groups.setdefault(tree.depth[node], []).append((row, node, parent))
    return [tuple(np.array(part) for part in zip(*groups[depth], strict=True)) for depth in sorted(groups)]
