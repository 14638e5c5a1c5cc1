"""Where the verifier's own token stood in the draft's order: logged in every run, off the clock.

From these ranks the hit rate of a speculation cache (SSD, 2603.03251) follows for any fan-out without running it: an outcome of k
kept tokens is held if its rank is at most F_k. Behind n < K kept tokens the order is that of the draft's distribution there, the
refused token left out; behind a draft kept whole it is the order behind its last token, which the draft's next step reads anyway.
Of a sequence's first token it is the order behind the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.draft import Draft
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace


class _Stands(NamedTuple):
    """By row, where the decoding stood when a draft was made: the sequence, its round, whether it goes on, its length."""

    sequence: list[int]
    round: list[int]
    active: list[bool]
    length: list[int]

    def kept(self, after: _Stands) -> dict[int, int]:
        """How many tokens of the draft were kept, by the next one, of the rows that then still held their sequence."""
        same = zip(self.sequence, after.sequence, self.active, after.active, strict=True)
        going = [index for index, (was, now, *active) in enumerate(same) if was == now and all(active)]
        return {index: after.length[index] - 1 - self.length[index] for index in going}


class RankLog:
    """Keeps what is needed of each draft until its outcome is known; the ranks are computed when the trace is closed."""

    def __init__(self, proposer: str) -> None:
        self.proposer = proposer
        self._now = _Stands([], [], [], [])
        self._drafts: list[tuple[_Stands, Draft, Tensor | list[int], Tensor | None]] = []
        self._first: list[tuple[int, Tensor, Tensor]] = []

    def open(self, trace: Trace) -> None:
        self._drafts, self._first = [], []
        trace.at_close.append(lambda: self._record(trace))

    def admitted(self, context: DecodeState, row: int, behind: Float[Tensor, " V"]) -> None:
        """A sequence and its first token have taken a row; behind: the draft's logits behind the prompt."""
        token = context.tokens[row, int(context.length[row]) - 1].clone()
        self._first.append((context.trace.sequence[row], token, behind))

    def whole(self, context: DecodeState) -> bool:
        """A draft is due. Whether some row kept all of its last one, so that the distribution behind its end is wanted too."""
        trace = context.trace
        rows = [*trace.sequence], [*trace.sequence_round], context.active.tolist(), context.length.tolist()
        self._now = _Stands(*rows)
        if not self._drafts:
            return False
        last, draft, *_ = self._drafts[-1]
        return draft.tokens.shape[1] in last.kept(self._now).values()

    def drafted(self, context: DecodeState, draft: Draft, behind: Float[Tensor, "B R V"] | None) -> None:
        """It is made; behind: logits, the first of them behind the last token of the draft before, if that was kept whole."""
        self._drafts.append((self._now, draft, context.last(), behind))

    def _record(self, trace: Trace) -> None:
        verified = {
            (row["sequence"], row["round"], row["inner_round"]): row
            for row in trace.rounds
            if row["proposer"] == self.proposer
        }
        for sequence, token, behind in self._first:
            row = verified.get((sequence, 0, 0))
            if row is not None:
                first = token.to(behind.device)[None]
                row["first_rank"] = int(ranks(behind[None], first, torch.full_like(first, -1)))
        places: dict[int, tuple[int, int, int]] = {}
        for (ended, draft, *_), (after, _, token, behind) in pairwise(self._drafts):
            places = places_of(ended.sequence, ended.round, ended.active, places)
            chosen = []
            assert draft.q is not None
            orders = [*draft.q.logits.unbind(1), *([behind[:, 0]] if behind is not None else [])]
            for index, n in ended.kept(after).items():
                row = verified.get(places[index])
                # A stage above may have cut or added: then the token is no outcome of this draft.
                if row is not None and row["accepted"] == n and n < len(orders):
                    chosen.append((index, n, row))
            if not chosen:
                continue
            rows = torch.tensor([index for index, _, _ in chosen], device=draft.tokens.device)
            order = torch.stack([orders[n][index] for index, n, _ in chosen])
            ns = torch.tensor([n for _, n, _ in chosen], device=rows.device)
            drafted = draft.tokens[rows].gather(1, ns.clamp(max=draft.tokens.shape[1] - 1)[:, None])[:, 0]
            refused = torch.where(ns < draft.length[rows], drafted, -1)
            found = ranks(order, torch.as_tensor(token, device=rows.device)[rows], refused).tolist()
            for (_, _, row), rank in zip(chosen, found, strict=True):
                row["rank"] = rank
        self._drafts, self._first = [], []


def places_of(
    sequence: Sequence[int], rounds: Sequence[int], active: Sequence[bool], before: Mapping[int, tuple[int, int, int]]
) -> dict[int, tuple[int, int, int]]:
    """By active row, the (sequence, round, inner round) of the verification that a draft made now goes to.

    sequence, rounds, active: by row. before: the places of the draft before it: another one in the same round is the next inner
    round's.
    """
    places = {}
    for row, at in enumerate(zip(sequence, rounds, strict=True)):
        if active[row]:
            earlier = before.get(row, (-1, -1, -1))
            places[row] = (*at, earlier[2] + 1 if earlier[:2] == at else 0)
    return places


def ranks(order: Float[Tensor, "B V"], token: Int[Tensor, " B"], refused: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The place, from 1, of token[b] in the order of the draft's logits, without the drafted token refused[b] (-1: none was)."""
    above = order > order.gather(1, token[:, None])
    left_out = above.gather(1, refused.clamp(min=0)[:, None])[:, 0] & (refused >= 0)
    return above.sum(1) - left_out.long() + 1
