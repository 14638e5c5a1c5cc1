"""The interface of a proposer: whatever proposes tokens to a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.base import AcceptanceRule
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord


class Proposer(Protocol):
    """Propose tokens behind the decided ones, and learn which of them were kept.

    name: the proposer's role in the names of edges. kind: how it chooses its tokens.
    own_length: the depth of its drafts, if it does not draft as many tokens as it is asked for. trees: it drafts token trees.
    """

    @property
    def own_length(self) -> int | None: ...

    @property
    def trees(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> ProposalKind: ...

    @property
    def models(self) -> list[LanguageModel]:
        """Return the models that the proposer steps."""
        ...

    def max_lookahead(self, length: int) -> int:
        """Return the most tokens that `propose(state, length, key)` can give. A verified pair may overshoot `length`."""
        ...

    def open(self, state: DecodeState, length: int) -> None:
        """Begin a session. Each proposal will be asked for `length` tokens."""
        ...

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        """Start work elsewhere on a prompt that has taken a row. The verifier reads the prompt next."""
        ...

    def admit(self, state: DecodeState, row: int) -> None:
        """Read the prompt of a new sequence, whose first token is decided, and forget the row's old sequence."""
        ...

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        """Return about `length` tokens behind the first state.length[b] tokens of each active row.

        The proposer leaves `state` as it is: the verifier's loop writes the tokens of the draft there.
        """
        ...

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        """Read the verifier's logits behind the last decided token and behind each token of the last draft.

        They are the verifier's own: no rule of a generation config has changed them. The drafted tokens stand in `state`.
        """
        ...

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        """Keep the first length[b] tokens of row b, and forget everything read or remembered behind them.

        paths: by row, the kept nodes of the draft if it was a tree. They are the last of the kept tokens.
        """
        ...

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Learn from a finished sequence, if the proposer drafts from earlier ones. The answer is cut behind its end."""
        ...

    def forget(self) -> None:
        """Forget all earlier sequences: a new pass over the prompts begins."""
        ...

    def record(self) -> ProposerRecord:
        """Return what the proposer knows of the session's rounds. The trace asks once, when nothing is timed any more."""
        ...

    def close(self) -> None:
        """End the proposer's processes: no more sessions will come."""
        ...


class NeverLearns:
    """Provide the methods of a proposer that learns nothing from the verifier's logits and from earlier sequences."""

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        return None

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        return None

    def forget(self) -> None:
        return None


class Local(NeverLearns):
    """Provide the methods of a proposer without a session or a process of its own.

    stops: it drafts token by token, so `propose` takes `go_on` too and ends the draft of a row where that says so
    (`sdbench.drafting.draft_tokens.GoOn`). matches: it copies behind a match, whose length its drafts state.
    """

    name: str
    trees = False
    stops = False
    matches = False

    @property
    def own_length(self) -> int | None:
        return None

    def open(self, state: DecodeState, length: int) -> None:
        return None

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        return None

    def record(self) -> ProposerRecord:
        return ProposerRecord(self.name)

    def close(self) -> None:
        return None


def check_trees(rule: AcceptanceRule, proposer: Proposer) -> None:
    """Refuse a rule that is defined along a chain, or for siblings drawn in another way, over a proposer of token trees."""
    if proposer.trees and not hasattr(rule, "tree_law"):
        raise InputError(
            f"The rule {type(rule).__name__} is defined along a chain, but {proposer.name} drafts token trees: take a rule with "
            "a test of one token, such as exact, match or typical, or traversal."
        )
    wanted = getattr(rule, "siblings_drawn", None)
    if proposer.trees and wanted is not None and getattr(proposer, "siblings", None) != wanted:
        raise InputError(
            f"The rule {type(rule).__name__} is defined for siblings drawn as '{wanted}', but {proposer.name} draws others: "
            f"set proposer.siblings={wanted}, or take a rule for any siblings, such as exact."
        )
