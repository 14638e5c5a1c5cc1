"""Traversal verification (Weng et al. 2505.12398): block verification for token trees, from the leaves to the root.

The share of node 0 is 1. The share of a child x of a node with share P and law p is min(1, P p(x) / q(x)). Nodes are tested after
their children, and siblings in the order in which they were drawn. The first node that passes is the end of the kept path. A node
passes with its share. If a child and all nodes below it are refused, its parent changes to

    p <- norm((P p - q)+),    P <- D / (D + 1 - P),    where D = sum_x (P p(x) - q(x))+,

and q is the law of that child, given its elder siblings. So the next child sees the new p and P, and so does the parent itself when
all its children are refused. Node 0 keeps the share 1. The token behind the kept path has the law p of its last node.

Over the draws of the nodes below a node with share P, the rule keeps the node with probability P. So it is lossless, by induction
from the leaves. On a chain it is block verification.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, at, keep_best
from sdbench.acceptance.block import Block, stop
from sdbench.acceptance.draft import Draft
from sdbench.device import upload
from sdbench.sampling import Scored
from sdbench.topology import Topology


class Traversal(Block):
    """Apply traversal verification to chains and trees.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a chain or a tree."""
        if p.sampling.greedy:
            return keep_best(draft, p)
        q, trees = draft.scored(p).probs, draft.trees
        left = p.probs.clone()
        accepted = torch.zeros_like(left[..., 0])
        for tree in dict.fromkeys(trees):
            rows = upload(np.array([row for row, its in enumerate(trees) if its == tree]), left.device)
            left[rows], ends = _upwards(tree, draft.tokens[rows], left[rows], q[rows])
            accepted[rows, : tree.size + 1] = ends
        return Law(accepted, lambda n: at(left, n))


def _upwards(
    tree: Topology, tokens: Int[Tensor, "M N"], p: Float[Tensor, "M N1 V"], q: Float[Tensor, "M N V"]
) -> tuple[Float[Tensor, "M N1 V"], Float[Tensor, "M ends"]]:
    """Test the nodes of M rows with the same tree, from the leaves on.

    Returns the law behind each node when its own test comes, and the probability that the kept path ends there.
    """
    left = list(p.unbind(1))
    ends = [left[0].new_zeros(len(tokens))] * (tree.size + 1)
    going = left[0].new_ones(len(tokens))  # the probability that all nodes so far were refused

    def visit(node: int, share: Float[Tensor, " M"]) -> None:
        nonlocal going
        for child in tree.children[node]:
            token, law = tokens[:, child - 1, None], q[:, child - 1]
            its = (share * (left[node].gather(-1, token) / law.gather(-1, token))[:, 0]).nan_to_num(nan=0.0)
            visit(child, its.clamp(max=1))
            rest = (share[:, None] * left[node] - law).clamp(min=0)
            above = rest.sum(-1)
            left[node] = torch.where(above[:, None] > 0, rest / above[:, None], left[node])
            share = stop(above, share)
        ends[node] = going * share
        going = going * (1 - share)

    visit(0, going)
    return torch.stack(left, 1), torch.stack(ends, 1)
