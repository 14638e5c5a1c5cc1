"""The speculation server: the draft's side of speculative speculative decoding (SSD / Saguaro, 2603.03251).

While the verifier works on a speculation s_1 .. s_K, the server drafts the next one for each likely outcome (k, t): k tokens
kept, then the verifier's own token t. When the outcome is told, a speculation that is held for it (a hit) goes out at once; else
(a miss) a back-up drafts one. The server is a state machine with three calls; who carries them is no business of its own:

    admit   a prompt takes a row;
    serve   an outcome comes, a speculation goes: SERVE;
    build   then, while the verifier is busy: GLUE, FORK, TREE, FILL.

GLUE reads the outcome's token and the speculation in one forward, in their places. FORK takes, behind each k kept tokens, the F_k
tokens that the draft finds most likely, without s_{k+1}, which the verifier has just refused there. TREE drafts K tokens behind all
of them at once, one forward per depth: a branch sees its prefix and itself, its keys and values are scratch behind the row's own.

Every branch draws with the same uniforms, those that the draft would use if it were told the outcome first. At most one branch
becomes real, and which one depends on none of these draws, so the law is that of drafting afterwards; with the neural back-up
and C = 1 even the tokens are those of synchronous speculative decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.drafting.ranks import ranks
from sdbench.lm.context import Context
from sdbench.lm.device import synchronise, upload
from sdbench.lm.execution import programs_of
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.remote.backup import Backup, Neural
from sdbench.remote.fanout import FanOut, Geometric, Listed, widest
from sdbench.remote.messages import Caller, Outcome, Speculation
from sdbench.remote.saguaro import Saguaro
from sdbench.remote.tree import Drafted, Tree
from sdbench.sampling import Key, Sampler


@dataclass
class _Cache:
    """The speculations that are held. kept: [B, M] k, -1 where a row has fewer branches; token: [B, M] t, both on the host;
    drafted: what was drafted behind them."""

    kept: np.ndarray
    token: np.ndarray
    drafted: Drafted


@dataclass
class _Branches:
    """Where the branches of a fan-out stand. kept: [B, M] k, -1 where a row has fewer branches; place: [B, M] the same, at least 0;
    order: [B, M] from 0, which of the F_k tokens; widest: the largest F_k."""

    kept: np.ndarray
    place: Int[Tensor, "B M"]
    order: Int[Tensor, "B M"]
    widest: int


@lru_cache(maxsize=64)  # fan-outs come again and again: behind hits, behind misses
def _branches(counts: tuple[tuple[int, ...], ...], device: torch.device) -> _Branches:
    """counts: by row, F_0 .. F_K."""
    places = [[k for k, count in enumerate(row) for _ in range(count)] for row in counts]
    orders = [[rank for count in row for rank in range(count)] for row in counts]
    width = max(map(len, places))
    kept = np.array([place + [-1] * (width - len(place)) for place in places], np.int64)
    order = np.array([rank + [0] * (width - len(rank)) for rank in orders], np.int64)
    place = upload(np.maximum(kept, 0), device)
    return _Branches(kept, place, upload(order, device), max([1, *(max(row, default=1) for row in counts)]))


@dataclass
class _Told:
    """An outcome in terms of the speculation that it ends. valid: [B] whether it is one; kept, token: its key; drafted, hit: the
    speculation's length and where it came from."""

    valid: np.ndarray
    kept: np.ndarray
    token: np.ndarray
    drafted: np.ndarray
    hit: np.ndarray


