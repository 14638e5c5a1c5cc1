"""A proposer whose draft length a policy sets. It wraps any proposer of chains, so the decoding loops know no policy.

Some proposers draft token by token. They ask `go_on` after each token, and save the steps behind the end. The drafts of other
proposers are cut when they are finished. Both give the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import put, upload
from sdbench.drafting.base import Proposer
from sdbench.drafting.lengths.base import LengthPolicy, PolicyRows
from sdbench.drafting.lengths.fixed import Fixed
from sdbench.drafting.lengths.times import stage_times
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord, Trace
from sdbench.sampling import Scored


def limited(proposer: Proposer, policy: LengthPolicy | None, length: int, verifier: LanguageModel) -> Proposer:
    """Return the proposer of a stage under the stage's policy. length: K, the most tokens of a draft. Raises: InputError."""
    under = _under(proposer, policy, length)
    if any(model is verifier for model in under.models):
        raise InputError(f"{verifier.name} verifies in this arm, so it can neither draft nor be a companion there.")
    return under


def _under(proposer: Proposer, policy: LengthPolicy | None, length: int) -> Proposer:
    if policy is None or isinstance(policy, Fixed):
        return proposer
    if not isinstance(policy, LengthPolicy):
        raise InputError(f"lengths is a {type(policy).__name__}; it must be a sdbench.drafting.lengths.LengthPolicy.")
    if proposer.trees:
        raise InputError(
            f"{proposer.name} drafts token trees, whose shape is fixed by the proposer's own knobs: leave lengths at fixed."
        )
    policy.check(proposer)
    own: Any = getattr(proposer, "limited", None)
    return own(policy) if own else (policy.applied_by or Limited)(proposer, policy, length)


def calibrated(proposer: Proposer, verifier: str, trace: Trace) -> bool:
    """Give the policies of all stages the times of a warm-up. Return whether any of them changed.

    proposer: of the outermost stage. verifier: its verifier's name. trace: of the warm-up, closed.
    """
    changed = False
    stage: Any = proposer
    while stage is not None:
        policy = getattr(stage, "policy", None)
        times = None if policy is None else stage_times(trace, verifier, {model.name for model in stage.models})
        if policy is not None and times is not None and policy.calibrate(times):
            changed = True
            stage.close()  # a server that runs has the policy as it was
        verifier = stage.name if hasattr(stage, "verifier") else verifier
        stage = getattr(stage, "proposer", None)
    return changed


@dataclass(frozen=True)
class _Asked:
    """A draft that waits for its verdict: the rows that were active, their decided tokens, and the tokens proposed to each."""

    active: list[bool]
    length: list[int]
    proposed: Int[Tensor, " B"]


class Limited:
    """Propose what `proposer` proposes, as far as `policy` says."""

    own_length: int | None = None
    trees = False

    def __init__(self, proposer: Proposer, policy: LengthPolicy, length: int) -> None:
        self.proposer, self.policy, self.draft_length = proposer, policy, length
        self._stops = getattr(proposer, "stops", False)
        self._waiting: _Asked | None = None

    @property
    def name(self) -> str:
        return self.proposer.name

    @property
    def kind(self) -> ProposalKind:
        return self.proposer.kind

    @property
    def models(self) -> list[LanguageModel]:
        return self.proposer.models

    def max_lookahead(self, length: int) -> int:
        return self.proposer.max_lookahead(length)

    def open(self, state: DecodeState, length: int) -> None:
        self._rows, self._waiting = PolicyRows(self.policy, state.rows, length), None
        self.proposer.open(state, length)

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        self.proposer.prompt(state, row, key)

    def admit(self, state: DecodeState, row: int) -> None:
        self._rows.admit(row)
        self.proposer.admit(state, row)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        active = state.active.tolist()
        asked = self._rows.lengths(active)
        self._most = torch.tensor(asked)
        proposer: Any = self.proposer
        if self._stops:
            draft = proposer.propose(state, max(asked), key, go_on=self._go_on)
        else:
            draft = self._cut(proposer.propose(state, max(asked), key))
        draft = self._chosen(state, draft, key)
        self._waiting = _Asked(active, state.length.tolist(), draft.length)
        return draft

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        self.proposer.observe(state, draft, logits)

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.proposer.learn(prompt, answer)

    def forget(self) -> None:
        self.proposer.forget()

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        if self._waiting is not None:  # a stage above may cut the text later: that is no verdict on the draft
            asked, self._waiting = self._waiting, None
            rows = zip(asked.active, asked.length, asked.proposed.tolist(), length, strict=True)
            for row, (on, before, proposed, end) in enumerate(rows):
                if on:
                    self._rows.learn(row, proposed, int(end) - before)
        self.proposer.commit(length, paths)

    def record(self) -> ProposerRecord:
        return self.proposer.record()

    def close(self) -> None:
        self.proposer.close()

    def _go_on(self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray) -> Bool[Tensor, " B"]:
        """Say which rows draft on: those that are not at their length, and where the policy agrees."""
        here = depth if isinstance(depth, int) else upload(depth, token.device)
        on = here + 1 < put(self._most, token.device)
        own = self._wish(scored, token, depth)
        return on if own is None else on & own

    def _wish(self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray) -> Bool[Tensor, " B"] | None:
        return self.policy.go_on(scored, token, depth, self._rows.memory)

    def _cut(self, draft: Draft) -> Draft:
        """Apply `length` and `go_on` to a finished draft."""
        counts = torch.minimum(draft.length, put(self._most, draft.length.device))
        if self.policy.reads_q and draft.q is not None and draft.tokens.shape[1]:
            counts = torch.minimum(counts, self._rows.stopped(draft.tokens, draft.q))
        return replace(draft, length=counts, full=False)

    def _chosen(self, state: DecodeState, draft: Draft, key: Key) -> Draft:
        """Apply `cut`, and remove the columns that no active row verifies."""
        most = self.policy.cut(draft, self._rows.memory) if draft.tokens.shape[1] else None
        counts = draft.length if most is None else torch.minimum(draft.length, most)
        return shortened(draft, counts, state.active)


def shortened(draft: Draft, counts: Int[Tensor, " B"], active: np.ndarray) -> Draft:
    """Return the draft with counts[b] tokens in row b. On the CPU it has no columns that no active row verifies."""
    width = draft.tokens.shape[1]
    if width and counts.device.type == "cpu":  # elsewhere the question would stall the device
        width = max(int(counts[torch.from_numpy(active)].max()), 1)
    q = draft.q if draft.q is None or width == draft.tokens.shape[1] else draft.q[:, :width]
    return replace(draft, tokens=draft.tokens[:, :width], length=counts.clamp(max=width), q=q, full=False)
