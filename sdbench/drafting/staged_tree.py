"""A stage that hands up a token tree: the verifier's own tree, drawn as far as the tree below let it look.

`StagedDrafter` hands up the kept path of its verifier, which is a chain. The tree that its verifier has read says more: the
verifier's law behind every node. `StagedTree` draws from these laws. At node 0, and behind each drawn token that is also a node of
the tree below, it draws `siblings` children without replacement:

    the eldest       the token that the rule of this stage puts behind the node: a kept child, or a draw from the verifier's rest
    the younger ones drawn from the verifier's law without their elder siblings

Under a lossless rule the eldest has the verifier's law, whatever the tree below. So each token really comes from the q that is
stated, and an exact rule above keeps the whole lossless. Where a node has children depends on drawn values. That is allowed: the
decision is made before its children are drawn. The likeliest nodes are expanded first, until `budget` tokens are handed up.

Staged trees are an idea of staged speculative decoding (2308.04623), which hands up the verified tokens. The rejected candidates of
a stage cannot be handed up as siblings with the verifier's law: given the token that replaced them, they come from norm((q - p)+).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.base import at, one_hot
from sdbench.acceptance.draft import Draft
from sdbench.acceptance.walk import SiblingRule, decide
from sdbench.device import upload
from sdbench.drafting.base import Proposer
from sdbench.drafting.staged import Stage
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Edge
from sdbench.sampling import Scored
from sdbench.topology import MOST_NODES, Topology, VerifiedTree

_UNREAD = 1 << 30  # the place of a node that this stage has not read


@dataclass
class _Row:
    """The tree of one row, as it grows.

    tree, drafted: what the stage below proposed. parent, tokens: of the nodes drawn so far. read: by such a node, the same node of
    the tree below, if there is one. waiting: nodes that may get children, as (-log p of the path, node).
    """

    tree: Topology
    drafted: list[int]
    parent: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    read: dict[int, int] = field(default_factory=lambda: {0: 0})
    waiting: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def add(self, node: int, token: int, below: int, surprise: float) -> None:
        """Add a child of `node`. below: its node in the tree below, if the rule kept one. surprise: -log p of the path to it."""
        self.parent.append(node)
        self.tokens.append(token)
        own = len(self.tokens)
        same = (child for child in self.tree.children[self.read[node]] if self.drafted[child - 1] == token)
        below = below or next(same, 0)
        if below:
            self.read[own] = below
            heapq.heappush(self.waiting, (surprise, own))

    def eldest_path(self) -> list[int]:
        """Return the nodes that the verifier's own path takes: from each node its eldest child."""
        path, node = [], 0
        while node in self.parent:
            node = self.parent.index(node) + 1
            path.append(node)
        return path


