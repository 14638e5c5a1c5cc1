"""Prompt look-up (PLD, apoorvumang/prompt-lookup-decoding): copy the tokens that followed the last n-gram earlier in the text.

The drafter searches the earlier tokens for the longest n-gram that ends the sequence, n = max_ngram .. min_ngram. The tokens behind
the match are the draft. No model is needed, so the draft is deterministic.

A long match predicts more tokens than a short one, and each drafted token costs time in the target's forward. So `per_match`
limits the draft to a number of tokens per matched token, as SuffixDecoding does (`max_spec_factor`, 2411.04975).
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import upload
from sdbench.drafting.base import Local
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState


class PromptLookup(Local):
    """Draft by look-up.

    max_ngram, min_ngram: the longest and the shortest match, in tokens. match: which of several longest matches is copied, "first"
    (the oldest) or "last" (the most recent). per_match: the most drafted tokens per token of the match, rounded down. None means
    no limit but the draft length. The defaults are those of PLD.

    Errors: InputError if a value is out of its range, or if per_match drafts nothing behind the shortest match.
    """

    name = "lookup"
    kind = ProposalKind.DETERMINISTIC
    matches = True

    def __init__(
        self, max_ngram: int = 3, min_ngram: int = 1, match: str = "first", per_match: float | None = None
    ) -> None:
        validate.whole("lookup: min_ngram", min_ngram, 1)
        validate.whole("lookup: max_ngram", max_ngram, 1)
        if min_ngram > max_ngram:
            raise InputError(f"lookup: min_ngram is {min_ngram}; it must be at most max_ngram, which is {max_ngram}.")
        validate.choice("lookup: match", match, ("first", "last"))
        if per_match is not None and validate.number("lookup: per_match", per_match, 0) * min_ngram < 1:
            raise InputError(
                f"lookup: per_match is {per_match}, so a match of {min_ngram} tokens drafts none; "
                f"it must be at least {1 / min_ngram:.3g}, which is 1 / min_ngram."
            )
        self.max_ngram, self.min_ngram, self.match, self.per_match = max_ngram, min_ngram, match, per_match

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
        source, matched = self._longest(tokens, ends)
        most = torch.full_like(ends, length)
        if self.per_match is not None:
            most = (matched * self.per_match).long().clamp(max=length)
        drafted = torch.where(matched >= self.min_ngram, torch.minimum(ends - source, most), 0)
        width = int(drafted[upload(state.active, drafted.device)].max())
        where = (source[:, None] + torch.arange(width, device=tokens.device)).clamp(max=tokens.shape[1] - 1)
        copied = tokens.gather(1, where)
        return Draft(copied, drafted.clamp(max=width), None, self.kind, matched=matched)

    def _longest(
        self, tokens: Int[Tensor, "B L"], ends: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Return the position behind the longest match of each row, [B], and the length of the match in tokens, [B]; 0 for none."""
        n = min(self.max_ngram, tokens.shape[1])
        padded = pad(tokens, (n, 0), value=-1)  # so that every token ends a window of n tokens
        behind = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)  # the position behind each token
        tail = padded.gather(1, ends[:, None] + torch.arange(n, device=tokens.device))
        equal = padded[:, 1:].unfold(1, n, 1) == tail[:, None]
        # The tokens that agree without a gap, from the last one back.
        length = equal.flip(-1).cumprod(-1).sum(-1)
        length = length.where(behind < ends[:, None], 0)
        # argmax returns the first of equal values. A distinct number for each position decides between matches of one length.
        order = -behind if self.match == "first" else behind
        best = (length * (2 * tokens.shape[1]) + order).argmax(1)
        return behind[best], length.gather(1, best[:, None])[:, 0]

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        return None
