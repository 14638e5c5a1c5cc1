"""The longest accepted path wins (Improving MCSD, 2409.10644; github JackZeng0208/DynaSD): lossy, even where it is greedy.

Each node of a tree is tested by itself: x passes with probability min(1, p(x) / q(x)), whatever became of its siblings. Of all
paths whose nodes pass, the rule keeps the longest, the first among equals. The token behind it has the law p, and not what the
refused siblings leave of p. With F_n(k) the probability that no path behind node n has more than k passing nodes, and a_c that
child c passes,

    F_n(k) = product over the children c of  (1 - a_c + a_c F_c(k - 1)),

so the law of the node where the path ends follows without a draw.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from sdbench import validate
from sdbench.acceptance.base import Law, Memoryless, at
from sdbench.acceptance.draft import Draft, wide
from sdbench.sampling import Scored
from sdbench.topology import Topology


class LongestPath(Memoryless):
    """Keep the longest path whose nodes pass.

    Reads the warped p and q. Greedy form: a node passes if it is the verifier's most likely token behind its parent.

    test_roots: False keeps children of node 0 untested, as DynaSD does with roots that the target has drawn.
    """

    def __init__(self, test_roots: bool = True) -> None:
        self.test_roots = validate.switch("longest.test_roots", test_roots)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        return self.tree_law(draft, p)

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on a chain or a tree."""
        q, trees = draft.scored(p).probs, draft.trees
        above = torch.zeros_like(draft.tokens)
        for row, tree in enumerate(trees):
            above[row, : tree.size] = torch.tensor(tree.parent, dtype=torch.long)
        drafted = draft.tokens[..., None]
        behind = p.probs.gather(1, above[..., None].expand(-1, -1, p.logits.shape[-1]))
        passes = (behind.gather(-1, drafted) / q.gather(-1, drafted))[..., 0].nan_to_num(nan=0.0).clamp(max=1)
        if not self.test_roots:
            passes = passes.masked_fill(above == 0, 1.0)
        lines = [ends(tree, line[: tree.size]) for tree, line in zip(trees, passes.double().cpu().numpy(), strict=True)]
        accepted = np.zeros((len(trees), draft.tokens.shape[1] + 1))
        for row, line in enumerate(lines):
            accepted[row, : len(line)] = line
        law = torch.from_numpy(accepted).to(p.logits.device, wide(p.logits))
        return Law(law, lambda n: at(p.probs, n))


def ends(tree: Topology, passes: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N1"]:
    """Return the probability that the longest passing path ends at each node. passes: of each node, given that it is reached."""
    deepest = max(tree.depth)
    below = np.ones((tree.size + 1, deepest + 2))  # [n, k + 1]: F_n(k), from k = -1 on
    below[:, 0] = 0
    for node in range(tree.size, 0, -1):
        below[tree.parent[node - 1], 1:] *= _at_most(passes[node - 1], below[node])
    through = np.zeros_like(below)  # [n, d]: the path goes through n and ends at depth d
    through[0, :-1] = np.diff(below[0])
    for node, children in enumerate(tree.children):
        for left in range(1, deepest - tree.depth[node] + 1):
            depth = tree.depth[node] + left
            share = through[node, depth]
            if share > 0:
                share /= below[node, left + 1] - below[node, left]
            for child in children:
                less, same = (_at_most(passes[child - 1], below[child])[k] for k in (left - 1, left))
                others = [_at_most(passes[c - 1], below[c])[left - (c < child)] for c in children if c != child]
                through[child, depth] = share * (same - less) * np.prod(others)
    return np.array([through[node, depth] for node, depth in enumerate(tree.depth)])


def _at_most(passes: float, below: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K1"]:
    """Return, by k from 0 on, the probability that a child adds no path of more than k nodes."""
    return 1 - passes + passes * below[:-1]
