"""Log what a draft model thought of its draft, in every run: the rank of the verifier's own token in its order, and the
probabilities of its drafted tokens. They are computed off the clock.

The hit rate of a speculation cache (SSD, 2603.03251) follows from these ranks for any fan-out, without a run of SSD. The cache
holds an outcome of k accepted tokens if its rank is at most F_k. Behind k < K accepted tokens the order is that of the draft's
distribution there, without the rejected token. Behind a whole draft it is the order behind its last token, which the next draft's
first step gives. The rank of a sequence's first token is its rank behind the prompt.

The probabilities are those at temperature 1, before any warping. `sdbench.analysis.metrics.calibration` compares them with
acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.draft import Draft
from sdbench.lm.model import Lengths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import RoundNote


@dataclass
class _Position:
    """Where the decoding stood when a draft was made, by row: its sequence, whether it was active, its decided tokens."""

    sequence: list[int]
    active: list[bool]
    length: list[int]

    def kept(self, after: _Position) -> dict[int, int]:
        """Count the tokens of the draft that were decided at the next draft, in the rows that still decode the sequence."""
        same = zip(self.sequence, after.sequence, self.active, after.active, strict=True)
        going = [row for row, (was, now, *active) in enumerate(same) if was == now and all(active)]
        return {row: after.length[row] - 1 - self.length[row] for row in going}


@dataclass
class _Logged:
    """A draft. last: the last decided token of each row before it. before: the logits behind the draft before it, if that was
    kept whole. verified: the decided tokens that the verifier had read when it had verified the draft, by row."""

    position: _Position
    draft: Draft
    last: Int[Tensor, " B"] | list[int]
    before: Float[Tensor, "B R V"] | None
    verified: Lengths | None = None


class RankLog:
    """Keep each draft until its outcome is known, and compute ranks and probabilities when the session has ended."""

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Begin a session."""
        self._now = _Position([], [], [])
        self._drafts: list[_Logged] = []
        self._first: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def number(self) -> int:
        """Return the number of the next draft."""
        return len(self._drafts)

    def admitted(self, state: DecodeState, row: int, behind: Float[Tensor, " V"]) -> None:
        """Note that a sequence has taken a row with its first token decided. behind: the draft's logits behind the prompt."""
        self._first[state.trace.sequence[row]] = state.tokens[row, int(state.length[row]) - 1].clone(), behind

    def whole(self, state: DecodeState) -> bool:
        """Say whether some row kept its whole last draft. Call it before each draft."""
        self._now = _Position([*state.trace.sequence], state.active.tolist(), state.length.tolist())
        if not self._drafts:
            return False
        last = self._drafts[-1]
        return last.draft.tokens.shape[1] in last.position.kept(self._now).values()

    def drafted(self, state: DecodeState, draft: Draft, before: Float[Tensor, "B R V"] | None) -> None:
        """Log a draft. before: the logits behind the last token of the draft before it."""
        self._drafts.append(_Logged(self._now, draft, state.last(), before))

    def verified(self, length: Lengths) -> None:
        """Note the lengths after the first verification of the last draft. A stage above may cut them later."""
        if self._drafts and self._drafts[-1].verified is None:
            self._drafts[-1].verified = length

    def notes(self) -> Iterator[RoundNote]:
        """Yield the ranks and the probabilities of the session, and forget it."""
        drafts, self._drafts = self._drafts, []
        yield from self._first_ranks(drafts)
        for number, logged in enumerate(drafts):
            yield from _probabilities_of(number, logged)
        for number, (ended, following) in enumerate(pairwise(drafts)):
            yield from _ranks_of(number, ended, following)

    def _first_ranks(self, drafts: list[_Logged]) -> Iterator[RoundNote]:
        """Yield the ranks of first tokens, as notes to the first draft of each sequence."""
        first, self._first = self._first, {}
        for number, logged in enumerate(drafts):
            for row, (sequence, active) in enumerate(
                zip(logged.position.sequence, logged.position.active, strict=True)
            ):
                if active and sequence in first:
                    token, behind = first.pop(sequence)
                    token = token.to(behind.device)[None]
                    rank = int(ranks(behind[None], token, torch.full_like(token, -1)))
                    yield RoundNote(number, row, {"first_rank": rank})


def _probabilities_of(number: int, logged: _Logged) -> Iterator[RoundNote]:
    """Yield the probabilities of the drafted tokens. A row that drafted fewer tokens has values behind them that say nothing."""
    draft = logged.draft
    assert draft.q is not None
    logits = draft.q.logits.float()
    chosen = logits.gather(-1, draft.tokens.to(logits.device)[..., None])[..., 0]
    found = (chosen - logits.logsumexp(-1)).exp().tolist()
    for row, active in enumerate(logged.position.active):
        if active:
            yield RoundNote(number, row, {"draft_probabilities": found[row]})


def _ranks_of(number: int, ended: _Logged, following: _Logged) -> Iterator[RoundNote]:
    """Yield the ranks of the tokens that ended a draft, which the next draft's position tells."""
    draft, position = ended.draft, ended.position
    assert draft.q is not None
    orders = [*draft.q.logits.unbind(1), *([following.before[:, 0]] if following.before is not None else [])]
    # A stage above may have cut or added tokens. The token is then no outcome of this draft.
    rows = [
        row
        for row, kept in position.kept(following.position).items()
        if ended.verified is not None and ended.verified[row] - position.length[row] == kept < len(orders)
    ]
    if not rows:
        return
    kept = [following.position.length[row] - 1 - position.length[row] for row in rows]
    device = draft.tokens.device
    order = torch.stack([orders[n][row] for row, n in zip(rows, kept, strict=True)])
    at, counts = torch.tensor(rows, device=device), torch.tensor(kept, device=device)
    drafted = draft.tokens[at].gather(1, counts.clamp(max=draft.tokens.shape[1] - 1)[:, None])[:, 0]
    rejected = torch.where(counts < draft.length[at], drafted, -1)
    found = ranks(order, torch.as_tensor(following.last, device=device)[at], rejected).tolist()
    for row, rank in zip(rows, found, strict=True):
        yield RoundNote(number, row, {"rank": rank})


def ranks(order: Float[Tensor, "B V"], token: Int[Tensor, " B"], rejected: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return the rank, from 1, of token[b] in the order of the draft's logits, without the token rejected[b] (-1: none)."""
    above = order > order.gather(1, token[:, None])
    left_out = above.gather(1, rejected.clamp(min=0)[:, None])[:, 0] & (rejected >= 0)
    return above.sum(1) - left_out.long() + 1
