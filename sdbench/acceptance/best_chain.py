"""Self-selection among several chains (SpecDiff-2, 2511.00606): go on with the chain that the verifier likes best.

The verifier has scored n chains that part at node 0. The score of a chain is the number of tokens that the verifier would keep,

    sum over j of  product over i <= j of  p(x_i).

The rule tests only the best chain, token by token: it keeps x with probability p(x), and in place of the first refused token draws
from p without x. For any chain this emits y with probability p(y). So the chain may be chosen by looking at p, as long as the coins
of the test are fresh. With the test min(1, p/q) the choice would spoil the law, because the chosen x no longer has the law q.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from sdbench.acceptance.base import Law, Memoryless, at, keep_best, normalised
from sdbench.acceptance.draft import Draft, ProposalKind, wide
from sdbench.sampling import Scored
from sdbench.topology import Topology


class BestChain(Memoryless):
    """Choose a chain by the verifier's scores, and apply the delta rule to it.

    Reads the warped p. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = frozenset({ProposalKind.DETERMINISTIC})

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        return self.tree_law(draft, p)

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        """Return the law of the verdict on chains. Of a tree, each path to a leaf is a chain."""
        if p.sampling.greedy:
            return keep_best(draft, p)
        left = p.probs.clone()
        accepted = torch.zeros(left.shape[:2], dtype=wide(p.logits), device=left.device)
        for row, (tree, tokens) in enumerate(zip(draft.trees, draft.tokens.tolist(), strict=True)):
            chain, passes = self.chosen(tree, tokens, p.probs[row])
            nodes = [0, *chain]
            for number, (above, node) in enumerate(zip(nodes, chain, strict=False)):
                left[row, above] = self.refused(draft, p, row, above, node)
                accepted[row, above] = torch.prod(passes[:number]) * (1 - passes[number])
            accepted[row, nodes[-1]] = torch.prod(passes)
        return Law(accepted, lambda n: at(left, n))

    def chosen(
        self, tree: Topology, tokens: list[int], p: Float[torch.Tensor, "N1 V"]
    ) -> tuple[list[int], Float[torch.Tensor, " K"]]:
        """Return the best path, and the probability that each of its tokens passes."""
        passes = [p[above, token] for above, token in zip(tree.parent, tokens, strict=False)]
        leaves = [node for node in range(1, tree.size + 1) if not tree.children[node]]
        paths = [tree.path(leaf) for leaf in leaves]
        scores = torch.stack([torch.stack([passes[n - 1] for n in path]).cumprod(0).sum() for path in paths])
        best = paths[int(scores.argmax())]
        return best, torch.stack([passes[node - 1] for node in best])

    def refused(self, draft: Draft, p: Scored, row: int, above: int, node: int) -> Float[torch.Tensor, " V"]:
        """Return the law of the token behind `above` once `node` is refused."""
        rest = p.probs[row, above].clone()
        rest[draft.tokens[row, node - 1]] = 0
        return normalised(rest)