class SpeculationServer:
    """model: the draft; fan_out, backup, saguaro: see there. holds: whether it drafts ahead for outcomes."""

    holds = True

    def __init__(
        self,
        model: LanguageModel,
        fan_out: FanOut | None = None,
        backup: Backup | None = None,
        saguaro: Saguaro | None = None,
    ) -> None:
        self.model = model
        self.fan_out: FanOut = fan_out or Geometric()
        self.backup: Backup = backup or Neural()
        self.saguaro = saguaro or Saguaro()
        self.device = model.device
        self.served: list[dict[str, Any]] = []

    def open(self, rows: int, slots: int, length: int, sampler: Sampler) -> None:
        """Begin anew with `rows` empty rows of `slots` tokens, `length` of them drafted ahead at a time."""
        self.length = length
        branches = widest(self.fan_out, length, self.model.vocab) if self.holds else 0
        self.model.allocate(rows, slots + length * branches)
        self.context = Context(
            torch.zeros(rows, slots, dtype=torch.long, device=self.device),
            np.ones(rows, np.int64),
            np.zeros(rows, bool),
            sampler,
            Trace(sequence=[-1] * rows, sequence_round=[0] * rows),
        )
        self.served = []
        self._streams = np.zeros(rows, np.uint64)
        self._rounds = np.full(rows, -1)
        self._decided = np.ones(rows, np.int64)
        self._latest = np.zeros(rows, bool)  # rows that the last outcome was about
        self._drafted = np.zeros(rows, np.int64)
        self._hit = np.zeros(rows, bool)
        self._glue: Tensor | None = None
        self._cache: _Cache | None = None
        self._behind: Tensor | None = None
        self._told: _Told | None = None
        self._tree = Tree(self.model, self.saguaro, length)
        self._refused: Tensor | None = None
        self._every = torch.arange(rows, device=self.device)

    def admit(self, row: int, tokens: Sequence[int]) -> None:
        """A prompt and its first token take a row."""
        context = self.context
        context.tokens[row, : len(tokens)] = torch.tensor(tokens, device=self.device)
        context.length[row], context.active[row] = len(tokens), True
        self._decided[row], self._latest[row] = len(tokens), False
        self._rounds[row], self._drafted[row], self._hit[row] = -1, 0, False
        if self._cache is not None:
            self._cache.kept[row] = -1
        self.model.known[row] = 0
        # All but the last decided token: that one rides in the first drafting step.
        self.model.read(context, context.length - 1, "prefill", row=row)
        synchronise(self.device)

    def serve(self, outcome: Outcome) -> Speculation:
        """The speculation for an outcome: held, or made by the back-up."""
        received = perf_counter()
        context = self.context
        context.trace.round = len(self.served)
        told = self._told = self._ended(outcome)
        cache = self._cache
        branch = np.full(context.rows, -1) if cache is None else _branch(told, cache.kept, cache.token)
        hit = branch >= 0
        self._take(outcome)
        missed = outcome.active & ~hit
        if missed.any() and self.backup.whole_batch:
            missed, hit, branch = outcome.active.copy(), np.zeros_like(hit), np.full_like(branch, -1)
        self._hits = branch
        speculation, self._behind = self._speculation(hit, missed, branch)
        context.place_many(speculation.tokens, context.length)
        self._drafted, self._hit, self._latest = speculation.length, hit, outcome.active
        self._log(hit, received)
        return speculation

    def build(self, caller: Caller | None = None) -> None:
        """Draft for the outcomes that the speculation just served may come to.

        caller: an outcome that comes meanwhile, and that no branch is for, ends the work: what it built would hold nothing.
        """
        before, context, K = self._glue, self.context, self.length
        self._glue, refused = self._read(), self._refused
        kept, roots = self._fork(self._glue)
        self._cache = None
        if kept.size:
            key, fan_out = Key(self._streams, self._rounds + 1) / "draft", self.counts(K, hit=True)
            token, vain = roots.cpu().numpy(), None
            if caller is not None and self.device.type == "cpu":  # on a GPU the whole tree is queued at once
                vain = partial(self._vain, caller, kept, token)
            drafted = self._tree.grow(context, kept, roots, key, fan_out, vain)
            if drafted.depth == K:
                self._cache = _Cache(kept, token, drafted)
        self.served[-1]["built"] = perf_counter()
        self._learn(before, refused)

    def _vain(self, caller: Caller, kept: np.ndarray, token: np.ndarray) -> bool:
        """Whether an outcome is there that none of these branches is for."""
        outcome = caller.outcome()
        return outcome is not None and not (_branch(self._ended(outcome), kept, token) >= 0).any()

    def work(self, caller: Caller | None = None) -> None:
        """What is to be done when an answer has gone out, until the caller has the next outcome."""
        self.build(caller)

    def measured(self) -> dict[str, Any]:
        """What was recorded since `open`: `steps`, as in a trace, their `round` the index of what was `served`; `programs`; and the
        `bytes` that are held of weights, slots and speculations."""
        self.context.trace.close()
        cached = self._cache.drafted if self._cache is not None else None
        held = (
            {}
            if cached is None
            else {part.data_ptr(): part.nbytes for part in (cached.tokens, cached.logits, cached.behind)}
        )
        return {
            "steps": self.context.trace.steps,
            "served": self.served,
            "programs": programs_of([self.model.execution]),
            "bytes": self.model.bytes + sum(held.values()),
        }

    def key(self) -> Key:
        """The name of the choices of the speculation being made, by row: the row's stream and how often it was served."""
        return Key(self._streams, self._rounds)

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        return self.context.sampler.choices.choose(probs, key)

    def counts(self, length: int, hit: bool) -> tuple[int, ...]:
        """The fan-out behind a speculation of `length` tokens."""
        return self.fan_out.counts(length, self.model.vocab, hit) if self.holds else (0,) * (length + 1)

    def modified(self, logits: Float[Tensor, "*batch V"], fan_out: int) -> Float[Tensor, "*batch V"]:
        """What is drafted from where `fan_out` tokens will be cached."""
        return self.saguaro.modify(logits, fan_out, self.context.sampler.sampling)

    def _log(self, hit: np.ndarray, received: float) -> None:
        """Record an answer that is ready: which rows it was held for, and when it was asked for and made."""
        synchronise(self.device)
        self.served.append(
            {"hit": hit.tolist(), "received": received, "replied": perf_counter(), "ranks": [None] * len(hit)}
        )

    def _ended(self, outcome: Outcome) -> _Told:
        """How an outcome ends the last speculation."""
        kept = outcome.length - 1 - self._decided
        # Its own tokens and one more. (A stage above may have cut and added otherwise.)
        own = (outcome.first == outcome.length - 1) & (kept >= 0) & (kept <= self._drafted)
        return _Told(outcome.active & own & self._latest, kept, outcome.tokens[:, 0], self._drafted, self._hit)

    def _take(self, outcome: Outcome) -> None:
        """Bring tokens, lengths and what the model knows up to an outcome."""
        context = self.context
        for row in np.flatnonzero(outcome.active):
            first, length = int(outcome.first[row]), int(outcome.length[row])
            context.tokens[row, first:length] = upload(outcome.tokens[row, : length - first], self.device)
        context.active[:] = outcome.active
        self._decided = np.where(outcome.active, outcome.length, self._decided)
        # What is written for a row that is not asked about goes where no token will ever be decided.
        context.length[:] = np.where(outcome.active, outcome.length, context.tokens.shape[1] - self.length)
        self.model.rewind(np.where(outcome.active, outcome.first, self.model.known))
        self._streams = outcome.streams
        self._rounds = self._rounds + outcome.active

    def _speculation(
        self, hit: np.ndarray, missed: np.ndarray, branch: np.ndarray
    ) -> tuple[Speculation, Float[Tensor, "B K V"] | None]:
        """The speculation, and the draft's own logits in the places of its tokens, where it has them of all rows."""
        length, held = np.where(hit, self.length, 0), None
        if self._cache is not None and hit.any():
            drafted = self._cache.drafted
            at = (slice(None), int(branch[0])) if len(hit) == 1 else (self._every, self._here(np.maximum(branch, 0)))
            held = drafted.tokens[at], drafted.logits[at], drafted.behind[at]
            if not missed.any():
                return Speculation(hit, length, *held[:2]), held[2]
        backed = self.backup.draft(self, missed)
        length = np.where(missed, backed.length, length)
        if held is None:
            return Speculation(hit, length, backed.tokens, backed.logits), backed.behind
        ours = self._here(hit)[:, None]
        tokens = torch.where(ours, held[0], backed.tokens)
        logits = torch.where(ours[..., None], held[1], backed.logits.to(held[1].dtype))
        behind = None if backed.behind is None else torch.where(ours[..., None], held[2], backed.behind)
        return Speculation(hit, length, tokens, logits), behind

    def _adopt(self) -> None:
        """The branches that hit become their rows' own: what was read for them moves to the rows' slots."""
        context, rows = self.context, np.flatnonzero(self.context.active & (self._hits >= 0))
        if len(rows) and self._cache is not None:
            drafted = self._cache.drafted
            first = context.length[rows] - 1
            target = first[:, None] + np.arange(drafted.depth)
            self.model.move(self._here(rows), self._here(drafted.slots(self._hits)[rows]), self._here(target))
            self.model.known[rows] = first + drafted.depth
        self._hits = np.full(context.rows, -1)

    def _here(self, values: np.ndarray) -> Tensor:
        return upload(values, self.device)

    def _read(self) -> Float[Tensor, "B K+1 V"]:
        """The draft's logits behind the outcome's token and behind each token of the speculation: GLUE.

        What was drafted was read for it, but for its last token: a branch of the tree moves to the row's own slots. On a GPU, where
        a step of one token takes as long as one of K + 1, all is read again.
        """
        context, K = self.context, self.length
        if self._behind is None or self.device.type != "cpu":
            # Behind a shorter draft stands what is left of an earlier one: read, and looked at by nobody.
            return self.model.read(context, context.length + K, "glue", keep=K + 1)
        self._adopt()
        return torch.cat([self._behind, self.model.read(context, context.length + K, "glue")], 1)

    def _learn(self, glue: Float[Tensor, "B K+1 V"] | None, refused: Int[Tensor, "B K"] | None) -> None:
        """Where the outcome that was told last stood in the draft's order: for the fan-out, and for the record.

        glue, refused: the draft's logits behind the speculation that ended in it, and its tokens.
        """
        told = self._told
        if told is None or glue is None or refused is None or not told.valid.any():
            return
        outcomes = np.where(told.valid, np.stack([told.kept, told.token, told.drafted]), 0)
        kept, token, drafted = self._here(outcomes)
        order = glue[self._every, kept]
        found = ranks(order, token, refused, kept, drafted).tolist()
        for row in np.flatnonzero(told.valid):
            self.fan_out.learn(int(told.drafted[row]), bool(told.hit[row]), int(told.kept[row]), found[row])
            self.served[-1]["ranks"][row] = found[row]

    def _fork(self, glue: Float[Tensor, "B K+1 V"]) -> tuple[np.ndarray, Int[Tensor, "B M"]]:
        """The outcomes to speculate for: the F_k tokens that the draft finds most likely behind each k kept ones.

        Returns k (-1 where a row has fewer branches) and the tokens.
        """
        context, K = self.context, self.length
        counts = tuple(
            self.counts(int(self._drafted[row]), bool(self._hit[row])) if context.active[row] else ()
            for row in range(context.rows)
        )
        branches = _branches(counts, self.device)
        # s_{k+1} stands in place k + 1; behind the last drafted token none is refused.
        refused = self._refused_tokens()
        place, open_ = refused[..., None], glue.clone()
        if (self._drafted == K).all():
            open_[:, :K].scatter_(-1, place, -torch.inf)
        else:
            within = self._here(np.arange(K) < self._drafted[:, None])[..., None]
            open_[:, :K].scatter_(-1, place, torch.where(within, -torch.inf, glue[:, :K].gather(-1, place)))
        likely = open_.topk(branches.widest, dim=-1).indices
        self._refused = refused
        return branches.kept.copy(), likely[self._every[:, None], branches.place, branches.order]

    def _refused_tokens(self) -> Int[Tensor, "B K"]:
        """The speculation that is being verified."""
        if self.context.rows == 1:
            first = int(self.context.length[0])
            return self.context.tokens[:, first : first + self.length].clone()
        return self.context.tokens.gather(1, self._here(self.context.length[:, None] + np.arange(self.length)))


def _branch(told: _Told, kept: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Which branch (kept, token: [B, M]) each row's outcome is, [B]; -1 for none."""
    equal = (kept == told.kept[:, None]) & (token == told.token[:, None]) & told.valid[:, None]
    return np.where(equal.any(1), equal.argmax(1), -1)


class DraftServer(SpeculationServer):
    """A draft that drafts behind what it is told, when it is told, and holds nothing: for methods that overlap otherwise."""

    holds = False

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model, Listed([1]), Neural())

    def work(self, caller: Caller | None = None) -> None:
        return None
