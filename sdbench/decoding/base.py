"""The interface of a decoder: prompts in, finished sequences out, each with its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sdbench.keyed_random import Choices
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import Stop, StopState


@dataclass(frozen=True)
class Request:
    """Name a prompt to decode. name and repeat, with the seed, name the random stream of the sequence."""

    tokens: list[int]
    name: str
    repeat: int = 0


@dataclass
class Finished:
    """Hold a finished sequence. Seconds are wall-clock.

    tokens: the emitted ids, with the stopping one. reason: eos, stop or length.
    first_token_seconds: to the first token. prefill_seconds: all prefill of this sequence.
    decode_seconds: from the end of prefill to the last token, without the prefill of other rows.
    target_calls: target forwards after prefill.
    """

    request: Request
    tokens: list[int]
    reason: str = ""
    first_token_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    target_calls: int = 0


class Decoder(Protocol):
    """Decode prompts with one method."""

    @property
    def lossless(self) -> bool:
        """Say whether the output has exactly the target's law."""
        ...

    @property
    def models(self) -> list[LanguageModel]:
        """Return the models that the method steps, the target first."""
        ...

    def close(self) -> None:
        """End the method's processes: nothing more will be decoded."""
        ...

    def max_lookahead(self) -> int:
        """Return the most drafted tokens that the state holds behind the decided ones."""
        ...

    def calibrate(self, trace: Trace) -> bool:
        """Set what the method derives from measured times. Return whether anything changed; then warm up again.

        trace: of a warm-up, closed.
        """
        ...

    def begin_pass(self, finished: Iterable[tuple[Sequence[int], Sequence[int]]] = ()) -> None:
        """Begin a pass over the prompts: forget what earlier sequences taught.

        finished: prompt and answer of each sequence of the pass that is decoded already, in order.
        """
        ...

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
        """Decode `rows` sequences at a time. A finished one makes room for the next request."""
        ...


def slots_needed(decoder: Decoder, prompt_tokens: int, new_tokens: int) -> int:
    """Return the number of slots that a sequence needs in the token buffer and in every cache: prompt, new and drafted tokens."""
    return prompt_tokens + new_tokens + decoder.max_lookahead()


@dataclass
class Row:
    """Hold what the decoder keeps on the host of a sequence being decoded."""

    finished: Finished
    stop: StopState
    stream: int
    round: int = 0
    decoding_since: float = 0.0
    prefill_before: float = 0.0
