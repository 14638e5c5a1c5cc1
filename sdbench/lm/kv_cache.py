"""The slotted KV cache: keys and values of every layer at numbered slots, preallocated.

A step writes its keys and values into given slots and attends over the first `attend_len` slots. A mask says what each query sees.
So a rejected token costs nothing: its slot is overwritten, or not seen. `transformers` treats this object as its own cache;
attention layers call only `update`.

Hidden states stand beside keys and values, in layers with negative numbers: one head, and values of width 0. So whatever moves,
compiles or captures the layers of the cache carries them too.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.device import upload

FEATURES = -1  # the layer of a head's own cache that holds the feature of the token in each slot
INDEXERS = 1 << 20  # the layer of the cache for the indexer of layer 0; that of layer i stands i behind it


def hidden_layer(layer: int) -> int:
    """Return the number of the cache's layer for the hidden states of `layer`, numbered as transformers' `hidden_states` are."""
    return -1 - layer


class KVCache:
    """Keys and values [B, heads, N + 1, D] of each layer, and the position [B, N + 1] of the token in each slot.

    Slot N is the padding slot: padding queries write there, and nothing reads it. Each layer is allocated when it is first used,
    because only the model knows how many heads it has and how wide they are.
    """

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        self.rows, self.slots = rows, slots
        # The attributes that transformers reads from a cache. `layers` is empty: no layer of the cache is of a special kind.
        self.is_compileable, self.is_initialized, self.is_sliding, self.layers = True, True, [], []
        self.position = torch.arange(slots + 1, device=device).repeat(rows, 1)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._lines: dict[int, Int[Tensor, "B H 1"]] = {}  # by the number of heads
        self.select(slice(None), None, 0, slots)

    @classmethod
    def over(cls, layers: list[Tensor], numbers: tuple[int, ...], at: Int[Tensor, "B T"], attend_len: int) -> KVCache:
        """A view of some layers of a pool, about to be written at `at`: the cache of a compiled or captured step.

        layers: the keys of each layer, then the values. numbers: by which the model calls these layers.
        """
        rows, _, slots, _ = layers[0].shape
        view, half = cls(0, slots - 1, layers[0].device), len(layers) // 2
        view.rows = rows  # without places for their positions, which a step is given
        view.keys = dict(zip(numbers, layers[:half], strict=True))
        view.values = dict(zip(numbers, layers[half:], strict=True))
        view.select(slice(None), at, 0, attend_len)
        return view

    def layers_of(self, numbers: tuple[int, ...]) -> list[Tensor]:
        """Return the keys of these layers, then their values. All these layers have been used."""
        return [side[layer] for side in (self.keys, self.values) for layer in numbers]

    def select(self, rows: slice, at: Int[Tensor, "B T"] | None, first: int, attend_len: int) -> None:
        """Set where the next step writes and reads.

        at: the slots to write; None: every row writes adjacent slots from `first` on. attend_len: the number of slots to read.
        """
        self._rows, self._at, self._first, self._attend_len = rows, at, first, attend_len
        self._written: dict[int, Int[Tensor, " L"]] = {}  # by the number of heads
        self.touched: list[int] = []  # the layers that this step has written, in its order

    def update(
        self, key: Float[Tensor, "B H T D"], value: Float[Tensor, "B H T U"], layer: int, *args, **kwargs
    ) -> tuple[Float[Tensor, "B H E D"], Float[Tensor, "B H E U"]]:
        """Write a layer's new keys and values; return those of the first `attend_len` slots. U: D, or 0 for hidden states."""
        self.touched.append(layer)
        if layer not in self.keys:
            self.keys[layer] = key.new_zeros(self.rows, key.shape[1], self.slots + 1, key.shape[3])
            self.values[layer] = value.new_zeros(self.rows, value.shape[1], self.slots + 1, value.shape[3])
        keys, values = self.keys[layer][self._rows], self.values[layer][self._rows]
        if self._at is None:
            stop = self._first + key.shape[2]
            keys[:, :, self._first : stop] = key
            values[:, :, self._first : stop] = value
        else:
            # As lines of one table. This takes a third of a scatter's time, and layers with the same number of heads share the
            # line numbers. A compiler writes the lines in place; for a scatter it would copy the whole layer twice.
            for held, new in ((keys, key), (values, value)):
                if new.shape[3] == 0:
                    continue
                held.view(-1, held.shape[3]).index_copy_(0, self._lines_at(new.shape[1]), new.reshape(-1, new.shape[3]))
        return keys[:, :, : self._attend_len], values[:, :, : self._attend_len]

    def update_indexer(self, key: Float[Tensor, "B T D"], layer: int, *args, **kwargs) -> Float[Tensor, "B E D"]:
        """Write what a layer's indexer keeps of the new tokens; return that of the first `attend_len` slots."""
        return self.update(key[:, None], key[:, None, :, :0], INDEXERS + layer)[0][:, 0]

    def _lines_at(self, heads: int) -> Int[Tensor, " L"]:
        """The lines that the step writes, in a table of all slots of all heads."""
        assert self._at is not None
        if heads not in self._written:
            self._written[heads] = (self._begin(heads)[: len(self._at)] + self._at[:, None]).flatten()
        return self._written[heads]

    def _begin(self, heads: int) -> Int[Tensor, "B H 1"]:
        """The line at which each head of each row begins, in a table of all slots."""
        if heads not in self._lines:
            every = torch.arange(self.rows * heads, device=self.position.device)
            self._lines[heads] = (every * (self.slots + 1)).view(-1, heads, 1)
        return self._lines[heads]

    def record(self, states: Float[Tensor, "B T D"], number: int) -> None:
        """Write hidden states of the step's tokens into the layer `number`, which is negative."""
        self.update(states[:, None], states[:, None, :, :0], number)

    def place(
        self, number: int, rows: Int[Tensor, " S"], slots: Int[Tensor, " S"], states: Float[Tensor, "S D"]
    ) -> None:
        """Write hidden states into any slots, outside a step. rows, slots: of each state."""
        if number not in self.keys:
            self.keys[number] = states.new_zeros(self.rows, 1, self.slots + 1, states.shape[1])
            self.values[number] = states.new_zeros(self.rows, 1, self.slots + 1, 0)
        self.keys[number][rows, 0, slots] = states

    def states(self, number: int, rows: Int[Tensor, " S"], slots: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
        """Return the hidden states of the layer `number` in any slots. rows, slots: of each state."""
        return self.keys[number][rows, 0, slots]

    def parent_features(self, mask: Float[Tensor, "B 1 T E"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the feature of each query's parent: of the greatest slot below the query's own that its mask shows.

        On a chain this is the slot before its own. In a tree, parents stand before their children. Without such a slot, as for
        the second token of a text whose first one is hidden, it is slot 0.

        tokens: of the queries. No token is negative, so they change nothing. But the features must be read behind the draw of the
        tokens, and only what depends on them is computed behind it in a compiled loop.
        """
        # Of 32 bits: a long prompt needs as many of them as its mask has numbers.
        numbers = torch.arange(mask.shape[-1], device=mask.device, dtype=torch.int32)
        own = self._first + torch.arange(mask.shape[2], device=mask.device)[None] if self._at is None else self._at
        below = (mask[:, 0] == 0) & (numbers < own[:, :, None])
        parents = torch.where(tokens < 0, tokens, torch.where(below, numbers, 0).amax(-1).long())
        held = self.keys[FEATURES][self._rows][:, 0]
        return held.gather(1, parents[:, :, None].expand(-1, -1, held.shape[2]))

    def exchange_features(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Write the own states of a head as the features of the step's tokens, and return them as read back.

        What is computed from the result comes behind the write. A compiled loop needs this: each of its steps has the cache's
        layers as arguments of its own, and must find what the step before it wrote.
        """
        self.record(states, FEATURES)
        return self.recorded(FEATURES, states.shape[1])

    def recorded(self, number: int, count: int) -> Float[Tensor, "B T D"]:
        """Return the hidden states of the layer `number` in the T = `count` slots that this step writes."""
        self.touched.append(number)
        held = self.keys[number][self._rows]
        if self._at is None:
            return held[:, 0, self._first : self._first + count]
        return held.view(-1, held.shape[3]).index_select(0, self._lines_at(1)).view(*self._at.shape, -1)

    def move(
        self,
        rows: list[int],
        source: list[list[int]],
        target: list[int],
        layers: tuple[int, ...],
        positions: bool = True,
    ) -> None:
        """Copy slots within each r of `rows`: the slots source[r], in this order, to target[r], target[r] + 1, ...

        The slots may overlap. layers: the numbers of the layers to copy. positions: copy the positions of the tokens too. Only
        sliding windows need them.
        """
        parts = self.layers_of(layers)
        if positions:
            parts.append(self.position[:, None, :, None])
        if self.rows == 1:
            (slots,), (first,), device = source, target, self.position.device
            count, begin = len(slots), slots[0]
            stride = slots[1] - begin if count > 1 else 1
            even = stride > 0 and slots == list(range(begin, begin + count * stride, stride))
            apart = first + count <= min(slots)
            where = None if even else upload(np.array(slots), device)
            for held in parts:
                if where is None:
                    moved = held[:, :, begin : begin + (count - 1) * stride + 1 : stride]
                    moved = moved if apart else moved.clone()
                else:
                    moved = held.index_select(2, where)
                held.narrow(2, first, count).copy_(moved)
            return
        count, device = max(map(len, source)), self.position.device
        which = upload(np.array(rows), device)[:, None]
        goal = np.array(target)[:, None] + np.arange(count)
        # A row with fewer slots copies the slots behind them onto themselves.
        begin = np.array([[*slots, *line[len(slots) :]] for slots, line in zip(source, goal.tolist(), strict=True)])
        old, new = upload(begin, device), upload(goal, device)
        for held in parts:
            held[which, :, new] = held[which, :, old]

    @property
    def bytes(self) -> int:
        """The size of the keys and values of the layers that have been used, in bytes."""
        held = [t for side in (self.keys, self.values) for number, t in side.items() if number >= 0]
        return sum(t.numel() * t.element_size() for t in held)

    @property
    def hidden_bytes(self) -> int:
        """The size of the hidden states, in bytes."""
        return sum(t.numel() * t.element_size() for number, t in self.keys.items() if number < 0)

    # The rest is what `transformers` asks a cache.

    def get_seq_length(self, *args) -> int:
        return 0

    def get_mask_sizes(self, *args) -> tuple[int, int]:
        return self._attend_len, 0

    def get_max_cache_shape(self, *args) -> int:
        return self.slots
