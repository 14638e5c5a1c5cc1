"""Speculative decoding (Leviathan et al., 2211.17192; Chen et al., 2302.01318) over any proposer and acceptance rule.

A round: the proposer drafts K tokens, and the loop writes them into the state. One target forward scores them and the position
behind them. The rule says how many are kept and which token follows. Proposer and target forget the rest. Without a draft
(`NoDraft`) the round is one autoregressive step, so the baseline runs through the same loop. The prompt's own forward (prefill)
gives the first token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.base import AcceptanceRule, verify
from sdbench.acceptance.exact import Exact
from sdbench.decoding.base import Finished, Request, Row, slots_needed
from sdbench.decoding.scoring import Plain, Scoring
from sdbench.decoding.target_law import TargetLaw
from sdbench.device import synchronise
from sdbench.drafting.base import Proposer, check_trees
from sdbench.drafting.lengths import LengthPolicy, calibrated, limited
from sdbench.drafting.no_draft import NoDraft
from sdbench.errors import InputError
from sdbench.keyed_random import Choices, Key, stream
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Edge, Trace
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import Stop
from sdbench.topology import VerifiedTree


class Speculative:
    """Decode by speculation.

    verifier: the target. rule: None is exact. proposer: asked for draft_length tokens a round, or for fewer by `lengths`. scoring:
    how the target scores a draft; None is one reading of it.
    """

    def __init__(
        self,
        verifier: LanguageModel,
        rule: AcceptanceRule | None = None,
        proposer: Proposer | None = None,
        draft_length: int = 0,
        lengths: LengthPolicy | None = None,
        scoring: Scoring | None = None,
    ) -> None:
        validate.whole("draft_length", draft_length)
        draft_length = proposer.own_length or draft_length if proposer else draft_length
        if draft_length < 1 and proposer is not None:
            raise InputError(f"draft_length is {draft_length}; a speculative arm must draft at least 1 token.")
        if draft_length > 0 and proposer is None:
            raise InputError(f"draft_length is {draft_length}, but the arm has no proposer: leave it out, or give one.")
        if lengths is not None and proposer is None:
            raise InputError("lengths is given, but the arm has no proposer: leave it out, or give one.")
        self.target = verifier
        self.rule: AcceptanceRule = rule or Exact()
        self.proposer: Proposer = limited(proposer, lengths, draft_length, verifier) if proposer else NoDraft()
        self.draft_length = draft_length
        self.scoring: Scoring = scoring or Plain()
        check_trees(self.rule, self.proposer)
        if self.proposer.trees and not self.scoring.trees:
            raise InputError(
                f"The scoring {type(self.scoring).__name__} reads chains, but {self.proposer.name} drafts token trees: take a "
                "drafter of chains."
            )
        self.batch: type[Batch] = Batch
        self.edge = Edge(self.proposer.name, verifier.name)

    @property
    def lossless(self) -> bool:
        return self.scoring.lossless and self.proposer.kind in self.rule.lossless_over

    @property
    def models(self) -> list[LanguageModel]:
        return [self.target, *self.proposer.models]

    def close(self) -> None:
        self.proposer.close()

    def max_lookahead(self) -> int:
        return self.scoring.nodes(self.proposer.max_lookahead(self.draft_length)) + 1

    def calibrate(self, trace: Trace) -> bool:
        return calibrated(self.proposer, self.target.name, trace)

    def begin_pass(self, finished: Iterable[tuple[Sequence[int], Sequence[int]]] = ()) -> None:
        self.proposer.forget()
        for prompt, answer in finished:
            self.proposer.learn(prompt, answer)

    def generate(
        self,
        requests: Iterable[Request],
        sampling: Sampling,
        stop: Stop,
        max_new_tokens: int,
        seed: int = 0,
        rows: int = 1,
        trace: Trace | None = None,
        choices: Choices | None = None,
    ) -> Iterator[Finished]:
        """Decode `rows` sequences at a time and refill finished rows. Yield the sequences as they finish. Errors: InputError."""
        requests = list(requests)
        longest = max((len(request.tokens) for request in requests), default=0)
        slots = slots_needed(self, longest, max_new_tokens)
        for model in self.models:
            if slots > model.max_positions and model.bridge is None:  # a re-encoded draft has a window of its own
                raise InputError(
                    f"{model.name} reads at most {model.max_positions} tokens, but the longest prompt, {max_new_tokens} "
                    f"new tokens and the draft need {slots}: shorten the prompt, max_new_tokens or the draft."
                )
        with torch.inference_mode():
            batch = self.batch(
                self, slots, rows, Sampler(sampling, choices), stop, max_new_tokens, seed, trace or Trace()
            )
            yield from batch.run(requests)


class Batch:
    """Run one call of `generate`: the rows being decoded and their state."""

    def __init__(
        self,
        method: Speculative,
        slots: int,
        rows: int,
        sampler: Sampler,
        stop: Stop,
        max_new_tokens: int,
        seed: int,
        trace: Trace,
    ) -> None:
        self.method, self.stop, self.max_new_tokens, self.seed = method, stop, max_new_tokens, seed
        # All of the target's slots: the buffer, and a draft's cache in another process, then keep their size between calls.
        slots = max(slots, method.target.slots)
        for model in method.models:
            model.allocate(rows, slots)
        self.state = DecodeState(
            torch.zeros(rows, slots, dtype=torch.long, device=method.target.device),
            np.ones(rows, np.int64),
            np.zeros(rows, bool),
            sampler,
            trace,
        )
        self.rows: list[Row | None] = [None] * rows
        self.law = TargetLaw(method.target, rows, max_new_tokens)
        self.memory = method.rule.start(rows)
        self.fresh_memory = method.rule.start(rows)
        self.prefill_seconds = 0.0
        self.round = 0
        self._named: list[int] = []
        self._streams = np.zeros(0, np.uint64)
        trace.sequence, trace.sequence_round = [-1] * rows, [0] * rows
        method.proposer.open(self.state, method.draft_length)
        trace.at_close.append(lambda: trace.join(method.proposer.record()))

    def run(self, requests: list[Request]) -> Iterator[Finished]:
        """Decode all requests, in their order."""
        queue = list(enumerate(requests))[::-1]
        while queue or self.state.active.any():
            for index in range(len(self.rows)):
                while self.rows[index] is None and queue:
                    done = self._admit(index, *queue.pop())
                    if done is not None:
                        yield done
            if self.state.active.any():
                yield from self._round()

    def _key(self) -> Key:
        """Name the choices of the round, by row."""
        streams = [row.stream if row else 0 for row in self.rows]
        if streams != self._named:  # they change with the prompts only
            self._named, self._streams = streams, np.array(streams, np.uint64)
        return Key(self._streams, [row.round if row else 0 for row in self.rows])

    def _admit(self, index: int, number: int, request: Request) -> Finished | None:
        """Prefill a row. Return the sequence if its first token already ends it."""
        begun = perf_counter()
        state, method = self.state, self.method
        finished = Finished(request, [])
        row = Row(finished, self.stop.start(), stream(self.seed, request.name, request.repeat))
        self.rows[index] = row
        state.trace.round = -1
        state.trace.sequence[index] = number
        length = len(request.tokens)
        state.tokens[index, :length] = torch.tensor(request.tokens)
        state.length[index], state.active[index] = length, True
        method.proposer.prompt(state, index, self._key())
        method.target.reset(index)
        self.law.start(index, request.tokens)
        output = method.target.read(state, state.length, "prefill", row=index)
        scored = self.law.scored(state, output, [length], row=index)[:, -1]
        key = self._key() / "prefill"
        one = Key(key.streams[index : index + 1], key.rounds[index : index + 1], key.path)
        token = state.sampler.draw(scored, one)
        state.tokens[index, length] = token[0]
        state.length[index] = length + 1
        first = int(token)
        finished.first_token_seconds = perf_counter() - begun
        if self._emit(index, [first]) == 1 and row.finished.reason:
            finished.prefill_seconds = perf_counter() - begun
            self.prefill_seconds += finished.prefill_seconds
            return self._release(index)
        method.proposer.admit(state, index)
        for model in method.proposer.models:  # their prompt belongs to prefill too, and queued work is not done work
            synchronise(model.device)
        if self.memory is not None and self.fresh_memory is not None:
            self.memory[index] = self.fresh_memory[index]
        row.decoding_since = perf_counter()
        finished.prefill_seconds = row.decoding_since - begun
        self.prefill_seconds += finished.prefill_seconds
        row.prefill_before = self.prefill_seconds
        return None

    def _round(self) -> Iterator[Finished]:
        """Draft, verify, and account for one round of all rows."""
        state, method = self.state, self.method
        key = self._begin_round()
        draft = method.proposer.propose(state, method.draft_length, key).to(method.target.device)
        K = draft.tokens.shape[1]
        if K:
            state.place_many(draft.tokens, state.length)
        lengths = state.length.tolist()
        output = method.scoring.score(method.target, state, draft)
        nodes = method.scoring.nodes(K)
        method.proposer.observe(state, draft, output.logits)
        p = self.law.scored(state, output, lengths, trees=draft.topology)
        # The verdict is the round's only synchronisation. It gives the kept tokens for the stop rule too.
        decided, law = verify(method.rule, draft, p, self.memory, state.sampler, key)
        if law is not None and law.memory is not None:
            self.memory = law.memory(torch.tensor(decided.accepted, device=draft.tokens.device))
        ends = [length + kept for length, kept in zip(lengths, decided.accepted, strict=True)]
        if decided.path is None:
            state.place(decided.next_token, ends)
        for index, row in enumerate(self.rows):
            if row is not None:
                if decided.path is not None:  # the kept tokens stood where their nodes stand
                    state.write(index, lengths[index], decided.tokens[index])
                state.length[index] = ends[index] + 1
        # No model has read the target's own last token yet.
        read = [length - 1 for length in state.length.tolist()]
        paths = decided.path and [path if row else [] for path, row in zip(decided.path, self.rows, strict=True)]
        method.target.keep(read, paths)
        method.proposer.commit(read, paths)
        for index, row in enumerate(self.rows):
            if row is not None:
                proposed, kept, tokens = decided.proposed[index], decided.accepted[index], decided.tokens[index]
                tree = decided.trees[index] if decided.trees else None
                origins = draft.origins[index] if draft.origins else None
                read = nodes if nodes > K else None
                yield from self._verified(index, proposed, kept, tokens, draft.number, tree, read, origins)

    def _begin_round(self) -> Key:
        """Number a new round of the batch, and name its choices."""
        trace = self.state.trace
        trace.round = self.round
        self.round += 1
        for index, row in enumerate(self.rows):
            trace.sequence_round[index] = row.round if row else 0
        return self._key()

    def _verified(
        self,
        index: int,
        proposed: int,
        accepted: int,
        tokens: list[int],
        draft: int | None,
        tree: VerifiedTree | None = None,
        read: int | None = None,
        origins: list[str] | None = None,
    ) -> Iterator[Finished]:
        """Account for a verification of a row that gave `tokens`. Yield the sequence if they end it."""
        row = self.rows[index]
        assert row is not None
        row.finished.target_calls += 1
        emitted = self._emit(index, tokens)
        self.state.trace.verified(index, self.method.edge, 0, proposed, accepted, emitted, draft, tree, read, origins)
        row.round += 1
        if row.finished.reason:
            others = self.prefill_seconds - row.prefill_before
            row.finished.decode_seconds = perf_counter() - row.decoding_since - others
            yield self._release(index)

    def _emit(self, index: int, tokens: list[int]) -> int:
        """Give a row's new tokens to its stop rule and its limit, and cut what follows the end. Return the number emitted."""
        row = self.rows[index]
        assert row is not None
        finished = row.finished
        kept = row.stop.push(tokens)
        room = self.max_new_tokens - len(finished.tokens)
        if kept is not None and kept <= room:
            finished.reason = row.stop.reason or ""
        elif room <= len(tokens):
            kept, finished.reason = room, "length"
        finished.tokens += tokens[:kept]
        return len(tokens[:kept])

    def _release(self, index: int) -> Finished:
        """Free a row."""
        row = self.rows[index]
        assert row is not None
        self.rows[index] = None
        self.state.active[index] = False
        self.state.length[index] = 1  # the draft of an empty row then always fits the buffer
        self.method.proposer.learn(row.finished.request.tokens, row.finished.tokens)
        return row.finished
