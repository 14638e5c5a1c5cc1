"""A head: a trained drafter that reads the hidden states of a target, as a language model of its own (EAGLE-3, 2503.01840).

Drafters of chains and trees, batches and programs use it as they use any draft model. What differs is its input. The head reads a
token together with the feature of the token's parent: the token before it in the text or on its path in a tree. A feature is
what the head makes of the target's hidden states there (`fuse`).

- The features stand in the head's own KV cache, one for each slot (`sdbench.lm.kv_cache.FEATURES`).
- Before a step, the head copies the features of decided tokens that the target has read since. The target taps the layers for it.
- A step writes the head's own output state as the feature of each token that it reads. A drafted token is read with that.
- After the verdict, the head forgets all tokens that it has read without the target's features, and reads them again.
- Token 0 has no parent. Published heads do not read it, so no other token sees its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.heads.eagle3 import Eagle3
from sdbench.keyed_random import Key
from sdbench.lm.head_model import HeadModel, ids_of
from sdbench.lm.kv_cache import FEATURES
from sdbench.lm.model import Lengths, Paths
from sdbench.lm.output import StepOutput
from sdbench.lm.programs.execution import Execution
from sdbench.lm.state import DecodeState
from sdbench.lm.transformer import Transformer
from sdbench.models.token_map import SameIds
from sdbench.topology import Topology


def feature_head(name: str, module: Eagle3, target: Transformer, execution: Execution | None = None) -> FeatureHead:
    """Return an EAGLE-3 head as a language model over the tokens of its target. Raises: InputError."""
    module.head_config.check(name, target.config)
    layers = module.head_config.tapped(name, target.layers)
    return FeatureHead(name, module, target, layers, execution, ids_of(module, target))


class FeatureHead(HeadModel):
    """A head over the hidden states of `target`, as a model with a KV cache of its own.

    model: called as a causal language model of `transformers`. It finds the features by `parent_features` of its cache, and
    gives its own by `exchange_features`. Its method `fuse` makes features [S, W] of hidden states [S, layers times W].
    layers: the layers that it reads, numbered as transformers' `hidden_states`. ids: its vocabulary, in the target's ids.

    Raises:
        InputError: the target has no such layers.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        target: Transformer,
        layers: Sequence[int],
        execution: Execution | None = None,
        ids: SameIds | None = None,
    ) -> None:
        super().__init__(name, model, target, layers, execution, ids)
        self.mask_form = replace(self.mask_form, hides_first=True)
        self._solid: list[int] = []  # of each row, how many of its first tokens were read with the target's features

    def allocate(self, rows: int, slots: int) -> None:
        super().allocate(rows, slots)
        self._solid = [0] * rows

    def reset(self, row: int) -> None:
        super().reset(row)
        self._solid[row] = 0

    def forget(self, row: int, first: int) -> None:
        super().forget(row, first)
        self._solid[row] = min(self._solid[row], first)

    def keep(self, lengths: Lengths, paths: Paths | None = None) -> None:
        """Keep the first lengths[b] tokens of each row, as far as they were read with the target's features."""
        for row, length in enumerate(lengths):
            self.forget(row, min(int(length), self._solid[row]))
        self._nodes_read = 0

    def read(
        self, state: DecodeState, stop: Lengths, kind: str, num_logits: int = 1, row: int | None = None
    ) -> StepOutput:
        for ends in self._parents_first(state, stop, row):
            self.read(state, ends, kind, row=row)
        known = self._follow(state, stop, num_logits, row)
        output = super().read(state, stop, kind, num_logits, row)
        self._note(stop, known)
        return output

    def draft(
        self, state: DecodeState, depth: int, kind: str, key: Key, num_logits: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B R V"] | None] | None:
        if self.execution.name == "eager":
            return None
        for ends in self._parents_first(state, state.length):
            self.read(state, ends, kind)
        known = self._follow(state, state.length, num_logits)
        drafted = super().draft(state, depth, kind, key, num_logits)
        if drafted is not None:
            self._note(state.length, known)
        return drafted

    def score(self, state: DecodeState, count: int, trees: Sequence[Topology] | None = None) -> StepOutput:
        raise InputError(
            f"{self.name} is a head, which reads a token behind its parent, so it cannot verify a draft in one step."
        )

    def _follow(self, state: DecodeState, stop: Lengths, num_logits: int, row: int | None = None) -> dict[int, int]:
        """Copy the features of the parents of all tokens that the next step reads, where the target has them.

        A step overwrites the features of the tokens that it reads. So those of tokens that are read again are copied again.

        Returns, for each row that the step reads, the number of its first tokens with features of the target.
        """
        known = self._known(state, row)
        rows: list[int] = []
        slots: list[int] = []
        for one, features in known.items():
            end = int(stop[one])
            parents = range(max(min(self._kv_len[one], end - num_logits) - 1, 0), min(features, end - 1))
            rows += [one] * len(parents)
            slots += parents
        if not rows and FEATURES in self.pool.keys:
            return known
        # Slot 0 of row 0 stands for no parent at all: the cache then gets its layer of features.
        which, where = np.array(rows or [0]), np.array(slots or [0])
        features = self.model.fuse(self.target.hidden(self.tapped, which, where).to(self.device))
        self.pool.place(FEATURES, upload(which, self.device), upload(where, self.device), features)
        return known

    def _known(self, state: DecodeState, row: int | None) -> dict[int, int]:
        """Return, for each active row (or for `row`), the number of its first tokens with features of the target."""
        held = self.target.kv_len
        rows = np.flatnonzero(state.active).tolist() if row is None else [row]
        return {one: min(held[one], int(state.length[one])) for one in rows}

    def _parents_first(self, state: DecodeState, stop: Lengths, row: int | None = None) -> list[np.ndarray]:
        """Return where steps must end so that each token's parent is read before it, if the target has no feature of the parent.

        There are none if the target is the verifier of the head. Below a stage in between, decided tokens run ahead of it.
        """
        ends, first = np.array(stop), np.array(stop)
        for one, features in self._known(state, row).items():
            first[one] = min(max(self._kv_len[one], features) + 1, ends[one])
        late = int((ends - first).max())
        return [np.maximum(ends - back, first) for back in range(late, 0, -1)]

    def _note(self, stop: Lengths, known: dict[int, int]) -> None:
        """Note how many first tokens of each row have now been read with features of the target alone."""
        for row, features in known.items():
            self._solid[row] = max(self._solid[row], min(int(stop[row]), features + 1))
