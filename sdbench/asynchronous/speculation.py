"""The speculation server: the draft's side of speculative speculative decoding (SSD / Saguaro, 2603.03251).

While the verifier works on a speculation s_1 .. s_K, the server drafts the next one for each likely outcome (k, t): k accepted
tokens, then the verifier's own token t. If the cache holds a speculation for the outcome (a hit), the server sends it at once.
Otherwise (a miss) a back-up drafts one. While the verifier is busy, the server builds the next cache in three steps:

    GLUE   one forward reads the outcome's token and the speculation at their positions;
    FORK   behind each k it takes the F_k tokens that the draft finds most likely, without s_{k+1}, which was rejected there;
    TREE   it drafts K tokens behind all of them at once, with one forward for each depth.

While the verifier reads a prompt, the server speculates for its first token in the same way, as the outcome of an empty
speculation. It does so with one row only. (In the authors' code the first round always misses.)

Every branch draws with the same random numbers, those that the draft would use if it knew the outcome first. At most one branch
becomes real, and these draws do not decide which. So the law is that of drafting afterwards. With the neural back-up and C = 1
even the tokens are those of synchronous speculative decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.asynchronous.backup import Backup, DraftRequest, Neural
from sdbench.asynchronous.branches import Branches, DraftedAtOnce, DraftedBranches
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.fan_out import FanOut, Geometric, branch_slots
from sdbench.asynchronous.outcome_ranks import RANKED_AT_ONCE, End, OutcomeRanks
from sdbench.asynchronous.protocol import Caller, Outcome, Speculation
from sdbench.asynchronous.saguaro import Saguaro
from sdbench.device import upload
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.drafting.lengths import Fixed, LengthPolicy, PolicyRows
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampler

Outcomes = dict[tuple[int, int], int]  # the branch of each outcome (k, t) of a row


def branches_of(ends: list[End | None], branches: list[Outcomes]) -> list[int]:
    """Return the branch of each row's outcome; -1 where there is none."""
    rows = zip(ends, branches, strict=True)
    return [-1 if end is None else held.get((end.kept, end.token), -1) for end, held in rows]


class SpeculationCache:
    """Hold the speculations for likely outcomes. rows: B."""

    def __init__(self, rows: int) -> None:
        self.branches: list[Outcomes] = [{} for _ in range(rows)]
        self.drafted: DraftedBranches | DraftedAtOnce | None = None

    @property
    def bytes(self) -> int:
        return 0 if self.drafted is None else self.drafted.bytes

    def find(self, ends: list[End | None]) -> list[int]:
        """Return the branch of each row's outcome; -1 where the cache has none."""
        return branches_of(ends, self.branches)

    def keep(self, branches: list[Outcomes], drafted: DraftedBranches | DraftedAtOnce) -> None:
        """Replace the contents. branches: by row. If only one branch was drafted to its end, the others are left out."""
        if drafted.only is not None:
            branches = [{key: branch for key, branch in row.items() if branch == drafted.only} for row in branches]
        self.branches, self.drafted = branches, drafted

    def clear(self) -> None:
        """Drop all speculations."""
        self.branches, self.drafted = [{} for _ in self.branches], None


