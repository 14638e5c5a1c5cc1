"""Draft token trees from a head that predicts K tokens in one pass.

All nodes of one depth have the same law, because no law depends on a drafted token. So a tree costs no more than a chain to draft.

    ParallelTree    a fixed shape, such as Medusa's (2401.10774): node r behind any node of depth d is token r of law d
    BestPaths       the paths with the highest products of probabilities
    ParallelChains  several chains that are drawn independently, of which `BestChain` verifies the best (SpecDiff-2, 2511.00606)
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.drafting.parallel import OnePass
from sdbench.drafting.tree import TreeDrafter
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState
from sdbench.sampling import Sampling, Scored, warp
from sdbench.topology import MOST_NODES, Topology


class ParallelTree(OnePass, TreeDrafter):
    """Draft a tree of a fixed shape. widths, paths, siblings: as in `TreeDrafter`. mask_token: as in `OnePass`.

    Medusa takes the most likely tokens (`top`), and the paths of a published list (`choices`).
    """

    def __init__(
        self,
        model: LanguageModel,
        widths: Sequence[int] | None = None,
        siblings: str = "top",
        paths: Sequence[Sequence[int]] | None = None,
        mask_token: int | str | None = None,
    ) -> None:
        TreeDrafter.__init__(self, model, widths, siblings, paths)
        OnePass.__init__(self, model, mask_token)

    def open(self, state: DecodeState, length: int) -> None:
        TreeDrafter.open(self, state, length)
        self.check_depth(len(self.topology.widths))

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        tree, names = self.topology, drafting_key(key)
        laws = self.laws(state, len(tree.widths))
        q = None
        if self.siblings == "top":
            ranked = laws.topk(max(map(len, tree.children)), -1).indices
            depths = [depth - 1 for depth in tree.depth[1:]]
            drafted = ranked[:, depths, list(tree.rank)]
        else:
            tokens: list[Tensor] = []
            scores: list[Scored] = []
            first, count = 0, 0  # of the last level: its first and its last node
            for depth, nodes in enumerate(tree.widths):
                families = [len(tree.children[node]) for node in range(first, count + 1)]
                same = laws[:, depth : depth + 1].expand(-1, len(families), -1)
                chosen, scored = self._children(state, same, families, names / depth)
                tokens.append(chosen)
                scores.append(scored)
                first, count = count + 1, count + nodes
            drafted, q = torch.cat(tokens, 1), Scored.cat(scores, 1)
        return _whole(drafted, q, self.kind, [tree] * state.rows)


class BestPaths(OnePass):
    """Draft the tree of the `budget` most likely nodes. The probability of a node is the product of those on its path.

    The probabilities are those at temperature 1. depth: the deepest node.
    """

    trees = True
    kind = ProposalKind.DETERMINISTIC

    def __init__(self, model: LanguageModel, depth: int, budget: int = 32, mask_token: int | str | None = None) -> None:
        super().__init__(model, mask_token)
        self.depth = validate.whole("proposer.depth", depth, 1)
        self.budget = validate.whole("proposer.budget", budget, 1, MOST_NODES)

    @property
    def own_length(self) -> int | None:
        return self.depth

    def max_lookahead(self, length: int) -> int:
        return self.budget

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        laws = self.laws(state, self.depth)
        width = min(self.budget, self.model.proposable)
        gains, ids = laws.float().log_softmax(-1).topk(width, -1)
        drafted, trees = [], []
        for gained, tokens in zip(gains.tolist(), ids.tolist(), strict=True):
            parents, ranks, depths = best_paths(gained, self.budget)
            drafted.append([tokens[depth][rank] for depth, rank in zip(depths, ranks, strict=True)])
            trees.append(Topology.of(parents))
        # Every row has as many nodes: all have the same depth and width.
        return _whole(torch.tensor(drafted, device=laws.device), None, self.kind, trees)


def best_paths(gains: Sequence[Sequence[float]], budget: int) -> tuple[list[int], list[int], list[int]]:
    """Return the parent, the rank and the depth (from 0) of the `budget` best nodes, the best one first.

    gains: [K, W], the log-probabilities of each depth, the highest first. A node comes behind its parent and its elder siblings:
    neither has a lower score.
    """
    parents: list[int] = []
    ranks: list[int] = []
    depths: list[int] = []
    order = 0  # among equals, the first to be found comes first
    waiting: list[tuple[float, int, int, int, int, float]] = [(-gains[0][0], order, 0, 0, 0, 0.0)]
    while waiting and len(parents) < budget:
        score, _, depth, rank, parent, above = heappop(waiting)
        parents.append(parent)
        ranks.append(rank)
        depths.append(depth)
        if rank + 1 < len(gains[depth]):
            order += 1
            heappush(waiting, (above - gains[depth][rank + 1], order, depth, rank + 1, parent, above))
        if depth + 1 < len(gains):
            order += 1
            heappush(waiting, (score - gains[depth + 1][0], order, depth + 1, 0, len(parents), score))
    return parents, ranks, depths


class ParallelChains(OnePass):
    """Draw several independent chains from the same laws, for a rule that goes on with one of them (`BestChain`).

    The target reads all chains as branches of a tree. The rule looks at p to choose a chain, so p / q would be wrong: the chains
    count as chosen by the context, and the delta rule applies.

    chains: their number. depth: of each. temperature: of the draws, whatever the temperature of the run. SpecDiff-2 draws 8 chains
    at a temperature of 1.5 to 2.
    """

    trees = True
    kind = ProposalKind.DETERMINISTIC

    def __init__(
        self,
        model: LanguageModel,
        depth: int,
        chains: int = 8,
        temperature: float = 1.5,
        mask_token: int | str | None = None,
    ) -> None:
        super().__init__(model, mask_token)
        self.depth = validate.whole("proposer.depth", depth, 1)
        self.chains = validate.whole("proposer.chains", chains, 1)
        self.sampling = Sampling(validate.number("proposer.temperature", temperature, 0, bounds="(]"))
        self.topology = Topology.branches(0, [0] * self.chains, self.depth)

    @property
    def own_length(self) -> int | None:
        return self.depth

    def max_lookahead(self, length: int) -> int:
        return self.topology.size

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        return _whole(self.drawn(state, key)[0], None, self.kind, [self.topology] * state.rows)

    def drawn(self, state: DecodeState, key: Key) -> tuple[Int[Tensor, "B N"], Scored]:
        """Return the tokens of all chains, depth by depth, and what they were drawn from."""
        names, laws = drafting_key(key), self.laws(state, self.depth)
        tokens = [
            state.sampler.choices.choose(warp(laws[:, depth], self.sampling), names / depth / chain)
            for depth in range(self.depth)
            for chain in range(self.chains)
        ]
        return torch.stack(tokens, 1), Scored(laws.repeat_interleave(self.chains, 1), self.sampling)


def _whole(tokens: Int[Tensor, "B N"], q: Scored | None, kind: ProposalKind, trees: list[Topology]) -> Draft:
    """Return a draft of trees with equally many nodes."""
    count = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    return Draft(tokens, count, q, kind, full=True, topology=trees)
