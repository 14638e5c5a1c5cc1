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

from sdbench.acceptance.base import Draft
from sdbench.lm.context import Context
from sdbench.lm.trace import Trace


@dataclass
class _Drafted:
    """A draft: where it stands in the trace (by row), where it began, and what was drawn; kept: how much of it was."""

    places: dict[int, tuple[int, int, int]]
    start: np.ndarray
    draft: Draft
    kept: np.ndarray | None = None


class RankLog:
    """Keeps what is needed of each draft until its outcome is known; the ranks are computed when the trace is closed."""

    def __init__(self, proposer: str) -> None:
        self.proposer = proposer
        self._last: _Drafted | None = None
        self._kept: list[tuple[_Drafted, Tensor, Tensor | None]] = []

    def open(self, trace: Trace) -> None:
        self._last, self._kept = None, []
        trace.at_close.append(lambda: self._record(trace))

    def whole(self, context: Context) -> bool:
        """What has become of the last draft stands in `context`: whether some row kept all of it, so that the distribution behind
        its last token is wanted too."""
        last = self._last
        if last is None:
            return False
        sequence, active = context.trace.sequence, context.active
        # The rows that still hold the sequence which the draft was for.
        last.places = {row: at for row, at in last.places.items() if sequence[row] == at[0] and active[row]}
        kept = last.kept = context.length - 1 - last.start
        return any(kept[row] == last.draft.tokens.shape[1] for row in last.places)

    def drafted(self, context: Context, draft: Draft, behind: Float[Tensor, "B V"] | None) -> None:
        """A new draft; behind: the draft's logits behind the last token of the one before, if that was kept whole."""
        last = self._last
        if last is not None:
            self._kept.append((last, self._added(context), behind))
        self._last = _Drafted(places_of(context, last.places if last is not None else {}), context.length.copy(), draft)

    @staticmethod
    def _added(context: Context) -> Int[Tensor, " B"]:
        """The last decided token of each row."""
        last = context.length - 1
        if context.rows == 1:
            return context.tokens[:, int(last[0])].clone()
        return context.tokens.gather(1, torch.from_numpy(last).to(context.tokens.device)[:, None])[:, 0]

    def _record(self, trace: Trace) -> None:
        verified = {
            (row["sequence"], row["round"], row["inner_round"]): row
            for row in trace.rounds
            if row["edge"].partition(">")[0] == self.proposer
        }
        for ended, token, behind in self._kept:
            draft, kept, chosen = ended.draft, ended.kept, []
            assert draft.q is not None
            assert kept is not None
            orders = [*draft.q.logits.unbind(1), *([behind] if behind is not None else [])]
            for index, place in ended.places.items():
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
