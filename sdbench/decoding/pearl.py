"""PEARL (2408.11850): draft and target work in every round, side by side.

The draft drafts g tokens in each round, while the target reads the tokens that it has not read yet:

    pre-verify   nothing is pending: the target reads the prefix alone, and so judges the first of the g new tokens;
    post-verify  g - 1 tokens are pending from the round before: the target judges them, and the first of the g new tokens.

If all judged tokens are kept, the other g - 1 new tokens are pending, and there is no bonus. The target's correction replaces the
first rejected token. All drafted tokens behind it are void, and the next round is a pre-verify. Both parts can be switched off.
Without pre-verify a round with nothing pending only drafts. Without post-verify the draft waits while the target judges, and a
bonus follows a whole draft, as in plain speculative decoding.

The rule judges each token against the q that it was drawn from, so an exact rule keeps the target's law.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.base import AcceptanceRule, count
from sdbench.acceptance.draft import Draft
from sdbench.asynchronous.drafter import OnDemandDrafter
from sdbench.decoding.base import Finished, Request
from sdbench.decoding.speculative import Batch, Speculative
from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.sampling import Scored, most_likely

LONGEST_WINDOW = 16
FIRST_WINDOW = 4  # before `calibrate`


class Pearl(Speculative):
    """Decode with PEARL.

    draft_length: g. None: `calibrate` sets it to the target's time for a verification over the draft's time for a token.
    pre_verify, post_verify: see above; at least one of them is on.
    """

    def __init__(
        self,
        verifier: LanguageModel,
        proposer: OnDemandDrafter,
        rule: AcceptanceRule | None = None,
        draft_length: int | None = None,
        pre_verify: bool = True,
        post_verify: bool = True,
    ) -> None:
        if not isinstance(proposer, OnDemandDrafter):
            raise InputError(
                "pearl needs a proposer that drafts while the target verifies: sdbench.asynchronous.OnDemandDrafter."
            )
        super().__init__(verifier, rule, proposer, FIRST_WINDOW if draft_length is None else draft_length)
        validate.switch("pre_verify", pre_verify)
        validate.switch("post_verify", post_verify)
        if self.rule.start(1) is not None:
            raise InputError("pearl takes no rule that remembers: its rounds end without the verifier's own token.")
        if not (pre_verify or post_verify):
            raise InputError("pearl without pre_verify and post_verify overlaps nothing; that is the arm sd.")
        self.measures = draft_length is None
        self.pre_verify, self.post_verify = pre_verify, post_verify
        self.batch = _PearlBatch

    def max_lookahead(self) -> int:
        longest = LONGEST_WINDOW if self.measures else self.draft_length
        return 2 * self.proposer.max_lookahead(longest) + 1

    def calibrate(self, trace: Trace) -> bool:
        """Set draft_length to the number of tokens that the draft drafts during a verification, unless it was given."""
        verify = [row["seconds"] for row in trace.steps if row["role"] == self.target.name and row["kind"] == "verify"]
        drafts = [row["replied"] - row["received"] for row in trace.rounds if "replied" in row]
        if not (self.measures and verify and drafts):
            return False
        # A disturbance of the machine only adds time, and a warm-up is short. So the lower quartile is better than the median.
        verified, drafted = (float(np.quantile(times, 0.25)) for times in (verify, drafts))
        fitting = verified / (drafted / self.draft_length)
        before, self.draft_length = self.draft_length, int(min(max(int(fitting), 1), LONGEST_WINDOW))
        self.measures = False
        return self.draft_length != before


class _PearlBatch(Batch):
    """Run one batch.

    pending: [B] drafted tokens behind the decided ones that the target has not judged. q: [B, K, V], what they were drawn from.
    """

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        method = self.method
        assert isinstance(method, Pearl)
        self.pearl = method
        self.pending = np.zeros(len(self.rows), np.int64)
        self.q: torch.Tensor | None = None

    def _admit(self, index: int, number: int, request: Request) -> Finished | None:
        self.pending[index] = 0  # the pending tokens of the row's last sequence are void
        return super()._admit(index, number, request)

    def _round(self) -> Iterator[Finished]:
        state, method = self.state, self.pearl
        proposer = method.proposer
        assert isinstance(proposer, OnDemandDrafter)
        g, key, active = method.draft_length, self._begin_round(), state.active.copy()
        drafting = active & ((self.pending == 0) | method.post_verify)
        # If the draft is lost, the target goes on alone.
        judging = active & ((self.pending > 0) | method.pre_verify | (proposer.fault is not None))
        ahead = state.ahead(state.length + self.pending, drafting)
        if drafting.any():
            proposer.request(ahead, key)
        logits = None
        if judging.any():
            reading = state.ahead(state.length + self.pending, judging)
            num_logits = int(self.pending[judging].max()) + 1
            output = method.target.read(reading, reading.length, "verify", num_logits=num_logits)
            # A row with fewer pending tokens than others has padding at its first places.
            logits = self.law.scored(reading, output, (reading.length - num_logits + 1).tolist()).logits
        new = proposer.receive(ahead, g) if drafting.any() else None
        if new is not None and new.tokens.shape[1] == 0:
            new, drafting = None, np.zeros_like(drafting)  # the draft is lost
        if new is not None:
            ahead.place_many(new.tokens, ahead.length)
        draft, p = self._candidates(new, drafting, judging, logits)
        if draft is None or p is None:
            self._pend(new, drafting, judging, judging)
            return
        yield from self._judge(draft, p, new, drafting, judging, key)

    def _candidates(
        self, new: Draft | None, drafting: np.ndarray, judging: np.ndarray, logits: torch.Tensor | None
    ) -> tuple[Draft | None, Scored | None]:
        """Return the tokens that the target judges and its scores: the pending tokens and the first new one, left-aligned."""
        if logits is None:
            return None, None
        state, device = self.state, logits.device
        rows, read = state.rows, logits.shape[1]
        count = np.where(judging, self.pending + drafting, 0)
        K = int(count.max())
        place = torch.arange(K, device=device)
        where = upload(state.length, device)[:, None] + place
        tokens = state.tokens.gather(1, where.clamp(max=state.tokens.shape[1] - 1))
        # The last logits belong to the last token read. The judged positions are the last pending + 1 of them.
        shift = upload(read - 1 - self.pending, device)[:, None]
        at = (shift + torch.arange(K + 1, device=device)).clamp(0, read - 1)
        p = state.sampler.score(logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1])))
        q = torch.zeros(rows, K, logits.shape[-1], dtype=logits.dtype, device=device)
        if self.q is not None and K:
            held = min(K, self.q.shape[1])
            q[:, :held] = self.q[:, :held].to(q.dtype)
        if new is not None and new.q is not None and K:
            last = upload(np.minimum(self.pending, K - 1), device)
            index = last[:, None, None].expand(-1, 1, q.shape[-1])
            first = upload(drafting & judging, device)[:, None, None]
            q.scatter_(1, index, torch.where(first, new.q.logits[:, :1].to(q.dtype), q.gather(1, index)))
        number = None if new is None else new.number
        scores = state.sampler.score(q)
        return Draft(tokens, upload(count, device), scores, self.method.proposer.kind, number=number), p

    def _judge(
        self, draft: Draft, p: Scored, new: Draft | None, drafting: np.ndarray, judging: np.ndarray, key: Key
    ) -> Iterator[Finished]:
        """Draw the verdict, write the target's own tokens, and account for the verifications."""
        state, method, sampler = self.state, self.method, self.state.sampler
        if draft.tokens.shape[1]:
            law = method.rule.law(draft, p, self.memory)
            accepted = count(law, sampler, key)
            kept = np.array(accepted.tolist())
            follows = law.next_token(accepted)
        else:
            kept, follows = np.zeros(state.rows, np.int64), p.probs[:, 0]
        proposed = np.array(draft.length.tolist())
        # If all candidates are kept and the last one is new, the draft goes on. Otherwise the target's own token follows.
        goes_on = judging & drafting & (kept == proposed)
        adds = judging & ~goes_on
        if adds.any():
            token = most_likely(follows) if sampler.sampling.greedy else sampler.choices.choose(follows, key / "next")
            state.place(token, np.where(adds, state.length + kept, state.tokens.shape[1] - 1))
        start = state.length.copy()
        state.length[:] = np.where(judging, start + kept + adds, start)
        method.target.keep(np.where(state.active, state.length - 1, method.target.kv_len))
        self._pend(new, drafting, judging, goes_on)
        lines = state.tokens[:, int(start.min()) : int(state.length.max())].tolist()
        for index, row in enumerate(self.rows):
            if row is not None and judging[index]:
                begin = int(start[index] - start.min())
                tokens = lines[index][begin : begin + int(kept[index]) + bool(adds[index])]
                yield from self._verified(index, int(proposed[index]), int(kept[index]), tokens, draft.number)

    def _pend(self, new: Draft | None, drafting: np.ndarray, judging: np.ndarray, goes_on: np.ndarray) -> None:
        """Set the pending tokens, and tell the draft how much of what it has read stands."""
        g, state = self.method.draft_length, self.state
        only_drafted = drafting & ~judging
        self.pending = np.where(goes_on, g - 1, np.where(only_drafted, g, np.where(judging, 0, self.pending)))
        if new is not None and new.q is not None:
            whole = new.q.logits
            later = torch.cat([whole[:, 1:], whole[:, -1:]], 1)
            first = upload(only_drafted, whole.device)[:, None, None]
            made = torch.where(first, whole, later)
            held = upload(goes_on | only_drafted, whole.device)[:, None, None]
            self.q = made if self.q is None else torch.where(held, made, self.q)
        stands = np.where(self.pending > 0, state.length + self.pending, state.length - 1)
        self.method.proposer.commit(stands)
