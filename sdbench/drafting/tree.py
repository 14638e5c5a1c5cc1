"""Draft a token tree with a model: several candidates at each place, and the model's continuations of each.

All nodes of one depth are read in one step of the model. The shape of the tree is fixed. How siblings are chosen:

    without   drawn without replacement: each from the model's law without its elder siblings (Sequoia, 2402.12374; MCSD,
              2401.06706)
    with      drawn independently (SpecInfer, 2305.09781; SpecTr, 2310.15141)
    hub       two of them, one of which is the most likely token (SpecHub, 2411.05289)
    top       the most likely tokens, a function of the context (Medusa, EAGLE)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.acceptance.spechub import second
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored
from sdbench.theory.trees import best_tree
from sdbench.topology import MOST_NODES, Topology

SIBLINGS = ("without", "with", "hub", "top")


class ModelTree(Local):
    """Provide what drafters of token trees from a model have in common."""

    trees = True

    def __init__(self, model: LanguageModel, layers: int | None = None) -> None:
        if layers is not None:
            model = model.truncated(validate.whole("proposer.layers", layers, 1))
        self.model, self.name = model, model.name

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def admit(self, state: DecodeState, row: int) -> None:
        self.model.reset(row)
        self.model.read(state, state.length - 1, "prefill", row=row)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        self.model.keep(length, paths)


class TreeDrafter(ModelTree):
    """Draft a token tree of a fixed shape.

    widths: each node of depth d has widths[d] children. paths: any other shape, as Medusa's `choices` (`Topology.from_paths`).
    siblings: how the children of a node are chosen. layers: draft with the first layers of `model` and its head (early exit).
    """

    def __init__(
        self,
        model: LanguageModel,
        widths: Sequence[int] | None = None,
        siblings: str = "without",
        paths: Sequence[Sequence[int]] | None = None,
        layers: int | None = None,
    ) -> None:
        if bool(widths) == bool(paths):
            raise InputError("A token tree needs either proposer.widths, such as [4, 2, 1], or proposer.paths.")
        for width in widths or ():
            validate.whole("proposer.widths", width, 1)
        self.siblings = validate.choice("proposer.siblings", siblings, SIBLINGS)
        super().__init__(model, layers)
        self.topology = Topology.branching(widths) if widths else Topology.from_paths(paths or ())
        widest = max(map(len, self.topology.children))
        if siblings == "hub" and widest > 2:
            raise InputError(
                f"proposer.siblings=hub draws pairs, but a node of the tree has {widest} children: give at most 2."
            )

    @property
    def kind(self) -> ProposalKind:
        return ProposalKind.DETERMINISTIC if self.siblings == "top" else ProposalKind.SAMPLED

    @property
    def own_length(self) -> int | None:
        return len(self.topology.widths)

    def max_lookahead(self, length: int) -> int:
        return self.topology.size

    def open(self, state: DecodeState, length: int) -> None:
        widest = max(map(len, self.topology.children))
        if widest > self.model.proposable:
            raise InputError(
                f"A node of the token tree has {widest} children; {self.name} has only {self.model.proposable} tokens."
            )

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, names, trees = state.copy(), drafting_key(key), [self.topology] * state.rows
        logits = self.model.read(state, state.length, "draft").logits[:, -1:]
        tokens, scores, first, count = [], [], 0, 0  # of the last level: its first and its last node
        for depth, nodes in enumerate(self.topology.widths):
            families = [len(self.topology.children[node]) for node in range(first, count + 1)]
            chosen, scored = self._children(here, logits, families, names / depth)
            tokens.append(chosen)
            scores.append(scored)
            first, count = count + 1, count + nodes
            if depth + 1 == self.own_length:
                break
            here.place_many(chosen, state.length + first - 1)
            logits = self.model.read_tree(here, trees, (first, count), "draft").logits
        drafted = torch.cat(tokens, 1)
        whole = torch.full((state.rows,), count, device=drafted.device)
        q = None if self.kind is ProposalKind.DETERMINISTIC else Scored.cat(scores, 1)
        return Draft(drafted, whole, q, self.kind, full=True, topology=trees)

    def _children(
        self, state: DecodeState, logits: Float[Tensor, "B M V"], families: list[int], names: Key
    ) -> tuple[Int[Tensor, "B C"], Scored]:
        """Choose families[m] children of each of M nodes. Returns them, node after node, and the scores they were drawn from."""
        tokens, scores = [], []
        for node, (law, width) in enumerate(zip(logits.unbind(1), families, strict=True)):
            if self.siblings == "top":
                tokens += law.topk(width, -1).indices.unbind(1)
                scores += [state.sampler.score(law)[:, None]] * width
                continue
            for rank in range(width):
                scored = state.sampler.score(law)
                token = state.sampler.draw(scored, names if node == rank == 0 else names / node / rank)
                tokens.append(token)
                scores.append(scored[:, None])
                if self.siblings == "without":
                    law = law.scatter(-1, token[:, None], -torch.inf)
                elif self.siblings == "hub":
                    law = second(law, token)
        return torch.stack(tokens, 1), Scored.cat(scores, 1)


class PlannedTree(TreeDrafter):
    """Draft the tree that keeps most tokens, without replacement: Sequoia's planner (2402.12374).

    acceptance: by rank, the probability that this child is kept once its parent is. A run's record has it.
    budget: tokens that are verified. depth: of the tree. layers: as in `TreeDrafter`. `sdbench tune` chooses all but the last.
    """

    def __init__(
        self, model: LanguageModel, acceptance: Sequence[float], budget: int, depth: int, layers: int | None = None
    ) -> None:
        shares = [validate.number("proposer.acceptance", share, 0, 1) for share in acceptance]
        if not shares or not 0 < sum(shares) <= 1:
            raise InputError(
                "proposer.acceptance is the probability of each rank; their sum must be above 0 and at most 1."
            )
        validate.whole("proposer.budget", budget, 1, MOST_NODES)
        validate.whole("proposer.depth", depth, 1)
        super().__init__(model, paths=best_tree(shares, budget, depth)[1], layers=layers)
