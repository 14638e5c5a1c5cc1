"""`MyDrafter`: copy the tokens that followed the last n-gram where it occurred before.

The example needs no model. The draft is a function of the text, so its kind is DETERMINISTIC. The exact rule corrects every such
draft, so the output is the target's, whatever the drafter proposes.
"""

from __future__ import annotations

import torch

from sdbench.acceptance import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.validate import whole


class MyDrafter(Local):
    """Propose a copy from the text so far.

    ngram: the number of last tokens that must occur earlier in the text.
    """

    name = "my_drafter"  # the reports call the edge my_drafter>target
    kind = ProposalKind.DETERMINISTIC

    def __init__(self, ngram: int = 2) -> None:
        self.ngram = whole("my_drafter.ngram", ngram, 1)

    @property
    def models(self) -> list[LanguageModel]:
        """Return the models that the drafter steps: none."""
        return []

    def max_lookahead(self, length: int) -> int:
        """Return the most tokens that `propose` can give. sdbench reserves cache slots for them."""
        return length

    def admit(self, state: DecodeState, row: int) -> None:
        """Begin a new sequence in a row. A drafter with a model reads the prompt here."""

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        """Return up to `length` tokens behind the decided ones of each row.

        state.tokens: [B, N], only to be read. state.length: [B], how many tokens of each row are decided. state.active: [B], which
        rows hold a sequence. key: names the random choices of the round; this drafter makes none.
        """
        drafts: list[list[int]] = []
        for row in range(state.rows):
            text = state.tokens[row, : int(state.length[row])].tolist()
            drafts.append(self.copy(text, length) if state.active[row] else [])
        K = max(len(draft) for draft in drafts)
        padded = [draft + [0] * (K - len(draft)) for draft in drafts]
        device = state.tokens.device
        tokens = torch.tensor(padded, dtype=torch.long, device=device)  # [B, K]
        counts = torch.tensor([len(draft) for draft in drafts], device=device)  # [B], how many of the K tokens count
        return Draft(tokens, counts, q=None, kind=self.kind)

    def copy(self, text: list[int], length: int) -> list[int]:
        """Return up to `length` tokens that followed the most recent earlier occurrence of the last `ngram` tokens.

        text: the prompt and the decided tokens of one row.
        """
        tail = text[-self.ngram :]
        for start in range(len(text) - self.ngram - 1, -1, -1):
            behind = start + self.ngram
            if text[start:behind] == tail:
                return text[behind : behind + length]
        return []

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        """Keep the first length[b] tokens of row b. A drafter with a model forgets the rejected tokens here."""
