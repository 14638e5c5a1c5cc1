"""Token recycling (2408.08696): draft a tree from the target's own candidates at earlier occurrences of each token.

A matrix holds, for each token, the target's `top_k` most likely next tokens where it was read last. Every verified node updates it,
whether it was kept or not. The tree has a fixed shape: node r behind a token is the token's candidate of rank r. A token that was
never read has no candidates, so the tree is cut there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.text import Nodes, TextDrafter
from sdbench.errors import InputError
from sdbench.lm.state import DecodeState
from sdbench.theory.trees import best_tree
from sdbench.topology import MOST_NODES, Topology

MEMORIES = ("run", "sequence")
_PART = 256  # tokens


class TokenRecycling(TextDrafter):
    """Draft by the matrix of candidates.

    acceptance: by rank, the probability that this candidate is the target's token. Its length is top_k. budget, depth: of the
    tree, which is the one that keeps most tokens under this acceptance. memory: "run" keeps the matrix between sequences,
    "sequence" gives each sequence its own. The published implementation keeps it, and takes a hand-made tree of 80 nodes, depth 6
    and top_k 8.
    """

    name = "token_recycling"
    trees = True

    def __init__(self, acceptance: Sequence[float], budget: int = 80, depth: int = 6, memory: str = "run") -> None:
        shares = [validate.number("proposer.acceptance", share, 0, 1) for share in acceptance]
        if not shares or not 0 < sum(shares) <= 1:
            raise InputError(
                "proposer.acceptance is the probability of each rank; their sum must be above 0 and at most 1."
            )
        validate.whole("proposer.budget", budget, 1, MOST_NODES)
        validate.whole("proposer.depth", depth, 1)
        self.top_k = len(shares)
        self.topology = Topology.from_paths(best_tree(shares, budget, depth)[1])
        self.memory = validate.choice("proposer.memory", memory, MEMORIES)
        self._shared: dict[int, list[int]] = {}
        self._own: dict[int, dict[int, list[int]]] = {}

    @property
    def own_length(self) -> int | None:
        return len(self.topology.widths)

    def max_lookahead(self, length: int) -> int:
        return self.topology.size

    def admit(self, state: DecodeState, row: int) -> None:
        self._own[row] = {}

    def forget(self) -> None:
        self._shared = {}

    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        candidates = self._matrix(row)
        tokens: list[int] = []
        parents: list[int] = []
        placed = {0: (0, text[-1])}  # by node of the template: its node in the draft, and its token
        for node, (above, rank) in enumerate(zip(self.topology.parent, self.topology.rank, strict=True), start=1):
            place, token = placed.get(above, (0, -1))
            following = candidates.get(token, ())
            if rank < len(following):
                tokens.append(following[rank])
                parents.append(place)
                placed[node] = len(tokens), following[rank]
        return Nodes(tokens, parents)

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        best = most_likely_tokens(logits, self.top_k).tolist()
        last = state.last()
        roots = last.tolist() if isinstance(last, Tensor) else last
        lines = zip(state.active.tolist(), roots, draft.tokens.tolist(), draft.trees, best, strict=True)
        for row, (active, root, drafted, tree, found) in enumerate(lines):
            if active:
                # Of several nodes with one token, the last one counts: the matrix is overwritten.
                self._matrix(row).update(zip([root, *drafted[: tree.size]], found, strict=False))

    def _matrix(self, row: int) -> dict[int, list[int]]:
        return self._shared if self.memory == "run" else self._own[row]


def most_likely_tokens(logits: Float[Tensor, "B N1 V"], count: int) -> Int[Tensor, "B N1 K"]:
    """Return the `count` most likely tokens, the most likely one first; all of a smaller vocabulary.

    They lie in the `count` parts of the vocabulary with the largest maxima. To look there only takes a third of the time.
    """
    vocab = logits.shape[-1]
    parts = vocab // _PART
    if parts <= count:
        return logits.topk(min(count, vocab), -1).indices
    whole = logits[..., : parts * _PART].unflatten(-1, (parts, _PART))
    rest = torch.arange(parts * _PART, vocab, device=logits.device).expand(*logits.shape[:-1], -1)
    chosen = whole.amax(-1).topk(count, -1).indices
    tokens = (chosen[..., None] * _PART + torch.arange(_PART, device=logits.device)).flatten(-2)
    tokens = torch.cat([tokens, rest], -1)
    return tokens.gather(-1, logits.gather(-1, tokens).topk(count, -1).indices)
