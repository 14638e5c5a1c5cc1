"""A verifier over another proposer is itself a proposer. This recursion makes a pyramid of any height.

`StagedDrafter` runs speculative rounds of its own, one stage below its caller, until it has verified at least the asked number of
tokens. It returns them with its verifier's distributions. With a lossless inner rule each token was drawn from its distribution,
whatever the inner rounds did. An exact rule above then keeps the whole lossless (staged speculative decoding, 2308.04623). With
a fuzzy inner rule this is PyramidSD (2510.12966) below its last stage.

An inner round ends with a correction or a bonus, so the draft may overshoot. By default all its tokens are returned; `truncate`
cuts them to the asked number. A lossless inner rule needs no cut, not even a joint one (block verification), which looks at
several tokens at a time. The tokens of a round, continued by the verifier alone, have the verifier's law. A round that ends behind
some tokens is continued so. In the rounds that do not end there, the next token then has the verifier's law too.

A token that the verifier put in place of a rejected one survives the next level less often than a token that it accepted. So
`flush_on_mismatch` hands the buffer up after the first correction, however short it is (HiSpec, 2510.01336). The correction is part
of the buffer. The stop then depends on no token that is dropped, so the output law does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.base import AcceptanceRule, Decided, Law, verify
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import upload
from sdbench.drafting.base import NeverLearns, Proposer, check_trees
from sdbench.drafting.draft_tokens import GoOn
from sdbench.drafting.lengths import LengthPolicy, limited
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Edge, ProposerRecord
from sdbench.sampling import Scored


@dataclass
class _Round:
    """An inner verification of the tokens [start, stop) of each row. An outer stage may cut the stream within it."""

    law: Law | None
    start: np.ndarray
    stop: np.ndarray


class Stage(NeverLearns):
    """A verifier over another proposer, whatever it hands up."""

    verifier: LanguageModel
    rule: AcceptanceRule
    proposer: Proposer

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def kind(self) -> ProposalKind:
        return ProposalKind.SAMPLED if self.proposer.kind in self.rule.lossless_over else ProposalKind.RELABELLED

    @property
    def models(self) -> list[LanguageModel]:
        return [self.verifier, *self.proposer.models]

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        self.proposer.prompt(state, row, key)

    def admit(self, state: DecodeState, row: int) -> None:
        self.verifier.reset(row)
        self.verifier.read(state, state.length - 1, "prefill", row=row)
        self.proposer.admit(state, row)

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.proposer.learn(prompt, answer)

    def forget(self) -> None:
        self.proposer.forget()

    def close(self) -> None:
        self.proposer.close()

    def record(self) -> ProposerRecord:
        return self.proposer.record()


class StagedDrafter(Stage):
    """Propose a chain of verified tokens.

    verifier, rule: of this stage. proposer: asked for draft_length tokens, or for fewer by the policy `lengths`; it may be such a
    pair too, at any height. truncate: cut the buffer to the asked number. flush_on_mismatch: end the buffer at the first
    correction.
    """

    stops = True

    def __init__(
        self,
        verifier: LanguageModel,
        rule: AcceptanceRule,
        proposer: Proposer,
        draft_length: int,
        truncate: bool = False,
        flush_on_mismatch: bool = False,
        lengths: LengthPolicy | None = None,
    ) -> None:
        validate.whole("proposer.draft_length", draft_length, 1)
        check_trees(rule, proposer)
        self.verifier, self.rule = verifier, rule
        self.draft_length, self.truncate = proposer.own_length or draft_length, truncate
        self.flush_on_mismatch = flush_on_mismatch
        self.proposer = limited(proposer, lengths, self.draft_length, verifier)
        self.edge = Edge(proposer.name, verifier.name)
        self.memory: torch.Tensor | None = None
        self._rounds: list[_Round] = []

    own_length: int | None = None
    trees = False

    def max_lookahead(self, length: int) -> int:
        # The last inner round begins before `length` tokens. A row that has them already is drafted for all the same.
        return length + 2 * self.proposer.max_lookahead(self.draft_length)

    def open(self, state: DecodeState, length: int) -> None:
        self.proposer.open(state, self.draft_length)

    def admit(self, state: DecodeState, row: int) -> None:
        super().admit(state, row)
        fresh = self.rule.start(state.rows)
        if fresh is not None:
            if self.memory is None or len(self.memory) != state.rows:
                self.memory = fresh
            self.memory[row] = fresh[row]

    def propose(self, state: DecodeState, length: int, key: Key, go_on: GoOn | None = None) -> Draft:
        stage, start = state.copy(), state.length
        ends = np.where(state.active, length, 0)  # where the draft of each row ends, or overshoots from
        grown = start.copy()
        scores: list[Scored] = []
        origin: list[list[int]] = [
            [] for _ in range(state.rows)
        ]  # by row: where `scores` has each token's distribution
        levels: list[list[str]] = [[] for _ in range(state.rows)]
        width = 0
        self._rounds = []
        while (short := grown - start < ends).any():
            here = stage.ahead(grown, short)
            below = key / "inner" / len(self._rounds)
            draft = self.proposer.propose(here, self.draft_length, below).to(self.verifier.device)
            here.place_many(draft.tokens, grown)
            K = draft.tokens.shape[1]
            output = self.verifier.score(here, K, draft.topology)
            self.proposer.observe(here, draft, output.logits)
            p = state.sampler.score(output.logits, output.best)
            decided, law = verify(self.rule, draft, p, self.memory, state.sampler, below)
            accepted = np.array(decided.accepted)
            if decided.path is not None:
                for row in np.flatnonzero(short).tolist():
                    here.write(row, int(grown[row]), decided.tokens[row])
            else:
                here.place(decided.next_token, np.where(short, grown + accepted, grown))
            self._remember(law, accepted, short)
            before, grown = grown, np.where(short, grown + accepted + 1, grown)
            for row in np.flatnonzero(short).tolist():
                kept = int(accepted[row])
                places = range(1, kept + 1) if decided.path is None else decided.path[row]
                origin[row] += [width, *(width + place for place in places)]
                drafted = draft.origins[row] if draft.origins else [self.proposer.name] * kept
                outcome = state.trace.verified(
                    row,
                    self.edge,
                    len(self._rounds),
                    decided.proposed[row],
                    kept,
                    kept + 1,
                    draft.number,
                    decided.trees[row] if decided.trees else None,
                    origins=draft.origins[row] if draft.origins else None,
                )
                levels[row] += [*drafted[:kept], f"{self.name} {outcome}" if decided.proposed[row] else self.name]
                if self.flush_on_mismatch and outcome == "correction":
                    ends[row] = min(ends[row], grown[row] - start[row])
            if go_on is not None:
                ends = _ends(ends, go_on, p, decided, before - start, short)
            self._rounds.append(_Round(law, before, grown))
            # No model has read the verifier's own last token yet.
            paths = decided.path and [path if on else [] for path, on in zip(decided.path, short, strict=True)]
            self.verifier.keep(grown - 1, paths)
            self.proposer.commit(grown - 1, paths)
            scores.append(p)
            width += K + 1
        size = np.minimum(grown - start, ends) if self.truncate else grown - start
        draft = self._draft(stage, size, origin, Scored.cat(scores, 1))
        draft.origins = levels
        return draft

    def _draft(self, stage: DecodeState, size: np.ndarray, origin: list[list[int]], scores: Scored) -> Draft:
        """Gather the verified tokens and the verifier's scores of each. size: [B] tokens of each row."""
        K = int(size.max())
        index = np.zeros((stage.rows, K), np.int64)
        for row, places in enumerate(origin):
            index[row, : len(places[:K])] = places[:K]
        device = scores.logits.device
        rows = torch.arange(stage.rows, device=device)[:, None]
        where = upload(stage.length[:, None] + np.arange(K), stage.tokens.device)
        tokens = stage.tokens.gather(1, where).to(device)
        return Draft(tokens, upload(size, device), scores[rows, upload(index, device)], self.kind)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        length = np.asarray(length)
        for past in self._rounds:
            # The outer stage may have cut the stream within this round. The rule then remembers only the kept part.
            inside = (past.start <= length) & (length < past.stop)
            self._remember(past.law, np.maximum(length - past.start, 0), inside)
        self._rounds = []
        self.verifier.keep(length)
        self.proposer.commit(length)

    def _remember(self, law: Law | None, accepted: np.ndarray, rows: np.ndarray) -> None:
        """Set the rule's memory of `rows` to that behind `accepted` tokens."""
        if law is None or law.memory is None or self.memory is None:
            return
        device = law.accepted.device
        n = upload(np.minimum(accepted, law.accepted.shape[1] - 1), device)
        kept = upload(rows, device)[:, None]
        self.memory = torch.where(kept, law.memory(n), self.memory.to(device))


def _ends(
    ends: np.ndarray, go_on: GoOn, p: Scored, decided: Decided, before: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return where the draft of each row ends, after `go_on` has seen the tokens of an inner round.

    before: [B] tokens that the draft had before the round. rows: [B] the rows that took part in it.
    """
    ends, gained = ends.copy(), [tokens if on else [] for tokens, on in zip(decided.tokens, rows, strict=True)]
    every = torch.arange(len(gained), device=p.logits.device)
    for place in range(max(map(len, gained))):
        has = np.array([place < len(tokens) for tokens in gained])
        token = torch.tensor([tokens[place] if on else 0 for tokens, on in zip(gained, has, strict=True)])
        # The distribution of a token is behind the node before it. A chain's nodes are its places.
        paths = decided.path or [list(range(1, place + 1))] * len(gained)
        nodes = [path[place - 1] if place and on else 0 for path, on in zip(paths, has, strict=True)]
        depth = before + place
        on = go_on(p[every, torch.tensor(nodes, device=every.device)], token.to(every.device), depth)
        if on is not None:
            ends = np.where(has & ~on.cpu().numpy(), np.minimum(ends, depth + 1), ends)
    return ends
