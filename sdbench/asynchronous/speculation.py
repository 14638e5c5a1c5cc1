"""The speculation server: the draft's side of speculative speculative decoding (SSD / Saguaro, 2603.03251).

While the verifier works on a speculation s_1 .. s_K, the server drafts the next one for each likely outcome (k, t): k tokens
kept, then the verifier's own token t. When the outcome is told, a speculation that is held for it (a hit) goes out at once; else
(a miss) a back-up drafts one. The server is a state machine; who carries its calls is no business of its own:

    admit     a prompt takes a row;
    foresee   then, while the verifier reads it too: its first token, as the outcome of a speculation of none (with one row; in the
              authors' code the first round always misses);
    serve     an outcome comes, a speculation goes: SERVE;
    build     then, while the verifier is busy: GLUE, FORK, TREE, FILL.

GLUE reads the outcome's token and the speculation in one forward, in their places. FORK takes, behind each k kept tokens, the F_k
tokens that the draft finds most likely, without s_{k+1}, which the verifier has just refused there. TREE drafts K tokens behind all
of them at once, one forward per depth: a branch sees its prefix and itself, its keys and values are scratch behind the row's own.

Every branch draws with the same uniforms, those that the draft would use if it were told the outcome first. At most one branch
becomes real, and which one depends on none of these draws, so the law is that of drafting afterwards; with the neural back-up
and C = 1 even the tokens are those of synchronous speculative decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.asynchronous.backup import Backup, Neural
from sdbench.asynchronous.branches import Drafted, DraftedAtOnce, Tree
from sdbench.asynchronous.fan_out import FanOut, Geometric, Listed, widest
from sdbench.asynchronous.protocol import Caller, Outcome, Speculation
from sdbench.asynchronous.saguaro import Saguaro
from sdbench.device import synchronise, upload
from sdbench.drafting.rank_log import ranks
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.base import programs_of
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler

RANKED_AT_ONCE = 32  # outcomes; fan-outs learn from no fewer

Keys = list[dict[tuple[int, int], int]]  # by row, which branch an outcome (k, t) is


class _Told(NamedTuple):
    """An outcome as the end of a row's speculation, of `drafted` tokens that were held (hit) or not: its key (kept, token)."""

    kept: int
    token: int
    drafted: int
    hit: bool


class _Unranked(NamedTuple):
    """An outcome whose rank is still to be found. ranks: where it goes, by row; glue: the draft's logits behind each number of kept
    tokens; refused: the drafted token that was refused there, -1 if none was."""

    ranks: list[int | None]
    row: int
    told: _Told
    glue: Float[Tensor, "B K1 V"]
    refused: int


