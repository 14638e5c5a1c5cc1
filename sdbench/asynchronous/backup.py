"""What is drafted when the cache misses (SSD, 2603.03251, theorem 17). Each is exactly lossless.

Deterministic tokens (look-up, random) are handed up with all their q on themselves: the exact rule then keeps x with probability
p(x) and corrects from p without x. (The authors' code matches such tokens greedily and corrects from p, which is biased by
p(x) / V: asynchronous decoding is lossless only with the right q.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.drafting.lookup import PromptLookup

if TYPE_CHECKING:
    from sdbench.asynchronous.speculation import SpeculationServer


@dataclass
class BackedUp:
    """tokens: [B, K]; length: [B], how many of them count; logits: [B, K, V], what they were drawn from.

    behind: [B, K, V], the draft's own logits in their places, where it has read all but the last of them; else None.
    """

    tokens: Int[Tensor, "B K"]
    length: np.ndarray
    logits: Float[Tensor, "B K V"]
    behind: Float[Tensor, "B K V"] | None = None


class Backup(Protocol):
    """Drafts for the rows that missed."""

    whole_batch: bool
    """Whether one miss makes it draft for every row (the cached drafts of the others are then dropped)."""

    def draft(self, server: SpeculationServer, missed: np.ndarray) -> BackedUp:
        """Drafts behind the decided tokens of the rows missed[B]; what it says of other rows is not used."""
        ...


class Neural:
    """Just in time, by the draft model itself: K steps while the verifier waits.

    whole_batch: draft for all rows when one missed, as the authors' code does, in place of the missed ones alone.
    """

    def __init__(self, whole_batch: bool = False) -> None:
        validate.switch("backup.whole_batch", whole_batch)
        self.whole_batch = whole_batch

    def draft(self, server: SpeculationServer, missed: np.ndarray) -> BackedUp:
        context = server.context.ahead(server.context.length, missed)
        fan_out = server.counts(server.length, hit=False)
        length = np.where(missed, server.length, 0)
        if server.saguaro.plain:
            drawn = server.model.draft(context, server.length, "backup", server.key() / "draft")
            if drawn is not None:
                return BackedUp(drawn[0], length, drawn[1], drawn[1])
        tokens, scores, behind = [], [], []
        for depth in range(server.length):
            behind.append(server.model.read(context, context.length + depth, "backup").logits[:, -1])
            logits = server.modified(behind[-1], fan_out[depth])
            token = context.sampler.draw(context.sampler.score(logits), server.key() / "draft" / depth)
            context.place(token, context.length + depth)
            tokens.append(token)
            scores.append(logits)
        own = torch.stack(behind, 1)
        return BackedUp(torch.stack(tokens, 1), length, own if server.saguaro.plain else torch.stack(scores, 1), own)


class Lookup:
    """Prompt look-up in what the row has so far: no forward at all."""

    whole_batch = False

    def __init__(self, max_ngram: int = 3, min_ngram: int = 1, match: str = "last") -> None:
        self._lookup = PromptLookup(max_ngram, min_ngram, match)

    def draft(self, server: SpeculationServer, missed: np.ndarray) -> BackedUp:
        context = server.context.ahead(server.context.length, missed)
        found = self._lookup.propose(context, server.length, server.key())
        tokens = torch.zeros(context.rows, server.length, dtype=torch.long, device=server.device)
        tokens[:, : found.tokens.shape[1]] = found.tokens.to(server.device)
        length = np.where(missed, found.length.cpu().numpy(), 0)
        return BackedUp(tokens, length, certain(tokens, server.model.vocab))


class Random:
    """Uniformly random tokens: a place holder of no cost, of which next to none is accepted.

    length: how many (one by default: what follows a rejected token is never looked at).
    """

    whole_batch = False

    def __init__(self, length: int = 1) -> None:
        validate.whole("backup.length", length, 1)  # Undrafted drafts none
        self.length = length

    def draft(self, server: SpeculationServer, missed: np.ndarray) -> BackedUp:
        rows, vocab = server.context.rows, server.model.vocab
        tokens = torch.zeros(rows, server.length, dtype=torch.long, device=server.device)
        length = min(self.length, server.length)
        for depth in range(length):
            uniform = torch.ones(rows, vocab, device=server.device)
            tokens[:, depth] = server.choose(uniform, server.key() / "random" / depth)
        return BackedUp(tokens, np.where(missed, length, 0), certain(tokens, vocab))


class Undrafted:
    """Nothing: the verifier decodes one token by itself."""

    whole_batch = False

    def draft(self, server: SpeculationServer, missed: np.ndarray) -> BackedUp:
        tokens = torch.zeros(server.context.rows, server.length, dtype=torch.long, device=server.device)
        return BackedUp(tokens, np.zeros(server.context.rows, np.int64), certain(tokens, server.model.vocab))


def certain(tokens: Int[Tensor, "B K"], vocab: int) -> Float[Tensor, "B K V"]:
    """Logits that leave no mass to any other token."""
    logits = torch.full((*tokens.shape, vocab), -torch.inf, device=tokens.device)
    return logits.scatter(-1, tokens[..., None], 0.0)