class SpeculationServer(DraftServer):
    """Draft ahead for likely outcomes. model: the draft. fan_out, backup, saguaro: see their modules.

    policy: how many tokens of a speculation to send. All branches are drafted to their end, because their outcome is not known.
    """

    def __init__(
        self,
        model: LanguageModel,
        fan_out: FanOut | None = None,
        backup: Backup | None = None,
        saguaro: Saguaro | None = None,
        policy: LengthPolicy | None = None,
    ) -> None:
        super().__init__(model)
        self.fan_out: FanOut = fan_out or Geometric()
        self.backup: Backup = backup or Neural()
        self.saguaro = saguaro or Saguaro()
        self.policy = policy or Fixed()

    def branch_slots(self, length: int) -> int:
        return branch_slots(self.fan_out, length, self.model.vocab)

    def open(self, rows: int, slots: int, length: int, sampler: Sampler) -> None:
        super().open(rows, slots, length, sampler)
        # The last speculation, by row: its tokens, whether it was a hit, whether it was made for the row's present sequence.
        self._drafted, self._hit, self._latest = [0] * rows, [False] * rows, [False] * rows
        self._ends: list[End | None] = [None] * rows  # how the last outcome ended the speculation before it
        self._branch = [-1] * rows  # the branch that became the last speculation
        self._own: Tensor | None = (
            None  # [B, K, V], the draft's own logits of the last speculation, if its tokens were read
        )
        self._pending: tuple[Outcome, Speculation] | None = None  # sent, but not yet applied
        self._glue: Tensor | None = None  # [B, K + 1, V], the draft's logits behind each number of accepted tokens
        self._verified: list[list[int]] = []  # the speculation that belongs to `_glue`, by row
        self.cache = SpeculationCache(rows)
        self._lengths = PolicyRows(self.policy, rows, length)
        self._branches = Branches(self.model, self.saguaro, length)
        self._ranks = OutcomeRanks(self.fan_out)

    def admit(self, row: int, tokens: Sequence[int], stream: int) -> None:
        super().admit(row, tokens, stream)
        self._drafted[row], self._hit[row], self._latest[row], self._ends[row] = 0, False, False, None
        self.cache.branches[row] = {}
        self._lengths.admit(row)

    def speculate_first_token(self, caller: Caller | None = None) -> None:
        """Draft for the likely first tokens behind the prompt. With several rows the others' speculations would be lost."""
        if self.state.rows == 1:
            self._glue, self._latest = self._behind_prompt, [True]
            self._grow(caller)

    def serve(self, outcome: Outcome) -> Speculation:
        """Return the speculation for an outcome, from the cache or from the back-up."""
        received = self._begin()
        self._apply_pending()
        self._ends = self._ended(outcome)
        for row, end in enumerate(self._ends):
            if end is not None:
                self._lengths.learn(row, end.drafted, end.kept)
        self._branch = self.cache.find(self._ends)
        hit = [branch >= 0 for branch in self._branch]
        if self.backup.whole_batch and hit != outcome.active:
            self._branch, hit = [-1] * len(hit), [False] * len(hit)
        if hit == outcome.active and self.cache.drafted is not None:
            # The answer goes out first. The server applies the outcome when the verifier is busy again.
            tokens, logits, self._own = self.cache.drafted.of(self._branch)
            speculation = Speculation(hit, [self.length if held else 0 for held in hit], tokens, logits)
            self._limit(outcome.active, speculation)
            self._pending = outcome, speculation
        else:
            self._apply(outcome)
            speculation = self._backed_up(np.array(hit), np.array(outcome.active) & ~np.array(hit))
            self._limit(outcome.active, speculation)
            self.state.place_many(speculation.tokens, self.state.length)
        self._drafted, self._hit, self._latest = [*speculation.length], hit, [*outcome.active]
        self._log(hit, received)
        return speculation

    def _limit(self, active: list[bool], speculation: Speculation) -> None:
        """Shorten a speculation as the policy says."""
        if isinstance(self.policy, Fixed):
            return
        asked, most = self._lengths.lengths(active), speculation.length
        if self.policy.reads_q:
            most = self._lengths.stopped(speculation.tokens, self.state.sampler.score(speculation.logits)).tolist()
        speculation.length = [min(each) for each in zip(asked, most, speculation.length, strict=True)]

    def work(self, caller: Caller | None = None) -> None:
        """Build the cache for the outcomes of the last speculation.

        caller: an outcome that arrives ends the work, or leaves only its own branch to be drafted.
        """
        self._read_ahead()
        self._grow(caller)
        self.served[-1]["built"] = perf_counter()

    def measured(self) -> dict[str, Any]:
        self._ranks.find()
        measured = super().measured()
        return {**measured, "bytes": measured["bytes"] + self.cache.bytes}

    def _counts(self, length: int, hit: bool) -> tuple[int, ...]:
        """Return the fan-out behind a speculation of `length` tokens."""
        return self.fan_out.counts(length, self.model.vocab, hit)

    def _ended(self, outcome: Outcome) -> list[End | None]:
        """Say how an outcome ends the last speculation, by row; None where it does not belong to it."""
        ends: list[End | None] = []
        for row, (active, length) in enumerate(zip(outcome.active, outcome.length, strict=True)):
            kept, drafted = length - 1 - self._decided[row], self._drafted[row]
            # Tokens of the speculation and one more. A stage above may have changed more than that.
            own = active and self._latest[row] and outcome.first[row] == length - 1 and 0 <= kept <= drafted
            ends.append(End(kept, outcome.tokens[row][0], drafted, self._hit[row]) if own else None)
        return ends

    def _apply_pending(self) -> None:
        """Apply an outcome, and the speculation for it, that were sent before they were applied."""
        if self._pending is not None:
            outcome, speculation = self._pending
            self._pending = None
            self._apply(outcome)
            self.state.place_many(speculation.tokens, self.state.length)

    def _backed_up(self, hit: np.ndarray, missed: np.ndarray) -> Speculation:
        """Combine the cached speculations of the rows that hit with the back-up's drafts for the rows that missed."""
        request = DraftRequest(
            self.state.ahead(self.state.length, missed), self.model, self.length, self.key(), self._modify()
        )
        backed = self.backup.draft(request)
        length = np.where(missed, backed.length, np.where(hit, self.length, 0)).tolist()
        if not hit.any() or self.cache.drafted is None:
            self._own = backed.own
            return Speculation(hit.tolist(), length, backed.tokens, backed.logits)
        held, ours = self.cache.drafted.of(self._branch), upload(hit, self.device)[:, None]
        tokens = torch.where(ours, held[0], backed.tokens)
        logits = torch.where(ours[..., None], held[1], backed.logits.to(held[1].dtype))
        self._own = None if backed.own is None else torch.where(ours[..., None], held[2], backed.own)
        return Speculation(hit.tolist(), length, tokens, logits)

    def _modify(self) -> Any:
        """Return what changes the logits that a back-up draws from; None for ordinary sampling."""
        if self.saguaro.plain:
            return None
        counts, sampling = self._counts(self.length, hit=False), self.state.sampler.sampling
        return lambda logits, depth: self.saguaro.modify(logits, counts[depth], sampling)

    def _read_ahead(self) -> None:
        """Apply the last outcome and read the speculation for it, so that branches can grow behind it."""
        self._apply_pending()
        self._rank_ends()
        self._glue = self._read_speculation()

    def _read_speculation(self) -> Float[Tensor, "B K1 V"]:
        """Return the draft's logits behind the outcome's token and behind each token of the speculation: GLUE.

        The drafting has read all tokens but the last. The keys and values of a branch move to the row's own slots. On a GPU a step
        of one token takes as long as a step of K + 1, so all tokens are read again.
        """
        state, K = self.state, self.length
        if self._own is None or self.device.type != "cpu":
            # Rows with a shorter draft hold stale tokens behind it. They are read too, and their logits are ignored.
            return self.model.read(state, state.length + K, "glue", num_logits=K + 1).logits
        self._move_branches()
        return torch.cat([self._own, self.model.read(state, state.length + K, "glue").logits], 1)

    def _move_branches(self) -> None:
        """Move the keys and values of the branches that hit to the slots of their rows."""
        rows, held = [row for row, branch in enumerate(self._branch) if branch >= 0], self.cache.drafted
        if rows and held is not None:
            first = [int(self.state.length[row]) - 1 for row in rows]
            slots = [
                [held.base[row] + self._branch[row] + depth * held.width for depth in range(held.depth)] for row in rows
            ]
            self.model.move(rows, slots, first)
        self._branch = [-1] * self.state.rows

    def _grow(self, caller: Caller | None, likely: list[list[list[int]]] | None = None) -> None:
        """Draft for the likely outcomes behind each number of accepted tokens: FORK and TREE. likely: see `_fork`."""
        outcomes, behind, roots = self._fork(likely)
        self.cache.clear()
        if not any(outcomes):
            return
        key = drafting_key(Key(self._streams, [number + 1 for number in self._rounds]))
        branches = [{outcome: branch for branch, outcome in enumerate(row)} for row in outcomes]
        arrived = None
        if caller is not None and self.device.type == "cpu":  # on a GPU the whole tree is queued at once
            arrived = partial(self._arrived_branch, caller, branches)
        counts = self._counts(self.length, hit=True)
        drafted = self._branches.grow(self.state, behind, roots, key, counts, arrived)
        if drafted.depth == self.length:
            self.cache.keep(branches, drafted)

    def _arrived_branch(self, caller: Caller, branches: list[Outcomes]) -> list[int] | None:
        """Return the branch of each row's outcome, if the next outcome has arrived."""
        outcome = caller.outcome()
        return None if outcome is None else branches_of(self._ended(outcome), branches)

    def _fork(
        self, likely: list[list[list[int]]] | None
    ) -> tuple[list[list[tuple[int, int]]], list[list[int]], Int[Tensor, "B M"]]:
        """Choose the outcomes to speculate for: the first F_k likely tokens behind each k.

        likely: of each row, the likely tokens behind each number of accepted ones. None: those that the draft finds most likely.

        Returns the outcomes (k, t) of each row; k and t again apart, 0 where a row has fewer outcomes than others.
        """
        state, glue = self.state, self._glue
        assert glue is not None
        K, counts = glue.shape[1] - 1, self._fan_outs(glue)
        if likely is None:
            most = max((count for row in counts for count in row), default=0)
            likely = glue.topk(min(most + 1, glue.shape[-1]), dim=-1).indices.tolist()
        at = state.length[:, None] + np.arange(K)
        self._verified = state.tokens.gather(1, upload(at, self.device)).tolist()
        outcomes: list[list[tuple[int, int]]] = []
        for line, verified, drafted, row in zip(likely, self._verified, self._drafted, counts, strict=True):
            # Behind k accepted tokens s_{k+1} is no outcome. Behind the last drafted token nothing was rejected.
            rejected = [*verified[:drafted], -1]
            possible = [[token for token in line[k] if token != rejected[k]] for k in range(len(row))]
            outcomes.append([(k, token) for k, count in enumerate(row) for token in possible[k][:count]])
        width = max(map(len, outcomes))
        padded = [[*row, *[(0, 0)] * (width - len(row))] for row in outcomes]
        behind, roots = ([[pair[part] for pair in row] for row in padded] for part in (0, 1))
        return outcomes, behind, upload(np.array(roots, np.int64), self.device)

    def _fan_outs(self, glue: Float[Tensor, "B K1 V"]) -> list[tuple[int, ...]]:
        """Return F_0 .. F_n of each row with n drafted tokens; () for a row that is not active."""
        rows = zip(self._drafted, self._hit, self.state.active.tolist(), strict=True)
        return [self._counts(drafted, hit) if active else () for drafted, hit, active in rows]

    def _rank_ends(self) -> None:
        """Note how the last outcome ended the speculation before it, so that its rank can be found."""
        if self._glue is None:
            return
        for row, end in enumerate(self._ends):
            if end is not None:
                rejected = self._verified[row][end.kept] if end.kept < end.drafted else -1
                self._ranks.add(self.served[-1]["ranks"], row, end, self._glue[row, end.kept], rejected)
        self._ranks.find(RANKED_AT_ONCE)
