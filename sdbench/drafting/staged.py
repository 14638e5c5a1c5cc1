"""A verifier over another proposer is itself a proposer: the recursion that makes a pyramid of any height.

`StagedDrafter` runs speculative rounds of its own, one stage below whoever asked, until at least the asked number of tokens has
been verified. It hands them up with the verifier's distributions at their places. With a lossless rule inside, each of them
was drawn from that distribution, whichever way the inner rounds went, so an exact rule above keeps the whole lossless (staged
speculative decoding, 2308.04623); with a fuzzy rule inside this is PyramidSD (2510.12966) below its last stage.

Inner rounds end with a correction or a bonus, so the buffer may overshoot what was asked. By default it is handed up whole;
`truncate` cuts it, and must be set under a joint inner rule, whose tokens are only together what they should be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.base import AcceptanceRule, Law, verify
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import upload
from sdbench.drafting.base import Proposer
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Edge
from sdbench.sampling import Scored


@dataclass
class _Round:
    """An inner verification of the tokens [start, stop) of each row: where an outer stage may cut the stream."""

    law: Law | None
    start: np.ndarray
    stop: np.ndarray


class StagedDrafter:
    """verifier: the model of this stage; rule: its acceptance rule; proposer: the stage below, asked for draft_length."""

    def __init__(
        self,
        verifier: LanguageModel,
        rule: AcceptanceRule,
        proposer: Proposer,
        draft_length: int,
        truncate: bool = False,
    ) -> None:
        validate.whole("proposer.draft_length", draft_length, 1)
        self.verifier, self.rule, self.proposer = verifier, rule, proposer
        self.draft_length = draft_length
        self.truncate = truncate or rule.joint
        self.memory: torch.Tensor | None = None
        self._rounds: list[_Round] = []

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def kind(self) -> ProposalKind:
        return ProposalKind.SAMPLED if self.proposer.kind in self.rule.lossless_over else ProposalKind.RELABELLED

    @property
    def models(self) -> list[LanguageModel]:
        return [self.verifier, *self.proposer.models]

    def max_lookahead(self, length: int) -> int:
        # Its last inner round begins before `length` tokens, and a row that is there already is drafted behind all the same.
        return length + 2 * self.proposer.max_lookahead(self.draft_length)

    def open(self, context: DecodeState, length: int) -> None:
        self.proposer.open(context, self.draft_length)

    def prompt(self, context: DecodeState, row: int, key: Key) -> None:
        self.proposer.prompt(context, row, key)

    def admit(self, context: DecodeState, row: int) -> None:
        self.verifier.reset(row)
        self.verifier.read(context, context.length - 1, "prefill", row=row)
        self.proposer.admit(context, row)
        fresh = self.rule.start(context.rows)
        if fresh is not None:
            if self.memory is None or len(self.memory) != context.rows:
                self.memory = fresh
            self.memory[row] = fresh[row]

    def propose(self, context: DecodeState, length: int, key: Key) -> Draft:
        start, grown = context.length, context.length.copy()
        scores: list[Scored] = []
        origin: list[list[int]] = [
            [] for _ in range(context.rows)
        ]  # where in `scores` each token's distribution stands
        edge = Edge(self.proposer.name, self.name)
        width = 0
        self._rounds = []
        while (short := context.active & (grown - start < length)).any():
            here = context.ahead(grown, short)
            below = key / "inner" / len(self._rounds)
            draft = self.proposer.propose(here, self.draft_length, below).to(self.verifier.device)
            K = draft.tokens.shape[1]
            output = self.verifier.read(here, grown + K, "verify", num_logits=K + 1)
            p = context.sampler.score(output.logits, output.best)
            decided, law = verify(self.rule, draft, p, self.memory, context.sampler, below)
            accepted, drafted = np.array(decided.accepted), decided.proposed
            here.place(decided.next_token, np.where(short, grown + accepted, grown))
            self._remember(law, accepted, short)
            before, grown = grown, np.where(short, grown + accepted + 1, grown)
            for row in np.flatnonzero(short):
                origin[row].extend(range(width, width + accepted[row] + 1))
                context.trace.verified(
                    int(row), edge, len(self._rounds), drafted[row], accepted[row], accepted[row] + 1
                )
            self._rounds.append(_Round(law, before, grown))
            # The verifier's own last token has been read by nobody yet.
            self.verifier.keep(grown - 1)
            self.proposer.commit(grown - 1)
            scores.append(p)
            width += K + 1
        return self._draft(context, grown - start, length, origin, Scored.cat(scores, 1))

    def _draft(
        self, context: DecodeState, size: np.ndarray, length: int, origin: list[list[int]], scores: Scored
    ) -> Draft:
        """Gather the buffer and, for each of its tokens, the verifier's scores at its place."""
        if self.truncate:
            size = np.minimum(size, length)
        K = int(size.max())
        index = np.zeros((context.rows, K), np.int64)
        for row, places in enumerate(origin):
            index[row, : len(places[:K])] = places[:K]
        device = scores.logits.device
        rows = torch.arange(context.rows, device=device)[:, None]
        where = upload(context.length[:, None] + np.arange(K), context.tokens.device)
        tokens = context.tokens.gather(1, where).to(device)
        return Draft(tokens, upload(size, device), scores[rows, upload(index, device)], self.kind)

    def close(self) -> None:
        self.proposer.close()

    def commit(self, length: Lengths) -> None:
        length = np.asarray(length)
        for past in self._rounds:
            # The outer stage cut the stream within this round: remember only what it left of it.
            inside = (past.start <= length) & (length < past.stop)
            self._remember(past.law, np.maximum(length - past.start, 0), inside)
        self._rounds = []
        self.verifier.keep(length)
        self.proposer.commit(length)

    def _remember(self, law: Law | None, accepted: np.ndarray, rows: np.ndarray) -> None:
        if law is None or law.memory is None or self.memory is None:
            return
        device = law.accepted.device
        n = upload(np.minimum(accepted, law.accepted.shape[1] - 1), device)
        kept = upload(rows, device)[:, None]
        self.memory = torch.where(kept, law.memory(n), self.memory.to(device))
