"""Back-ups: what the server drafts when its cache misses (SSD, 2603.03251, theorem 17). Each is exactly lossless.

A deterministic or random token has all its q on itself. The exact rule then keeps x with probability p(x) and corrects from p
without x. (The authors' code compares such tokens with the most likely one and corrects from p. That is biased by p(x) / V.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.drafting.draft_tokens import Modify, draft_tokens
from sdbench.drafting.lookup import PromptLookup
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState


@dataclass(frozen=True)
class DraftRequest:
    """Ask a back-up for a draft.

    state: the server's state, in which the rows that missed are active. model: the draft. length: K.
    key: the name of the round. modify: changes the logits that the draft is drawn from (None: ordinary sampling).
    """

    state: DecodeState
    model: LanguageModel
    length: int
    key: Key
    modify: Modify | None = None


@dataclass
class BackedUp:
    """Hold a back-up's draft. Rows that were not asked for mean nothing.

    tokens: [B, K]. length: [B] tokens that count. logits: [B, K, V], what the tokens were drawn from.
    own: [B, K, V], the draft's own logits there, if its cache holds all but the last of the tokens; else None.
    """

    tokens: Int[Tensor, "B K"]
    length: np.ndarray
    logits: Float[Tensor, "B K V"]
    own: Float[Tensor, "B K V"] | None = None


class Backup(Protocol):
    """Draft for the rows that missed.

    whole_batch: one miss makes the back-up draft for every row. The server then drops the cached drafts of the others.
    """

    whole_batch: bool

    def draft(self, request: DraftRequest) -> BackedUp:
        """Return a draft behind the decided tokens of each active row."""
        ...


class Neural:
    """Draft K tokens with the draft model itself, while the verifier waits.

    whole_batch: draft for all rows when one missed, as the authors' code does.
    """

    def __init__(self, whole_batch: bool = False) -> None:
        validate.switch("backup.whole_batch", whole_batch)
        self.whole_batch = whole_batch

    def draft(self, request: DraftRequest) -> BackedUp:
        state, length = request.state, request.length
        drafted = draft_tokens(request.model, state, length, "backup", request.key, modify=request.modify)
        return BackedUp(drafted.tokens, np.where(state.active, length, 0), drafted.q.logits, drafted.logits)


class Lookup:
    """Look up the draft in the row's own tokens. No forward is needed."""

    whole_batch = False

    def __init__(self, max_ngram: int = 3, min_ngram: int = 1, match: str = "last") -> None:
        self._lookup = PromptLookup(max_ngram, min_ngram, match)

    def draft(self, request: DraftRequest) -> BackedUp:
        found, tokens = self._lookup.propose(request.state, request.length, request.key), _no_tokens(request)
        tokens[:, : found.tokens.shape[1]] = found.tokens
        length = np.where(request.state.active, found.length.cpu().numpy(), 0)
        return BackedUp(tokens, length, certain(tokens, request.model.vocab))


class Random:
    """Draft uniformly random tokens. They cost nothing, and almost none is accepted.

    length: how many. The default is one, because nothing behind a rejected token is ever looked at.
    """

    whole_batch = False

    def __init__(self, length: int = 1) -> None:
        validate.whole("backup.length", length, 1)  # Undrafted drafts none
        self.length = length

    def draft(self, request: DraftRequest) -> BackedUp:
        state, tokens, vocab = request.state, _no_tokens(request), request.model.vocab
        length = min(self.length, request.length)
        uniform = torch.ones(state.rows, vocab, device=tokens.device)
        for depth in range(length):
            tokens[:, depth] = state.sampler.choices.choose(uniform, request.key / "random" / depth)
        return BackedUp(tokens, np.where(state.active, length, 0), certain(tokens, vocab))


class Undrafted:
    """Draft nothing. The verifier decodes one token by itself."""

    whole_batch = False

    def draft(self, request: DraftRequest) -> BackedUp:
        tokens = _no_tokens(request)
        return BackedUp(tokens, np.zeros(len(tokens), np.int64), certain(tokens, request.model.vocab))


def _no_tokens(request: DraftRequest) -> Int[Tensor, "B K"]:
    return torch.zeros(request.state.rows, request.length, dtype=torch.long, device=request.state.tokens.device)


def certain(tokens: Int[Tensor, "B K"], vocab: int) -> Float[Tensor, "B K V"]:
    """Return logits that give all mass to the tokens."""
    logits = torch.full((*tokens.shape, vocab), -torch.inf, device=tokens.device)
    return logits.scatter(-1, tokens[..., None], 0.0)
