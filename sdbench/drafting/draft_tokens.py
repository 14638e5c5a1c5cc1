"""Draft K tokens from a language model, one after the other.

The drafter, SSD's neural back-up and branches, and AMUSD draft here. So the same context and key give the same tokens in all of
them, and SSD with a neural back-up gives the tokens of synchronous decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored

Modify = Callable[[Tensor, int], Tensor]  # (logits [..., V], depth) -> logits to draw from
# (scores [B, V], token [B], drafted tokens before it: of all rows or [B]) -> rows that go on [B]; None: all
GoOn = Callable[[Scored, Tensor, "int | np.ndarray"], "Tensor | None"]


@dataclass(frozen=True)
class DraftedTokens:
    """Hold K drafted tokens of each row.

    tokens: [B, K]. q: [B, K, V], what they were drawn from. logits: [B, K, V], the model's own logits there.
    length: [B], how many tokens of each row count; None if all do.
    before: [B, R, V], the logits behind the R tokens before the last decided one, where they were asked for.
    """

    tokens: Int[Tensor, "B K"]
    q: Scored
    logits: Float[Tensor, "B K V"]
    length: Int[Tensor, " B"] | None = None
    before: Float[Tensor, "B R V"] | None = None


def drafting_key(key: Key) -> Key:
    """Name the draws of a draft. key: the name of the round. The token at a depth is `drafting_key(key) / depth`."""
    return key / "draft"


def draft_tokens(
    model: LanguageModel,
    state: DecodeState,
    length: int,
    kind: str,
    key: Key,
    num_logits: int = 1,
    modify: Modify | None = None,
    go_on: GoOn | None = None,
) -> DraftedTokens:
    """Draft `length` tokens behind the decided tokens of each active row. The tokens of `state` stay as they are.

    Args:
        kind: the name of the steps in the trace.
        key: the name of the round.
        num_logits: R + 1. The first step also gives the logits behind the R tokens before the last decided one.
        modify: changes the logits that a token is drawn from.
        go_on: says after each token which rows go on; drafting ends early where none does.
    """
    names = drafting_key(key)
    if modify is None and go_on is None:
        drawn = model.draft(state, length, kind, names, num_logits)
        if drawn is not None:
            tokens, logits, before = drawn
            return DraftedTokens(tokens, state.sampler.score(logits), logits, before=before)
    here, on_cpu = state.copy(), model.device.type == "cpu"
    tokens, scores, own = [], [], []
    before: Float[Tensor, "B R V"] | None = None
    going: Bool[Tensor, " B"] | None = None
    drafted: int | Int[Tensor, " B"] = 1  # of each row; a number as long as it is the same in all rows
    for depth in range(length):
        end, kept = here.length + depth, num_logits if depth == 0 else 1
        token, scored, logits = draft_token(model, here, end, kind, names / depth, kept, modify, depth)
        if kept > 1:
            before = logits[:, :-1]
        tokens.append(token)
        scores.append(scored[:, None])
        own.append(logits[:, -1])
        if depth + 1 == length:
            break
        here.place(token, end)
        on = None if go_on is None else go_on(scored, token, depth)
        if on is not None:
            going = on if going is None else going & on
            # Off the CPU this question would stall the device. There a row that stopped drafts on, and its tokens do not count.
            if on_cpu and not going[torch.from_numpy(state.active)].any():
                break
        drafted = drafted + (1 if going is None else going)
    q = Scored.cat(scores, 1)
    logits = q.logits if modify is None else torch.stack(own, 1)
    return DraftedTokens(torch.stack(tokens, 1), q, logits, None if isinstance(drafted, int) else drafted, before)


def draft_token(
    model: LanguageModel,
    state: DecodeState,
    end: Lengths,
    kind: str,
    key: Key,
    num_logits: int = 1,
    modify: Modify | None = None,
    depth: int = 0,
) -> tuple[Int[Tensor, " B"], Scored, Float[Tensor, "B R V"]]:
    """Read each active row up to end[b] and draw the next token.

    key: the name of the draw. The other arguments are those of `draft_tokens`.

    Returns the tokens, the scores [B, V] that they were drawn from, and the model's own logits of the last `num_logits` positions.
    """
    logits = model.read(state, end, kind, num_logits=num_logits).logits
    last = logits[:, -1]
    scored = state.sampler.score(last if modify is None else modify(last, depth))
    return state.sampler.draw(scored, key), scored, logits
