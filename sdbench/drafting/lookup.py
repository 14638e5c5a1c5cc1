"""Prompt look-up (PLD, apoorvumang/prompt-lookup-decoding): copy the tokens that followed the last n-gram earlier in the text.

The drafter searches the earlier tokens for the longest n-gram that ends the sequence, n = max_ngram .. min_ngram. The tokens behind
the match are the draft. No model is needed, so the draft is deterministic.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import upload
from sdbench.drafting.base import Local
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState


class PromptLookup(Local):
    """Draft by look-up. max_ngram: 3 in PLD. match: "first" (the oldest match, as PLD) or "last" (the most recent one)."""

    name = "lookup"
    kind = ProposalKind.DETERMINISTIC

    def __init__(self, max_ngram: int = 3, min_ngram: int = 1, match: str = "first") -> None:
        if not 1 <= min_ngram <= max_ngram:
            raise InputError(f"lookup: min_ngram {min_ngram}, max_ngram {max_ngram}; need 1 <= min_ngram <= max_ngram.")
        if match not in ("first", "last"):
            raise InputError(f"lookup: match is '{match}'; it must be 'first' or 'last'.")
        self.max_ngram, self.min_ngram, self.match = max_ngram, min_ngram, match

    @property
    def models(self) -> list[LanguageModel]:
        return []

    def max_lookahead(self, length: int) -> int:
        return length

    def admit(self, state: DecodeState, row: int) -> None:
        return None

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        tokens = state.tokens[:, : int(state.length.max())]
        ends = upload(state.length, tokens.device)
        source, found = self._source(tokens, ends)
        drafted = torch.where(found, (ends - source).clamp(0, length), 0)
        width = int(drafted[upload(state.active, drafted.device)].max())
        where = (source[:, None] + torch.arange(width, device=tokens.device)).clamp(max=tokens.shape[1] - 1)
        copied = tokens.gather(1, where)
        return Draft(copied, drafted.clamp(max=width), None, self.kind)

    def _source(self, tokens: Int[Tensor, "B L"], ends: Int[Tensor, " B"]):
        """Return where the copied tokens begin, [B], and whether there was a match, [B]."""
        source = torch.zeros_like(ends)
        found = torch.zeros_like(ends, dtype=torch.bool)
        for n in range(self.max_ngram, self.min_ngram - 1, -1):
            if tokens.shape[1] <= n:
                continue
            tail = tokens.gather(1, (ends[:, None] - n + torch.arange(n, device=tokens.device)).clamp(min=0))
            equal = (tokens.unfold(1, n, 1) == tail[:, None]).all(-1)
            starts = torch.arange(equal.shape[1], device=tokens.device)
            equal = equal & (starts + n < ends[:, None])
            # argmax returns the first of equal values, so the order rises from the front or from the back.
            order = -starts if self.match == "first" else starts
            best = torch.where(equal, order, -tokens.shape[1]).argmax(1)
            new = equal.any(1) & ~found
            source = torch.where(new, best + n, source)
            found = found | new
        return source, found

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        return None
