"""Draft with a model that has another tokenizer: its text is encoded again with the target's (SLEM of Timor et al., 2502.05202).

The draft reads the decided text in its own tokens, and writes K tokens greedily. The target's tokenizer encodes the new text. The
result is a function of the context, so the delta rule applies: the exact rule is lossless over it. Its own tokens may be more than
the target's. So the draft has a window of its own, and forgets the older half of it when it is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import torch

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import draft_tokens
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Sampler, Sampling

_WINDOW = 4  # slots of the draft for each slot of the target, unless it reads fewer positions


@dataclass
class _Text:
    """The text of a row. seen: the target's tokens. own: the draft's tokens of the same text, within its window.

    rest: the bytes of an incomplete character at the end. held: the tokens that the draft's cache holds.
    """

    seen: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    rest: bytes = b""
    held: list[int] = field(default_factory=list)


class ReencodedDrafter(Local):
    """Draft text with a model whose role has `vocabulary: reencode`."""

    kind = ProposalKind.DETERMINISTIC
    reencodes = True

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.name = model, model.name
        self._texts: list[_Text] = []

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return length

    def open(self, state: DecodeState, length: int) -> None:
        slots = min(self.model.max_positions, _WINDOW * state.tokens.shape[1])
        self.model.allocate(state.rows, slots)
        self._tokens = torch.zeros(state.rows, slots, dtype=torch.long, device=self.model.device)
        self._texts = [_Text() for _ in range(state.rows)]

    def admit(self, state: DecodeState, row: int) -> None:
        self.model.reset(row)
        self._texts[row] = _Text()
        here = self._own_state(state, [row], 1)
        if here.length[row] > 1:
            self.model.read(here, here.length - 1, "prefill", row=row)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        rows = np.flatnonzero(state.active).tolist()
        here = self._own_state(state, rows, length)
        drafted = draft_tokens(self.model, here, length, "draft", key).tokens.tolist()
        lines: list[list[int]] = [[] for _ in range(state.rows)]
        for row in rows:
            text = self._texts[row]
            text.held = text.own + drafted[row][:-1]
            lines[row] = self._bridge.propose(text.seen, text.rest, drafted[row])[:length]
        width = max(map(len, lines))
        padded = torch.tensor([line + [0] * (width - len(line)) for line in lines], dtype=torch.long)
        counts = torch.tensor([len(line) for line in lines])
        device = state.tokens.device
        return Draft(padded.view(state.rows, width).to(device), counts.to(device), None, self.kind)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        return None  # the next proposal compares the decided tokens with those that it has seen

    @property
    def _bridge(self):
        assert self.model.bridge is not None
        return self.model.bridge

    def _own_state(self, state: DecodeState, rows: list[int], more: int) -> DecodeState:
        """Return a state of the draft's own tokens, with room for `more`. The cache keeps what still holds."""
        lengths, kept = np.ones(state.rows, np.int64), list(self.model.kv_len)
        active = np.zeros(state.rows, bool)
        for row in rows:
            text = self._texts[row]
            self._follow(text, state.tokens[row, : int(state.length[row])].tolist())
            room = self._tokens.shape[1] - more
            if len(text.own) > room:
                text.own = text.own[-max(min(room, self._tokens.shape[1] // 2), 1) :]
            pairs = zip(text.held, text.own, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            kept[row] = min(same, len(text.own) - 1)
            self._tokens[row, : len(text.own)] = torch.tensor(text.own, device=self._tokens.device)
            text.held = text.own
            lengths[row], active[row] = len(text.own), True
        self.model.keep(kept)
        greedy = Sampler(Sampling(), state.sampler.choices)
        return DecodeState(self._tokens, lengths, active, greedy, state.trace)

    def _follow(self, text: _Text, tokens: list[int]) -> None:
        """Bring a row's text up to the decided tokens. If a stage above has cut them, it is encoded from its beginning."""
        if text.seen != tokens[: len(text.seen)]:
            text.seen, text.own, text.rest = [], [], b""
        if not text.own:
            text.own = list(self._bridge.start)
        text.own, text.rest = self._bridge.read(text.own, tokens[len(text.seen) :], text.rest)
        text.seen = tokens
