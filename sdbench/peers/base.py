"""Define a peer: a decoder that wraps the decoding loop of another library or server.

A peer gets the same weights, prompts, threads, lengths and stop rule as every other arm. A peer has no border between prefill and
decoding: assisted generation drafts before it has read the prompt. So sdbench times a peer end to end, from the prompt to the
last token. In a comparison with a peer, the other arm is timed end to end too. The trace holds no steps of a peer.
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
    """Wrap another library or server as a decoder.

    one_row: whether the peer decodes one sequence at a time. In the sequences of a peer, the prefill seconds are 0 and
    decode_seconds is the total time. target_calls also counts the forward over the prompt.
    """

    one_row = False
    lossless = True
    applies_rules = False  # whether the peer applies the rules of the target's generation config
    greedy_only = False  # whether the peer's sampling was not compared with the target's law
    float32_cpu = False  # whether its models must be in float32 on the CPU
    full_attention = False  # whether its models must have layers of full attention only
    one_width = False  # whether the embeddings of its models must have the same number of rows

    def __init__(self, models: list[LanguageModel]) -> None:
        self.models = models

    @property
    def title(self) -> str:
        """Return the name that messages use."""
        return type(self).__name__

    def check(self, rows: int, sampling: Sampling, stop_strings: Sequence[str]) -> None:
        """Refuse settings that the peer cannot serve, before any work. Errors: InputError."""
        if rows > 1 and self.one_row:
            raise InputError(f"{self.title} decodes one sequence at a time; set batch_size=1 (it is {rows}).")
        if self.greedy_only and not sampling.greedy:
            raise InputError(
                f"{self.title} was compared with its target's law in greedy decoding only; set sampling.temperature=0, or leave it "
                "out."
            )

    def open(self, rows: int, slots: int) -> None:
        """Do slow preparation outside the timed part, for `rows` sequences of at most `slots` tokens."""
        return None

    def close(self) -> None:
        """Free what `open` prepared, after the last sequence."""
        return None

    def max_lookahead(self) -> int:
        """Return the largest number of tokens that the cache holds after the decided ones."""
        return 1

    def calibrate(self, trace: Trace) -> bool:
        """Return False: a peer derives no setting from measured times."""
        return False

    def begin_pass(self, finished: Iterable[tuple[Sequence[int], Sequence[int]]] = ()) -> None:
        """Do nothing: a peer drafts from no earlier sequence."""
        return None

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
        """Decode `rows` sequences at a time, group by group. The peer makes its own random choices; it gets the seed."""
        requests, kept = list(requests), trace or Trace()
        self.check(rows, sampling, ())
        if choices is not None:
            raise InputError(f"{self.title} makes its own choices: it cannot be enumerated.")
        for start in range(0, len(requests), rows):
            group = requests[start : start + rows]
            kept.sequence, kept.sequence_round = list(range(start, start + len(group))), [0] * len(group)
            yield from self._decode(group, sampling, stop, max_new_tokens, seed, kept)
        if trace is None:
            kept.close()  # this reads a server's counters, so that these requests do not count for the next trace

    @abstractmethod
    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        """Decode these sequences together, and write their known rounds into the trace."""


class Growing:
    """Collect a sequence that arrives in pieces.

    The stop rule cuts it. The first and the last token get time stamps, in seconds since the start.
    """

    def __init__(self, request: Request, state: StopState, max_new_tokens: int) -> None:
        self.finished = Finished(request, [])
        self.pieces: list[int] = []  # number of tokens of each piece, before the cut
        self._state, self._room = state, max_new_tokens
        self._begun = perf_counter()

    @property
    def done(self) -> bool:
        return bool(self.finished.reason)

    def push(self, tokens: list[int]) -> bool:
        """Append the next tokens, and return whether the sequence has ended."""
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
        """Write the rounds into the trace, and return the sequence.

        Each piece counts as one target forward. proposed: drafted tokens of each piece (None: no drafts).
        """
        emitted = 0
        for number, size in enumerate(self.pieces):
            drafted = proposed[number] if proposed is not None else 0
            left = min(size, len(self.finished.tokens) - emitted)
            trace.sequence_round[row] = number
            trace.verified(row, edge, 0, drafted, min(size - 1, drafted), left)
            emitted += left
        self.finished.target_calls = len(self.pieces)
        return self.finished
