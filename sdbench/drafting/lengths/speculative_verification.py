"""Speculative Verification (2509.24328, AR 7.1): a companion model predicts how much of a draft is worth a verification.

The companion, a model of the draft's size, reads the finished draft in one forward. With its distributions c, token x_i has

    S_i = sum_v min(q_i(v), c_i(v))      how far draft and companion agree before x_i is known,
    A_i = min(1, c_i(x_i) / q_i(x_i))    whether the companion would keep x_i.

The policy counts how often the verifier kept tokens with the same S and A, and so knows P(accept | S, A) and P(accept | S).
The draft grows by one token as long as the goodput grows, that is, the expected tokens per second of the round:

    goodput(n) = (1 + sum_{i <= n} a_1 ... a_i) / (drafting + verify(n + 1)).

Here a_i is P(accept | S_i, A_i) for the tokens that the draft keeps, and P(accept | S_i) for the token in question. The notes on
the paper take A of that token too. Then a token is dropped because of its value, and the output is no longer the target's (FA B.1):
`tests/drafting/test_lengths_exact.py` shows the distance. S_i depends on the earlier tokens only, so this form is lossless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.base import Proposer
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.drafting.lengths.limited import Limited, shortened
from sdbench.drafting.lengths.times import StageTimes
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState

Bin = tuple[int, int | None]  # of S and A; None: any A


@dataclass
class _Memory:
    """counts: by bin, how many tokens were kept and how many were verified. signals: S and A of the tokens in verification.
    rounds: verifications so far."""

    counts: dict[Bin, tuple[int, int]] = field(default_factory=dict)
    signals: list[tuple[float, float]] = field(default_factory=list)
    rounds: int = 0


class _Companioned(Limited):
    """Let the companion read each draft, and verify as much of it as the policy chooses."""

    def __init__(self, proposer: Proposer, policy: SpeculativeVerification, length: int) -> None:
        super().__init__(proposer, policy, length)
        self.policy: SpeculativeVerification = policy

    @property
    def models(self) -> list[LanguageModel]:
        return [*self.proposer.models, self.policy.companion]

    def admit(self, state: DecodeState, row: int) -> None:
        super().admit(state, row)
        self.policy.companion.reset(row)
        self.policy.companion.read(state, state.length - 1, "prefill", row=row)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        super().commit(length, paths)
        self.policy.companion.keep(length)

    def _chosen(self, state: DecodeState, draft: Draft, key: Key) -> Draft:
        policy, here, K = self.policy, state.copy(), draft.tokens.shape[1]
        assert draft.q is not None
        here.place_many(draft.tokens, here.length)
        # The last token of a draft is judged by the distribution before it, so the companion need not read it.
        output = policy.companion.read(here, here.length + K - 1, "draft", num_logits=K)
        c, q = here.sampler.score(output.logits).plain.to(draft.q.plain.device), draft.q.plain
        overlap = torch.minimum(q, c).sum(-1)
        of_token = (c / q).gather(-1, draft.tokens[..., None])[..., 0].clamp(max=1)
        counts, drafted = draft.length.tolist(), draft.length.tolist()
        for row, on in enumerate(state.active.tolist()):
            if on:
                signals = list(zip(overlap[row].tolist(), of_token[row].tolist(), strict=True))[: counts[row]]
                memory = self._rows.memory[row]
                counts[row] = policy.worth(signals, memory)
                memory.signals = signals[: counts[row]]
        if counts != drafted:  # the drafter's notes would take a dropped token for a rejected one
            draft = replace(draft, number=None)
        return shortened(draft, torch.tensor(counts, device=draft.length.device), state.active)


class SpeculativeVerification(LengthPolicy):
    """Verify as many drafted tokens as the companion makes likely enough.

    companion: the model that reads the draft. It may be no other model of the arm.
    bins: of S, and of A, each over [0, 1]; the paper's estimator is unknown.
    prior: the weight of the first guess in each bin, in tokens. It is A, or S where A is not looked at: what the exact rule would
        keep if the companion were the verifier.
    verify_seconds: of a verification that reads 1, 2, ... tokens, in any unit; the last difference goes on beyond the list. None:
        the warm-up measures it, so the verified tokens depend on timing. Before that the policy verifies 1, 2, ... tokens in turn.
    draft_seconds: of the rest of a round, in the same unit.
    """

    applied_by = _Companioned

    def __init__(
        self,
        companion: LanguageModel,
        bins: int = 5,
        prior: float = 2.0,
        verify_seconds: Sequence[float] | None = None,
        draft_seconds: float = 0.0,
    ) -> None:
        self.companion = companion
        self.bins = validate.whole("lengths.bins", bins, 1)
        self.prior = validate.number("lengths.prior", prior, 0, bounds="(]")
        self.draft_seconds = validate.number("lengths.draft_seconds", draft_seconds, 0)
        if verify_seconds is not None and len(verify_seconds) < 2:
            raise InputError(
                "lengths.verify_seconds needs at least the times of one token and of two, such as [1, 1.1]."
            )
        for seconds in verify_seconds or ():
            validate.number("lengths.verify_seconds", seconds, 0, bounds="(]")
        self.verify_seconds = list(verify_seconds or ())

    @property
    def reads_q(self) -> bool:
        return True

    def check(self, proposer: Proposer) -> None:
        super().check(proposer)
        if hasattr(proposer, "limited"):
            raise InputError(
                f"The length policy SpeculativeVerification works after drafting, beside the verifier, but the server of "
                f"{proposer.name} must know the length: take heuristic, confidence or another policy without a companion."
            )
        if any(model is self.companion for model in proposer.models):
            raise InputError(
                f"lengths.companion is {self.companion.name}, which drafts in this arm: name a role that does not."
            )

    def start(self) -> _Memory:
        return _Memory()

    def worth(self, signals: Sequence[tuple[float, float]], memory: _Memory) -> int:
        """Return how many tokens to verify. signals: S and A of each drafted token."""
        if not self.verify_seconds:
            return min(memory.rounds % max(len(signals), 1) + 1, len(signals))
        chain = expected = 1.0
        best = 0.0
        for count, (overlap, of_token) in enumerate(signals):
            # The token in question counts by S alone. Its A depends on its value, and it may yet be dropped.
            with_it = (expected + chain * self.chance(overlap, None, memory)) / self._seconds(count + 2)
            if count and with_it <= best:
                return count
            chain *= self.chance(overlap, of_token, memory)
            expected += chain
            best = expected / self._seconds(count + 2)
        return len(signals)

    def chance(self, overlap: float, of_token: float | None, memory: _Memory) -> float:
        """Return P(accept | S, A), or P(accept | S) where A is None."""
        kept, verified = memory.counts.get(self._bin(overlap, of_token), (0, 0))
        guess = overlap if of_token is None else of_token
        return (kept + self.prior * guess) / (verified + self.prior)

    def learn(self, memory: _Memory, proposed: int, accepted: int, most: int) -> _Memory:
        counts = dict(memory.counts)
        for index, (overlap, of_token) in enumerate(memory.signals[: accepted + 1]):
            for place in (self._bin(overlap, of_token), self._bin(overlap, None)):
                kept, verified = counts.get(place, (0, 0))
                counts[place] = kept + (index < accepted), verified + 1
        return _Memory(counts, rounds=memory.rounds + 1)

    def calibrate(self, times: StageTimes) -> bool:
        if self.verify_seconds or len(times.verify) < 2:
            return False
        slope, first = np.polyfit(list(times.verify), list(times.verify.values()), 1)
        if slope <= 0:  # a longer verification costs nothing here
            slope, first = 0.0, np.mean(list(times.verify.values()))
        self.verify_seconds = [float(first + slope), float(first + 2 * slope)]
        self.draft_seconds = times.drafting
        return True

    def _bin(self, overlap: float, of_token: float | None) -> Bin:
        first, second = (
            None if value is None else min(int(value * self.bins), self.bins - 1) for value in (overlap, of_token)
        )
        assert first is not None
        return first, second

    def _seconds(self, tokens: int) -> float:
        """Return the seconds of a round that verifies `tokens` tokens, the decided one included."""
        known = self.verify_seconds
        beyond = max(tokens - len(known), 0) * max(known[-1] - known[-2], 0.0)
        return self.draft_seconds + known[min(tokens, len(known)) - 1] + beyond
