"""Draft a token tree with a model: several candidates at each place, and the model's continuations of each.

All nodes of one depth are read in one step of the model. The widths of the tree are fixed. How siblings are chosen:

    without   drawn without replacement: each from the model's law without its elder siblings (Sequoia, 2402.12374; MCSD,
              2401.06706)
    with      drawn independently (SpecInfer, 2305.09781; SpecTr, 2310.15141)
    top       the most likely tokens, a function of the context (Medusa, EAGLE)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored
from sdbench.topology import Topology

SIBLINGS = ("without", "with", "top")


class TreeDrafter(Local):
    """Draft the tree in which each node of depth d has widths[d] children. siblings: how these are chosen."""

    trees = True

    def __init__(self, model: LanguageModel, widths: Sequence[int], siblings: str = "without") -> None:
        if not widths:
            raise InputError("proposer.widths is empty; a token tree needs a width for each depth, such as [4, 2, 1].")
        self.widths = [validate.whole("proposer.widths", width, 1) for width in widths]
        self.siblings = validate.choice("proposer.siblings", siblings, SIBLINGS)
        self.model, self.name = model, model.name
        self.own_length = len(self.widths)
        self.topology = Topology.branching(self.widths)

    @property
    def kind(self) -> ProposalKind:
        return ProposalKind.DETERMINISTIC if self.siblings == "top" else ProposalKind.SAMPLED

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return self.topology.size

    def open(self, state: DecodeState, length: int) -> None:
        if max(self.widths) > self.model.vocab:
            raise InputError(f"proposer.widths has {max(self.widths)}; {self.name} has only {self.model.vocab} tokens.")

    def admit(self, state: DecodeState, row: int) -> None:
        self.model.reset(row)
        self.model.read(state, state.length - 1, "prefill", row=row)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, names, trees = state.copy(), drafting_key(key), [self.topology] * state.rows
        logits = self.model.read(state, state.length, "draft").logits[:, -1:]
        tokens, scores, count = [], [], 0
        for depth, width in enumerate(self.widths):
            chosen, scored = self._children(here, logits, width, names / depth)
            tokens.append(chosen)
            scores.append(scored)
            first, count = count + 1, count + chosen.shape[1]
            if depth + 1 == len(self.widths):
                break
            here.place_many(chosen, state.length + first - 1)
            logits = self.model.read_tree(here, trees, (first, count), "draft").logits
        drafted = torch.cat(tokens, 1)
        whole = torch.full((state.rows,), count, device=drafted.device)
        q = None if self.kind is ProposalKind.DETERMINISTIC else Scored.cat(scores, 1)
        return Draft(drafted, whole, q, self.kind, full=True, topology=trees)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        self.model.keep(length, paths)

    def _children(
        self, state: DecodeState, logits: Float[Tensor, "B M V"], width: int, names: Key
    ) -> tuple[Int[Tensor, "B MW"], Scored]:
        """Choose `width` children of each of M nodes. Returns them, node after node, and the scores they were drawn from."""
        if self.siblings == "top":
            best = logits.topk(width, -1).indices.flatten(1)
            return best, Scored(logits.repeat_interleave(width, 1), state.sampler.sampling)
        tokens, scores = [], []
        for node, law in enumerate(logits.unbind(1)):
            for rank in range(width):
                scored = state.sampler.score(law)
                token = state.sampler.draw(scored, names if node == rank == 0 else names / node / rank)
                tokens.append(token)
                scores.append(scored[:, None])
                if self.siblings == "without":
                    law = law.scatter(-1, token[:, None], -torch.inf)
        return torch.stack(tokens, 1), Scored.cat(scores, 1)
