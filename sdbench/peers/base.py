"""What a peer is: a decoder whose loop is somebody else's.

It is given the same weights, prompts, threads, lengths and stop rule as every other arm. What it lacks is a line between prefill
and decoding: assisted generation drafts before it has read the prompt. So of a peer only the whole time counts, from the prompt to
the last token, and both sides of a comparison with it are taken end to end. Its own clock is all that is recorded: no steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter

from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.keyed_random import Choices
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge, Trace
from sdbench.sampling import Sampling
from sdbench.stopping import Stop, StopState


class Peer(ABC):
    """A decoder that wraps another library or server. one_row: it decodes one sequence at a time.

    Seconds of its sequences: prefill is 0 and decode_seconds is the whole; target_calls counts the forward over the prompt too.
    """

    one_row = False
    lossless = True
    applies_rules = False  # whether it applies the rules of the target's generation config
    one_width = False  # whether its models' embeddings must have the same number of rows

    def __init__(self, models: list[LanguageModel]) -> None:
        self.models = models

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return type(self).__name__

    def check(self, rows: int, sampling: Sampling, stop_strings: Sequence[str]) -> None:
        """Refuse what the peer cannot do, before any work. Errors: InputError."""
        if rows > 1 and self.one_row:
            raise InputError(f"{self.title} decodes one sequence at a time; set batch_size=1 (it is {rows}).")

    def open(self, rows: int, slots: int) -> None:
        """Get ready what takes long and must not be timed: rows of at most `slots` tokens are to come."""
        return None

    def close(self) -> None:
        """Nothing more will be decoded."""
        return None

    def max_lookahead(self) -> int:
        """The most tokens that are held beyond the decided ones."""
        return 1

    def calibrate(self, trace: Trace) -> bool:
        """Return False: nothing is derived from measured times."""
        return False

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
        """Decode `rows` sequences at a time, group by group. Random choices are the peer's own; the seed is passed on."""
        requests, kept = list(requests), trace or Trace()
        self.check(rows, sampling, ())
        if choices is not None:
            raise InputError(f"{self.title} makes its own choices: it cannot be enumerated.")
        for start in range(0, len(requests), rows):
            group = requests[start : start + rows]
            kept.sequence, kept.sequence_round = list(range(start, start + len(group))), [0] * len(group)
            yield from self._decode(group, sampling, stop, max_new_tokens, seed, kept)
        if trace is None:
            kept.close()  # a server's counters are read then: what nobody asked for must not be counted as the next one's

    @abstractmethod
    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        """Decode these sequences at a time; what is known of their rounds goes into the trace."""


class Growing:
    """A sequence that comes piece by piece: cut by the stop rule, the first and the last token stamped (seconds)."""

    def __init__(self, request: Request, state: StopState, max_new_tokens: int) -> None:
        self.finished = Finished(request, [])
        self.pieces: list[int] = []  # tokens that each piece gave, before the cut
        self._state, self._room = state, max_new_tokens
        self._begun = perf_counter()

    @property
    def done(self) -> bool:
        return bool(self.finished.reason)

    def push(self, tokens: list[int]) -> bool:
        """Take the next tokens; whether the sequence has ended."""
        if self.done or not tokens:
            return self.done
        now, finished = perf_counter() - self._begun, self.finished
        if not finished.tokens:
            finished.first_token_seconds = now
        finished.decode_seconds = now
        room = self._room - len(finished.tokens)
        kept = self._state.push(tokens)
        if kept is not None and kept <= room:
            finished.reason = self._state.reason or ""
        elif room <= len(tokens):
            kept, finished.reason = room, "length"
        self.pieces.append(len(tokens))
        finished.tokens += tokens[:kept]
        return self.done

    def recorded(self, row: int, edge: Edge, trace: Trace, proposed: Sequence[int] | None = None) -> Finished:
        """The sequence, its rounds in the trace: every piece was one target forward, over `proposed` drafted tokens."""
        emitted = 0
        for number, size in enumerate(self.pieces):
            drafted = proposed[number] if proposed is not None else 0
            left = min(size, len(self.finished.tokens) - emitted)
            trace.sequence_round[row] = number
            trace.verified(row, edge, 0, drafted, min(size - 1, drafted), left)
            emitted += left
        self.finished.target_calls = len(self.pieces)
        return self.finished
