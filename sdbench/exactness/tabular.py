"""Tabular language models: a table of next-token distributions, one for every context.

They are small enough that their law can be enumerated. A tabular model sees its context only through slots and mask, as a real
model does. Each query collects the tokens of the slots that it sees, in the order of their positions, and looks up this context.
So a proof with tabular models also covers the use of slots and masks.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.lm.model import LanguageModel
from sdbench.lm.output import StepOutput
from sdbench.lm.programs.execution import Execution


class TabularModel(LanguageModel):
    """Random next-token tables over V tokens, drawn from (seed, context).

    sharpness: the standard deviation of the logits.
    """

    def __init__(self, name: str, vocab: int, seed: int, sharpness: float = 1.5) -> None:
        super().__init__(name, vocab, torch.device("cpu"), Execution())
        self.seed, self.sharpness = seed, sharpness
        self.tables: dict[tuple[int, ...], Tensor] = {}

    def table(self, context: tuple[int, ...]) -> Float[Tensor, " V"]:
        """Return the distribution of the token behind `context`, in float64."""
        if context not in self.tables:
            number = self.seed
            for token in context:
                number = number * 31 + token + 1
            generator = torch.Generator().manual_seed(number % 2**31)
            noise = torch.randn(self.vocab, generator=generator, dtype=torch.float64)
            self.tables[context] = torch.softmax(self.sharpness * noise, 0)
        return self.tables[context]

    @property
    def max_positions(self) -> int:
        return 1 << 20

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    @property
    def bytes(self) -> int:
        return 0

    def allocate(self, rows: int, slots: int) -> None:
        self._allocated(rows, slots)
        self.held = torch.full((rows, slots + 1), -1)
        self.position = torch.full((rows, slots + 1), -1)

    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        for held in (self.held, self.position):
            for row, slots, first in zip(rows, source, target, strict=True):
                held[row, first : first + len(slots)] = held[row, slots].clone()

    def truncated(self, layers: int) -> TabularModel:
        return TabularModel(f"{self.name}[{layers}]", self.vocab, self.seed + 1000 * layers, self.sharpness)

    def step(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None = None,
        num_logits: int | Int[Tensor, "B R"] = 1,
        rows: slice = slice(None),
        attend_len: int | None = None,
    ) -> StepOutput:
        stop = self.slots if attend_len is None else attend_len
        if slots is None:
            slots = torch.arange(stop - tokens.shape[1], stop).expand(len(tokens), -1)
        self.held[rows].scatter_(1, slots, tokens)
        self.position[rows].scatter_(1, slots, positions)
        wanted = num_logits
        if isinstance(wanted, int):
            wanted = torch.arange(tokens.shape[1] - wanted, tokens.shape[1]).expand(len(tokens), -1)
        logits = torch.empty(*wanted.shape, self.vocab, dtype=torch.float64)
        asked, self._exit = self._exit, None
        exits, early = self.truncated(asked[0] if asked else 1), torch.empty_like(logits)
        held, position = self.held[rows].tolist(), self.position[rows].tolist()  # lists: the tensors are tiny
        for row, queries in enumerate(wanted.tolist()):
            for query, at in enumerate(queries):
                last = int(positions[row, at])  # beyond the slots where a row is inactive
                seen = (
                    [slot <= last for slot in range(self.slots + 1)] if mask is None else mask[row, at, :stop].tolist()
                )
                visible = sorted(itertools.compress(zip(position[row], held[row], strict=True), seen))
                context = tuple(token for _, token in visible)
                logits[row, query] = self.table(context).log()
                if asked:
                    early[row, query] = exits.table(context).log()
        if asked:
            asked[1](early, rows)
        return StepOutput(logits)


def sequence_law(model: TabularModel, prompt: tuple[int, ...], length: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every continuation of `length` tokens under the model."""
    law = {(): 1.0}
    for _ in range(length):
        law = {
            (*tokens, token): weight * float(model.table((*prompt, *tokens))[token])
            for tokens, weight in law.items()
            for token in range(model.vocab)
        }
    return law
