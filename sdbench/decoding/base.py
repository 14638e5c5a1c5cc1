"""What a decoder is: prompts in, finished sequences out, each with what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sdbench.keyed_random import Choices
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import Stop, StopState


@dataclass(frozen=True)
class Request:
    """A prompt to decode. name, repeat: with the seed they name the random stream of the sequence."""

    tokens: list[int]
    name: str
    repeat: int = 0


@dataclass
class Finished:
    """A finished sequence.

    tokens: emitted ids, the stopping one included. reason: eos, stop or length. Seconds are wall-clock: first_token_seconds
    to the first token; prefill_seconds all prefill of this sequence; decode_seconds from there to the last token, without
    the prefill of other rows. target_calls: target forwards after prefill.
    """

    request: Request
    tokens: list[int]
    reason: str = ""
    first_token_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    target_calls: int = 0


class Decoder(Protocol):
    """Decodes prompts with one method."""

    @property
    def lossless(self) -> bool:
        """Whether its output has exactly the target's law."""
        ...

    @property
    def models(self) -> list[LanguageModel]:
        """The models that it steps, the target first."""
        ...

    def close(self) -> None:
        """Nothing more will be decoded: end whatever processes it has."""
        ...

    def max_lookahead(self) -> int:
        """The most tokens that are held, tentatively, beyond the decided ones."""
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
        """Decode `rows` sequences at a time; a finished one makes room for the next request."""
        ...


@dataclass
class Row:
    """A sequence being decoded: what the decoder keeps of it on the host."""

    finished: Finished
    stop: StopState
    stream: int
    round: int = 0
    decoding_since: float = 0.0
    prefill_before: float = 0.0
