"""Where the verifier's own token stood in the draft's order: logged in every run, off the clock.

From these ranks the hit rate of a speculation cache (SSD, 2603.03251) follows for any fan-out without running it: an outcome of k
kept tokens is held if its rank is at most F_k. Behind n < K kept tokens the order is that of the draft's distribution there, the
refused token left out; behind a draft kept whole it is the order behind its last token, which the draft's next step reads anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.lm.context import Context
from sdbench.lm.trace import Trace


@dataclass
class _Drafted:
    """A draft: where it stands in the trace (by row), where it began, and what it was drawn from."""

    places: dict[int, tuple[int, int, int]]
    start: np.ndarray
    tokens: Int[Tensor, "B K"]
    length: Int[Tensor, " B"]
    logits: list[Tensor]


class RankLog:
    """Keeps what is needed of each draft until its outcome is known; the ranks are computed when the trace is closed."""

    def __init__(self, proposer: str) -> None:
        self.proposer = proposer
        self._last: _Drafted | None = None
        self._kept: list[tuple[_Drafted, np.ndarray, Tensor, Tensor | None]] = []

    def open(self, trace: Trace) -> None:
        self._last, self._kept = None, []
        trace.at_close.append(lambda: self._record(trace))

    def whole(self, context: Context) -> bool:
        """Whether some row kept all of its last draft: then the distribution behind it is wanted too."""
        last = self._last
        if last is None:
            return False
        kept = context.length - 1 - last.start
        return any(kept[row] == len(last.logits) for row in self._going_on(context, last))

    def followed(self, context: Context, behind: Float[Tensor, "B V"] | None) -> None:
        """The outcome of the last draft is in `context`; behind: the draft's logits behind its last token, if it was kept whole."""
        if self._last is not None:
            self._last.places = self._going_on(context, self._last)
            kept, last = context.length - 1 - self._last.start, context.length - 1
            if context.rows == 1:
                token = context.tokens[:, int(last[0])].clone()
            else:
                token = context.tokens.gather(1, torch.from_numpy(last).to(context.tokens.device)[:, None])[:, 0]
            self._kept.append((self._last, kept, token, behind))

    @staticmethod
    def _going_on(context: Context, last: _Drafted) -> dict[int, tuple[int, int, int]]:
        """The places of the rows that still hold the sequence which the draft was for."""
        sequence = context.trace.sequence
        return {row: place for row, place in last.places.items() if sequence[row] == place[0] and context.active[row]}

    def drafted(
        self, context: Context, tokens: Int[Tensor, "B K"], length: Int[Tensor, " B"], logits: list[Tensor]
    ) -> None:
        """A new draft: logits are K times [B, V]."""
        before = self._last.places if self._last is not None else {}
        places = places_of(context, before)
        self._last = _Drafted(places, context.length.copy(), tokens, length, logits)

    def _record(self, trace: Trace) -> None:
        verified = {
            (row["sequence"], row["round"], row["inner_round"]): row
            for row in trace.rounds
            if row["edge"].partition(">")[0] == self.proposer
        }
        for draft, kept, token, behind in self._kept:
            orders, chosen = [*draft.logits, *([behind] if behind is not None else [])], []
            for index, place in draft.places.items():
                row, n = verified.get(place), int(kept[index])
                # A stage above may have cut or added: then the token is no outcome of this draft.
                if row is not None and row["accepted"] == n and n < len(orders):
                    chosen.append((index, n, row))
            if not chosen:
                continue
            rows = torch.tensor([index for index, _, _ in chosen], device=draft.tokens.device)
            order = torch.stack([orders[n][index] for index, n, _ in chosen])
            ns = torch.tensor([n for _, n, _ in chosen], device=rows.device)
            found = ranks(order, token.to(rows.device)[rows], draft.tokens[rows], ns, draft.length[rows]).tolist()
            for (_, _, row), rank in zip(chosen, found, strict=True):
                row["rank"] = rank
        self._kept = []


def places_of(context: Context, before: dict[int, tuple[int, int, int]]) -> dict[int, tuple[int, int, int]]:
    """By active row, the (sequence, round, inner round) of the verification that a draft made now goes to.

    before: the places of the draft before it: another one in the same round is the next inner round's.
    """
    trace, places = context.trace, {}
    for row in np.flatnonzero(context.active).tolist():
        at = (trace.sequence[row], trace.sequence_round[row])
        earlier = before.get(row, (-1, -1, -1))
        places[row] = (*at, earlier[2] + 1 if earlier[:2] == at else 0)
    return places


def ranks(
    order: Float[Tensor, "B V"],
    token: Int[Tensor, " B"],
    drafted: Int[Tensor, "B K"],
    kept: Int[Tensor, " B"],
    length: Int[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """The place, from 1, of token[b] in the order of the draft's logits behind kept[b] of its length[b] tokens.

    The drafted token that was refused there, if one was, is left out.
    """
    above = order > order.gather(1, token[:, None])
    own = drafted.gather(1, kept.clamp(max=drafted.shape[1] - 1)[:, None])
    refused = above.gather(1, own)[:, 0] & (kept < length)
    return above.sum(1) - refused.long() + 1
