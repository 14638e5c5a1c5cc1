"""Make the law of a verdict on a token tree from a test of one token.

A rule tests the children of a node one after the other. The first child that passes is kept, and its own children are tested next.
If all children of node n fail, the kept path ends at n. So with the probability c_n that the verdict goes from a node's parent on
to the node, and s_n that all children of n fail,

    accepted[n] = (product of c over the path to n) s_n,

and the token behind n has the verifier's law once all children were refused. This is recursive rejection sampling (SpecInfer,
2305.09781; Sequoia, 2402.12374, Algorithm 2), with the test left open. On a chain it is `tokenwise`.

q is the law that a token was drawn from, given its elder siblings: the same law for siblings drawn independently, a law without the
elder siblings' tokens for a draw without replacement, and all mass on the token for a deterministic choice. Then the exact test

    passes = min(1, left(x) / q(x)),    rest = norm((left - q)+)

is lossless for all three. `left` is the verifier's law with the elder siblings refused.
"""

from __future__ import annotations

from collections.abc import Callable
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

Test = Callable[
    [Scored, Scored, Int[Tensor, " M"], Float[Tensor, "M V"]], tuple[Float[Tensor, " M"], Float[Tensor, "M V"]]
]


class TreeRule(Protocol):
    """An acceptance rule that can verify token trees."""

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a draft with a topology. accepted: [B, N+1], over the nodes where the path ends."""
        ...


class TokenRule(Memoryless):
    """Provide the law of a rule that tests one token at a time, on chains and on trees.

    A subclass writes `test`. Greedy form: keep the tokens that are the verifier's most likely ones, unless `greedy_test` is True.
    """

    greedy_test = False

    def test(
        self, p: Scored, q: Scored, x: Int[Tensor, " M"], left: Float[Tensor, "M V"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M V"]]:
        """Test M tokens, each of another node's children.

        p, q: [M, V], the scores of the verifier and of the proposer. left: [M, V], the verifier's law once the elder siblings
        were refused. Returns the probability that x is kept, and the verifier's law once x is refused too.
        """
        raise NotImplementedError

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B M"] | None = None) -> Law:
        return self.tree_law(draft, p)

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a chain or a tree."""
        if p.sampling.greedy and not self.greedy_test:
            return keep_best(draft, p)
        return walk(draft, p, self.test)


def walk(draft: Draft, p: Scored, test: Test) -> Law:
    """Return the law of a rule that tests the children of each node in turn.

    p: [B, N+1, V], the verifier's scores behind each node. test: as `TokenRule.test`. Tokens beyond `draft.length` never pass.
    """
    q, trees = draft.scored(p), draft.trees
    rows, size, device = len(draft.tokens), draft.tokens.shape[1], p.logits.device
    left = p.probs.clone()
    counts = torch.arange(size, device=device) < draft.length[:, None]
    reach = torch.zeros(rows, size + 1, dtype=wide(p.logits), device=device)
    stays, onward = torch.ones_like(reach), torch.zeros_like(reach)
    reach[:, 0] = 1
    for family in _by(trees, lambda tree: tree.rank):
        row, node, above = (upload(part, device) for part in family)
        passes, rest = test(p[row, above], q[row, node - 1], draft.tokens[row, node - 1], left[row, above])
        counted = counts[row, node - 1]
        passes = torch.where(counted, passes.to(reach.dtype), 0)
        onward[row, node] = stays[row, above] * passes
        stays[row, above] *= 1 - passes
        left[row, above] = torch.where(counted[:, None], rest, left[row, above])
    for level in _by(trees, lambda tree: tree.depth[1:]):
        row, node, above = (upload(part, device) for part in level)
        reach[row, node] = reach[row, above] * onward[row, node]
    return Law(reach * stays, lambda n: at(left, n))


def _by(trees: list[Topology], number: Callable[[Topology], tuple[int, ...]]) -> list[tuple[np.ndarray, ...]]:
    """Group the drafted nodes of all rows by a number, in its order. Returns (rows, nodes, parents) of each group."""
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for row, tree in enumerate(trees):
        for index, (value, parent) in enumerate(zip(number(tree), tree.parent, strict=True)):
            groups.setdefault(value, []).append((row, index + 1, parent))
    return [tuple(np.array(part) for part in zip(*groups[value], strict=True)) for value in sorted(groups)]
