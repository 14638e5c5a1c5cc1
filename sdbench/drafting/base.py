"""The interface of a proposer: whatever proposes tokens to a verifier."""

from __future__ import annotations

from typing import Protocol

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord


class Proposer(Protocol):
    """Propose tokens behind the decided ones, and learn which of them were kept.

    name: the proposer's role in the names of edges. kind: how it chooses its tokens.
    """

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

    def commit(self, length: Lengths) -> None:
        """Keep the first length[b] tokens of row b, and forget everything read or remembered behind them."""
        ...

    def record(self) -> ProposerRecord:
        """Return what the proposer knows of the session's rounds. The trace asks once, when nothing is timed any more."""
        ...

    def close(self) -> None:
        """End the proposer's processes: no more sessions will come."""
        ...


class Local:
    """Provide the methods of a proposer without a session or a process of its own."""

    name: str

    def open(self, state: DecodeState, length: int) -> None:
        return None

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        return None

    def record(self) -> ProposerRecord:
        return ProposerRecord(self.name)

    def close(self) -> None:
        return None