@lru_cache(maxsize=64)  # fan-outs come again and again: behind hits, behind misses
def _places(counts: tuple[tuple[int, ...], ...], device: torch.device) -> Int[Tensor, "B M"]:
    """Behind how many kept tokens each branch stands. counts: by row, F_0 .. F_K; 0 where a row has fewer branches than others."""
    places = [[k for k, count in enumerate(row) for _ in range(count)] for row in counts]
    width = max(map(len, places))
    return upload(np.array([row + [0] * (width - len(row)) for row in places], np.int64), device)


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
        self.context = DecodeState(
            torch.zeros(rows, slots, dtype=torch.long, device=self.device),
            np.ones(rows, np.int64),
            np.zeros(rows, bool),
            sampler,
            Trace(sequence=[-1] * rows, sequence_round=[0] * rows),
        )
        self.served = []
        self._streams = np.zeros(rows, np.uint64)
        self._rounds = [-1] * rows
        # By row, as plain numbers: asking arrays of so few takes longer. latest: whether the last outcome was about it.
        self._decided, self._drafted, self._branch = [1] * rows, [0] * rows, [-1] * rows
        self._latest, self._hit = [False] * rows, [False] * rows
        self._told: list[_Told | None] = [None] * rows
        self._unsettled: tuple[Outcome, Speculation] | None = None
        self._glue: Tensor | None = None
        self._keys: Keys = [{} for _ in range(rows)]
        self._held: Drafted | DraftedAtOnce | None = None
        self._behind: Tensor | None = None
        self._tree = Tree(self.model, self.saguaro, length)
        self._unranked: list[_Unranked] = []
        self._verified: list[list[int]] = []  # the tokens that the glue was read behind

    def admit(self, row: int, tokens: Sequence[int], stream: int) -> None:
        """A prompt takes a row; stream: of its random choices."""
        context = self.context
        context.tokens[row, : len(tokens)] = torch.tensor(tokens, device=self.device)
        context.length[row], context.active[row] = len(tokens), True
        self._streams = self._streams.copy()
        self._streams[row] = stream
        self._decided[row], self._latest[row] = len(tokens), False
        self._rounds[row], self._drafted[row], self._hit[row] = -1, 0, False
        self._keys[row], self._told[row] = {}, None
        self.model.reset(row)
        context.trace.round = -1
        self._prompted = self.model.read(context, context.length, "prefill", row=row).logits
        synchronise(self.device)

    def foresee(self, caller: Caller | None = None) -> None:
        """Draft behind the tokens that may follow the prompt just read. Of several rows the others' speculations would be lost."""
        if self.holds and self.context.rows == 1:
            self._glue, self._latest = self._prompted, [True]
            self._grow(caller)

    def serve(self, outcome: Outcome) -> Speculation:
        """The speculation for an outcome: held, or made by the back-up."""
        received = perf_counter()
        self._settle()
        self.context.trace.round = len(self.served)
        self._told = self._ended(outcome)
        self._branch = _branch(self._told, self._keys)
        hit = [branch >= 0 for branch in self._branch]
        if self.backup.whole_batch and hit != outcome.active:
            self._branch, hit = [-1] * len(hit), [False] * len(hit)
        if hit == outcome.active and self._held is not None:
            # What is held goes out at once; it is put down when the verifier is busy again.
            tokens, logits, self._behind = self._held.of(self._branch)
            speculation = Speculation(hit, [self.length if held else 0 for held in hit], tokens, logits)
            self._unsettled = outcome, speculation
        else:
            self._take(outcome)
            speculation = self._backed_up(np.array(hit), np.array(outcome.active) & ~np.array(hit))
            self.context.place_many(speculation.tokens, self.context.length)
        self._drafted, self._hit, self._latest = [*speculation.length], hit, [*outcome.active]
        self._log(hit, received)
        return speculation

    def build(self, caller: Caller | None = None) -> None:
        """Draft for the outcomes that the speculation just served may come to.

        caller: an outcome that comes meanwhile ends the work, where no branch is for it, or leaves but its branch to be drafted.
        """
        self._settle()
        self._note()
        self._glue = self._read()
        self._grow(caller)
        self.served[-1]["built"] = perf_counter()

    def _grow(self, caller: Caller | None) -> None:
        """Draft for what may follow each of the first tokens of a speculation."""
        assert self._glue is not None
        keys, places, roots = self._fork(self._glue)
        self._keys, self._held = [{} for _ in keys], None
        if not any(keys):
            return
        key, fan_out = (
            Key(self._streams, [number + 1 for number in self._rounds], ("draft",)),
            self.counts(self.length, hit=True),
        )
        # On a GPU the whole tree is queued at once.
        told = partial(self._come_true, caller, keys) if caller is not None and self.device.type == "cpu" else None
        drafted = self._tree.grow(self.context, places, roots, key, fan_out, told)
        if drafted.only is not None:
            keys = [{outcome: branch for outcome, branch in row.items() if branch == drafted.only} for row in keys]
        if drafted.depth == self.length:
            self._keys, self._held = keys, drafted

    def _come_true(self, caller: Caller, keys: Keys) -> list[int] | None:
        """The branches of the outcome that is there, if one is."""
        outcome = caller.outcome()
        return None if outcome is None else _branch(self._ended(outcome), keys)

    def work(self, caller: Caller | None = None) -> None:
        """What is to be done when an answer has gone out, until the caller has the next outcome."""
        self.build(caller)

    def measured(self) -> dict[str, Any]:
        """What was recorded since `open`: `steps`, as in a trace, their `round` the index of what was `served`; `programs`; and the
        `bytes` that are held of weights, slots and speculations."""
        self.context.trace.close()
        self._learn()
        return {
            "steps": self.context.trace.steps,
            "served": self.served,
            "programs": programs_of([self.model.execution]),
            "bytes": self.model.bytes + (self._held.bytes if self._held is not None else 0),
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

    def _log(self, hit: list[bool], received: float) -> None:
        """Record an answer that is ready: which rows it was held for, and when it was asked for and made."""
        synchronise(self.device)
        self.served.append({"hit": [*hit], "received": received, "replied": perf_counter(), "ranks": [None] * len(hit)})

    def _ended(self, outcome: Outcome) -> list[_Told | None]:
        """How an outcome ends the last speculation, by row; None where it is no end of it."""
        told: list[_Told | None] = []
        for row, (active, length) in enumerate(zip(outcome.active, outcome.length, strict=True)):
            kept, drafted = length - 1 - self._decided[row], self._drafted[row]
            # Its own tokens and one more. (A stage above may have cut and added otherwise.)
            own = active and self._latest[row] and outcome.first[row] == length - 1 and 0 <= kept <= drafted
            told.append(_Told(kept, outcome.tokens[row][0], drafted, self._hit[row]) if own else None)
        return told

    def _settle(self) -> None:
        """Put down an outcome and what was held for it, if that was put off."""
        if self._unsettled is not None:
            outcome, speculation = self._unsettled
            self._unsettled = None
            self._take(outcome)
            self.context.place_many(speculation.tokens, self.context.length)

    def _take(self, outcome: Outcome) -> None:
        """Bring tokens, lengths and what the model knows up to an outcome."""
        context = self.context
        context.active[:] = outcome.active
        for row, (active, first, end) in enumerate(zip(outcome.active, outcome.first, outcome.length, strict=True)):
            if active:
                context.write(row, first, outcome.tokens[row])
                context.length[row] = self._decided[row] = end
                self.model.forget(row, first)
            else:  # what is written for a row that is not asked about goes where no token will ever be decided
                context.length[row] = context.tokens.shape[1] - self.length
        self._streams = outcome.streams
        self._rounds = [number + on for number, on in zip(self._rounds, outcome.active, strict=True)]

    def _backed_up(self, hit: np.ndarray, missed: np.ndarray) -> Speculation:
        """What is held for the rows that hit, and what the back-up drafts for those that missed."""
        backed = self.backup.draft(self, missed)
        length = np.where(missed, backed.length, np.where(hit, self.length, 0)).tolist()
        if not hit.any() or self._held is None:
            self._behind = backed.behind
            return Speculation(hit.tolist(), length, backed.tokens, backed.logits)
        held, ours = self._held.of(self._branch), self._here(hit)[:, None]
        tokens = torch.where(ours, held[0], backed.tokens)
        logits = torch.where(ours[..., None], held[1], backed.logits.to(held[1].dtype))
        self._behind = None if backed.behind is None else torch.where(ours[..., None], held[2], backed.behind)
        return Speculation(hit.tolist(), length, tokens, logits)

    def _adopt(self) -> None:
        """The branches that hit become their rows' own: what was read for them moves to the rows' slots."""
        rows = [row for row, branch in enumerate(self._branch) if branch >= 0]
        if rows and self._held is not None:
            held, first = self._held, [int(self.context.length[row]) - 1 for row in rows]
            self.model.move(rows, [held.base + self._branch[row] for row in rows], held.width, first, held.depth)
        self._branch = [-1] * self.context.rows

    def _here(self, values: np.ndarray) -> Tensor:
        return upload(values, self.device)

    def _read(self) -> Float[Tensor, "B K1 V"]:
        """The draft's logits behind the outcome's token and behind each token of the speculation: GLUE.

        What was drafted was read for it, but for its last token: a branch of the tree moves to the row's own slots. On a GPU, where
        a step of one token takes as long as one of K + 1, all is read again.
        """
        context, K = self.context, self.length
        if self._behind is None or self.device.type != "cpu":
            # Behind a shorter draft stands what is left of an earlier one: read, and looked at by nobody.
            return self.model.read(context, context.length + K, "glue", num_logits=K + 1).logits
        self._adopt()
        return torch.cat([self._behind, self.model.read(context, context.length + K, "glue").logits], 1)

    def _note(self) -> None:
        """Keep what says where the outcome that was told last stood in the draft's order."""
        if self._glue is None:
            return
        for row, told in enumerate(self._told):
            if told is not None:
                refused = self._verified[row][told.kept] if told.kept < told.drafted else -1
                self._unranked.append(_Unranked(self.served[-1]["ranks"], row, told, self._glue, refused))
        if len(self._unranked) >= RANKED_AT_ONCE:
            self._learn()

    def _learn(self) -> None:
        """Find the ranks of the outcomes so far: for the fan-out, and for the record. Many at once, for one by one takes long."""
        outcomes, self._unranked = self._unranked, []
        if not outcomes:
            return
        order = torch.stack([outcome.glue[outcome.row, outcome.told.kept] for outcome in outcomes])
        token, refused = self._here(np.array([[end.told.token, end.refused] for end in outcomes])).unbind(1)
        for end, rank in zip(outcomes, ranks(order, token, refused).tolist(), strict=True):
            self.fan_out.learn(end.told.drafted, end.told.hit, end.told.kept, rank)
            end.ranks[end.row] = rank

    def _fork(self, glue: Float[Tensor, "B K1 V"]) -> tuple[Keys, Int[Tensor, "B M"], Int[Tensor, "B M"]]:
        """The outcomes to speculate for: the F_k tokens that the draft finds most likely behind each k kept ones.

        Returns their keys, k and the tokens (0 and 0 where a row has fewer branches).
        """
        context, K = self.context, glue.shape[1] - 1
        counts = tuple(
            self.counts(drafted, hit) if active else ()
            for drafted, hit, active in zip(self._drafted, self._hit, context.active.tolist(), strict=True)
        )
        widest = max((count for row in counts for count in row), default=0)
        likely = glue.topk(min(widest + 1, glue.shape[-1]), dim=-1).indices.tolist()
        if context.host is not None:
            starts = zip(context.host, context.length.tolist(), strict=True)
            self._verified = [line[first : first + K].tolist() for line, first in starts]
        else:
            self._verified = self._drafted_tokens()[:, :K].tolist()
        outcomes: list[list[tuple[int, int]]] = []
        for line, verified, drafted, row in zip(likely, self._verified, self._drafted, counts, strict=True):
            # s_{k+1} is no outcome behind k kept tokens; behind the last drafted token none is refused.
            refused = [*verified[:drafted], -1]
            open_ = [[token for token in line[k] if token != refused[k]] for k in range(len(row))]
            outcomes.append([(k, token) for k, count in enumerate(row) for token in open_[k][:count]])
        width = max(map(len, outcomes))
        roots = [[token for _, token in row] + [0] * (width - len(row)) for row in outcomes]
        keys = [{outcome: branch for branch, outcome in enumerate(row)} for row in outcomes]
        return keys, _places(counts, self.device), self._here(np.array(roots, np.int64))

    def _drafted_tokens(self) -> Int[Tensor, "B K"]:
        """The speculation that is being verified."""
        if self.context.rows == 1:
            first = int(self.context.length[0])
            return self.context.tokens[:, first : first + self.length]
        return self.context.tokens.gather(1, self._here(self.context.length[:, None] + np.arange(self.length)))


def _branch(told: list[_Told | None], keys: Keys) -> list[int]:
    """Which branch each row's outcome is; -1 for none."""
    return [-1 if end is None else held.get((end.kept, end.token), -1) for end, held in zip(told, keys, strict=True)]


class DraftServer(SpeculationServer):
    """A draft that drafts behind what it is told, when it is told, and holds nothing: for methods that overlap otherwise."""

    holds = False

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model, Listed([1]), Neural())

    def work(self, caller: Caller | None = None) -> None:
        return None
