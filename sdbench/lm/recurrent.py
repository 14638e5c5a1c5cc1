"""A `transformers` model with recurrent layers (linear attention, Mamba, short convolutions), which may be mixed with attention.

A recurrent layer keeps one state per row, not a slot for each token. So a rejected token cannot be overwritten. Here the state at
the start of each step is kept. To forget tokens, a row takes back the last state before them, and the next step reads the kept
tokens behind that state again. Before a verification, kept tokens that were not read are read in a step of their own (`reread` in
the trace). So a state always stands right before the tokens that a verdict may reject, and a step reads no token twice.

The layers ask this cache for states and give it new ones, as they do with transformers' own cache. Some of them change a state in
place instead. So a step gets copies of the states, and those that were kept stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.errors import InputError
from sdbench.lm.kv_cache import KVCache
from sdbench.lm.model import Exit, Lengths, Paths
from sdbench.lm.output import StepOutput
from sdbench.lm.state import DecodeState
from sdbench.lm.transformer import Transformer
from sdbench.models.skeleton import KEPT_STATES, is_recurrent

_States = dict[
    tuple[str, int, int], Tensor
]  # [1, ...] by the kind of state, the layer, and the number of the state in it


class MixedCache(KVCache):
    """Keys and values in slots, and the recurrent states of each row.

    row_states: by row, of the tokens that the row has read. chosen: the rows of the step.
    """

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        super().__init__(rows, slots, device)
        self.row_states: list[_States] = [{} for _ in range(rows)]
        self.chosen: Sequence[int] = range(rows)

    def begin(self, rows: Sequence[int]) -> None:
        """Set the rows of the next step. Whoever holds their states now keeps these."""
        self.chosen = rows
        for row in rows:
            self.row_states[row] = dict(self.row_states[row])

    # What `transformers` asks a cache of recurrent layers.

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._held("conv", layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._held("recurrent", layer_idx, state_idx)

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **named: Any,
    ) -> Tensor:
        """Keep the last columns [b, C, W] of a convolution's input. Returns the input with the columns before it."""
        before = self._held("conv", layer_idx, state_idx)
        width = conv_kernel_size or (conv_states if before is None else before).shape[-1]
        whole = conv_states if before is None else torch.cat([before, conv_states], -1)
        kept = whole[..., -width:]
        self._keep("conv", layer_idx, state_idx, pad(kept, (width - kept.shape[-1], 0)))
        return whole

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **named: Any
    ) -> Tensor:
        self._keep("recurrent", layer_idx, state_idx, recurrent_states)
        return recurrent_states

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return any(self.row_states[row] for row in self.chosen)

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return True: then no layer changes a state in place."""
        return True

    def _held(self, kind: str, layer: int, number: int) -> Tensor | None:
        held = [self.row_states[row].get((kind, layer, number)) for row in self.chosen]
        found = [one for one in held if one is not None]
        if len(found) < len(held):
            return None
        copied = torch.cat(found)
        self._keep(kind, layer, number, copied)
        return copied

    def _keep(self, kind: str, layer: int, number: int, states: Tensor) -> None:
        for place, row in enumerate(self.chosen):
            self.row_states[row][kind, layer, number] = states[place : place + 1]

    @property
    def bytes(self) -> int:
        return super().bytes + sum(one.numel() * one.element_size() for row in self.row_states for one in row.values())


class RecurrentTransformer(Transformer):
    """A model with recurrent layers. It reads chains in eager mode; token trees and early exits are refused.

    Rows that read different numbers of tokens are read one after the other, because a recurrent layer cannot skip padding.
    """

    pool: MixedCache

    def allocate(self, rows: int, slots: int) -> None:
        super().allocate(rows, slots)
        self._read = [0] * rows  # tokens in the state of each row
        self._states: list[list[tuple[int, _States]]] = [[] for _ in range(rows)]
        self.pool.row_states = [{} for _ in range(rows)]

    def _new_pool(self, rows: int, slots: int) -> KVCache:
        return MixedCache(rows, slots, self.device)

    def reset(self, row: int) -> None:
        super().reset(row)
        self.forget(row, 0)

    def forget(self, row: int, first: int) -> None:
        """Forget the tokens of a row from position `first` on, and as many before it as no kept state allows to keep."""
        if first < self._read[row]:
            states = self._states[row]
            while states and states[-1][0] > first:
                states.pop()
            self._read[row], self.pool.row_states[row] = states.pop() if states else (0, {})
        super().forget(row, min(first, self._read[row]))

    def keep(self, lengths: Lengths, paths: Paths | None = None) -> None:
        if paths is not None:
            self._refuse("token trees")
        super().keep(lengths)

    def read(
        self, state: DecodeState, stop: Lengths, kind: str, num_logits: int = 1, row: int | None = None
    ) -> StepOutput:
        going = [row] if row is not None else [number for number, on in enumerate(state.active.tolist()) if on]
        decided = [length - 1 for length in state.length.tolist()]
        for number in going:
            self.forget(number, max(int(stop[number]) - num_logits, 0))
            if self.kv_len[number] < decided[number] < int(stop[number]) - 1:
                super().read(state, decided, "reread", row=number)
        return super().read(state, stop, kind, num_logits, row)

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
        if mask is not None:
            self._refuse("token trees")
        assert isinstance(num_logits, int)
        numbers, width = range(self.rows)[rows], tokens.shape[1]
        padded = slots is not None and slots is not positions
        skipped = (slots == self.slots).sum(1).tolist() if padded else [0] * len(numbers)
        together = not any(skipped) and len({bool(self.pool.row_states[number]) for number in numbers}) == 1
        groups = [range(len(numbers))] if together else [range(n, n + 1) for n in range(len(numbers))]
        logits = None
        for group in groups:
            skip = skipped[group[0]]
            if skip == width:
                continue  # a row that is not active
            part = slice(group[0], group[-1] + 1)
            own = numbers[part]
            places = positions[part, skip:]
            self._begin(own, places)
            found = (
                super()
                .step(
                    tokens[part, skip:],
                    places,
                    None if slots is None else places,
                    None,
                    min(num_logits, width - skip),
                    slice(own[0], own[-1] + 1),
                    attend_len,
                )
                .logits
            )
            if together:
                return StepOutput(found)
            if logits is None:
                logits = found.new_zeros(len(numbers), num_logits, found.shape[-1])
            logits[part, num_logits - found.shape[1] :] = found
        assert logits is not None
        return StepOutput(logits)

    def _begin(self, rows: Sequence[int], positions: Int[Tensor, "B T"]) -> None:
        """Keep the states of some rows before they read tokens."""
        for row, first in zip(rows, positions[:, 0].tolist(), strict=True):
            assert self._read[row] == first, f"row {row} has read {self._read[row]} tokens, and reads on at {first}"
            states = self._states[row]
            states.append((first, self.pool.row_states[row]))
            del states[:-KEPT_STATES]  # if all are too late, the row is read again from its beginning
            self._read[row] = first + positions.shape[1]
        self.pool.begin(rows)

    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        self._refuse("token trees")

    def truncated(self, layers: int) -> NoReturn:
        self._refuse("early exits")

    def exit_once(self, layers: int, receive: Exit) -> None:
        self._refuse("early exits")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.name}: {type(self.model).__name__} has recurrent layers, which cannot run {what}.")


def language_model(name: str, model: Any, *args: Any, **named: Any) -> Transformer:
    """Return a model as a `LanguageModel`. The arguments are those of `Transformer`."""
    kind = RecurrentTransformer if is_recurrent(model.config) else Transformer
    return kind(name, model, *args, **named)
