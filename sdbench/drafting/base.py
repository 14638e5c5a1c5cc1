"""What a proposer is: whatever proposes tokens to a verifier."""

from __future__ import annotations

from typing import Protocol

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState


class Proposer(Protocol):
    """Proposes tokens behind the decided ones, and is told what became of them.

    name: its role in the names of edges. kind: what its q is to its tokens, whatever the context.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> ProposalKind: ...

    @property
    def models(self) -> list[LanguageModel]:
        """The models that it steps."""
        ...

    def max_lookahead(self, length: int) -> int:
        """The most tokens that `propose(context, length)` can give (a verified pair overshoots)."""
        ...

    def open(self, context: DecodeState, length: int) -> None:
        """A batch begins in `context`; each proposal will be asked for `length` tokens."""
        ...

    def prompt(self, context: DecodeState, row: int, key: Key) -> None:
        """A prompt has taken a row, and the verifier is about to read it: what can be done meanwhile elsewhere is begun."""
        ...

    def admit(self, context: DecodeState, row: int) -> None:
        """A new sequence has taken a row, its first token decided: read its prompt, forget the old one's memory."""
        ...

    def propose(self, context: DecodeState, length: int, key: Key) -> Draft:
        """About `length` tokens behind the first context.length[b] of each active row, also placed in context.tokens."""
        ...

    def commit(self, length: Lengths) -> None:
        """The first length[b] tokens of row b stand as they were read; whatever was read or remembered behind is void."""
        ...

    def close(self) -> None:
        """No more batches will come: let go of whatever outlives one (processes)."""
        ...


class Local:
    """What proposers without a session or a process of their own have in common."""

    def open(self, context: DecodeState, length: int) -> None:
        return None

    def prompt(self, context: DecodeState, row: int, key: Key) -> None:
        return None

    def close(self) -> None:
        return None