class StagedTree(Stage):
    """Propose a tree of verified tokens.

    verifier: of this stage. rule: its rule. proposer: drafts the trees that the verifier reads. siblings: children of each node.
    budget: the most tokens that are handed up.
    """

    trees = True

    def __init__(
        self, verifier: LanguageModel, rule: SiblingRule, proposer: Proposer, siblings: int = 2, budget: int = 16
    ) -> None:
        self.siblings = validate.whole("proposer.siblings", siblings, 1)
        self.budget = validate.whole("proposer.budget", budget, siblings, MOST_NODES)
        if not proposer.trees or proposer.own_length is None:
            raise InputError(
                f"A stage hands up a tree only over a proposer of token trees, and {proposer.name} drafts chains: take "
                "sdbench.drafting.StagedDrafter, or draft the chain as a tree (TreeDrafter with widths [1, 1, 1])."
            )
        if not isinstance(rule, SiblingRule):
            raise InputError(
                f"The rule {type(rule).__name__} is defined along a chain, but {verifier.name} draws a token tree: take exact, "
                "match, typical or kseq."
            )
        self.verifier, self.rule, self.proposer = verifier, rule, proposer
        self.tested = rule  # the same rule, known to state a law of siblings
        self.draft_length = proposer.own_length
        self.edge = Edge(proposer.name, verifier.name)
        self._rows: list[_Row] | None = None

    @property
    def own_length(self) -> int | None:
        return self.draft_length + 1

    def max_lookahead(self, length: int) -> int:
        return max(self.budget, self.proposer.max_lookahead(self.draft_length))

    def open(self, state: DecodeState, length: int) -> None:
        if self.siblings > self.verifier.vocab:
            raise InputError(
                f"proposer.siblings is {self.siblings}; {self.name} has only {self.verifier.vocab} tokens."
            )
        self.proposer.open(state, self.draft_length)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, below = state.copy(), key / "inner" / 0
        draft = self.proposer.propose(here, self.draft_length, below).to(self.verifier.device)
        here.place_many(draft.tokens, here.length)
        output = self.verifier.score(here, draft.tokens.shape[1], draft.topology)
        self.proposer.observe(here, draft, output.logits)
        p = state.sampler.score(output.logits, output.best)
        self._rows = [
            _Row(tree, tokens, waiting=[(0.0, 0)] if on else [])
            for tree, tokens, on in zip(draft.trees, draft.tokens.tolist(), state.active.tolist(), strict=True)
        ]
        laws = self._grow(state, draft, p, below / "tree")
        self._record(state, draft)
        return self._draft(p, laws)

    def _grow(self, state: DecodeState, draft: Draft, p: Scored, names: Key) -> list[Float[Tensor, "B V"]]:
        """Draw the tree of each row. Returns the logits of the law of each node, in the order of the nodes."""
        assert self._rows is not None
        device, greedy = p.logits.device, state.sampler.sampling.greedy
        kept, rest = (None, None) if greedy else decide(draft, p, self.tested.siblings)
        laws: list[Tensor] = []
        for step in range(self.budget // self.siblings):
            grown = [heapq.heappop(row.waiting) if row.waiting else None for row in self._rows]
            if not any(grown):
                break
            nodes = upload(
                np.array([row.read[one[1]] if one else 0 for row, one in zip(self._rows, grown, strict=True)]), device
            )
            law, plain = at(p.logits, nodes), at(p.plain, nodes).log()
            child = torch.zeros_like(nodes)
            for rank in range(self.siblings):
                name = names / step / rank
                if rank:
                    token = self._younger(state, law, nodes, name)
                elif kept is None or rest is None:
                    token = state.sampler.draw(state.sampler.score(law), name)
                else:
                    child = state.sampler.choices.choose(self._children(kept, nodes, grown), name / "kept")
                    own = at(draft.tokens, (child - 1).clamp(min=0))
                    behind = torch.where((child > 0)[:, None], one_hot(own, rest), at(rest, nodes))
                    token = state.sampler.choices.choose(behind, name)
                laws.append(law)
                gains = plain.gather(-1, token[:, None])[:, 0].tolist()
                line = zip(self._rows, grown, token.tolist(), child.tolist(), gains, strict=True)
                for row, one, drawn, below, gain in line:
                    if one is not None:
                        row.add(one[1], drawn, 0 if rank else below, one[0] - gain)
                law = law.scatter(-1, token[:, None], -torch.inf)
        return laws

    def _younger(self, state: DecodeState, law: Float[Tensor, "B V"], nodes: Tensor, name: Key) -> Tensor:
        """Draw a younger sibling. law: the verifier's logits without the elder ones."""
        return state.sampler.draw(state.sampler.score(law), name)

    def _children(
        self, kept: Float[Tensor, "B N1"], nodes: Tensor, grown: list[tuple[float, int] | None]
    ) -> Float[Tensor, "B N1"]:
        """Return the law of the child that the rule keeps behind a node of the tree below; node 0 stands for none."""
        assert self._rows is not None
        among = torch.zeros(kept.shape, dtype=torch.bool)
        for row, (own, node) in enumerate(zip(self._rows, nodes.tolist(), strict=True)):
            if grown[row] is not None:
                among[row, list(own.tree.children[node])] = True
        law = kept.where(among.to(kept.device), 0)
        law[:, 0] = (1 - law.sum(-1)).clamp(min=0)
        return law

    def _record(self, state: DecodeState, draft: Draft) -> None:
        """Record the verification of this stage: the path of eldest children through the tree below."""
        assert self._rows is not None
        for number in np.flatnonzero(state.active).tolist():
            row = self._rows[number]
            path = row.eldest_path()
            through = [row.read[node] for node in path if node in row.read]
            verified = VerifiedTree(row.tree, row.drafted[: row.tree.size], through[-1] if through else 0)
            state.trace.verified(
                number, self.edge, 0, max(row.tree.depth), len(through), len(path), draft.number, verified
            )

    def _draft(self, p: Scored, laws: list[Float[Tensor, "B V"]]) -> Draft:
        assert self._rows is not None
        device = p.logits.device
        tokens = np.zeros((len(self._rows), len(laws)), np.int64)
        for number, row in enumerate(self._rows):
            tokens[number, : len(row.tokens)] = row.tokens
        sizes = upload(np.array([len(row.tokens) for row in self._rows]), device)
        q = Scored(torch.stack(laws, 1), p.sampling)
        topology = [Topology.of(row.parent) for row in self._rows]
        return Draft(upload(tokens, device), sizes, q, self.kind, topology=topology)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        if paths is not None and self._rows is not None:
            lines = zip(self._rows, paths, strict=True)
            paths = [[row.read.get(node, _UNREAD) for node in path] for row, path in lines]
        self._rows = None
        self.verifier.keep(length, paths)
        self.proposer.commit(length, paths)
