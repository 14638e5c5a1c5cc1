"""What length policies with a trained network share: its files, its draft, and hidden states if it reads them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.base import Proposer
from sdbench.drafting.lengths.acceptance_network import files_of, load_network
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.drafting.lengths.limited import Limited
from sdbench.drafting.model import ModelDrafter
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored


class _WithHidden(Limited):
    """Give the policy the hidden state from which the draft's law was computed."""

    policy: TrainedPolicy

    def open(self, state: DecodeState, length: int) -> None:
        super().open(state, length)
        self._model: Any = self.proposer.models[0]
        self._model.tap((self._model.layers,))

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        self._last = np.maximum(state.length - 1, 0)  # the slot of the last decided token
        return super().propose(state, length, key)

    def _wish(self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray) -> Bool[Tensor, " B"]:
        hidden = self._model.hidden((self._model.layers,), np.arange(len(self._last)), self._last + depth)
        features = self.policy.network.features(scored, token, depth, hidden)
        return self.policy.judge(features, depth, self._rows.memory)


class TrainedPolicy(LengthPolicy):
    """Stop where a trained network predicts too small an acceptance. It keeps every token that it has looked at.

    weights: the folder of the network. threshold: drafting goes on above it. name: of the policy, for messages.
    Raises: InputError if the folder cannot be used.
    """

    def __init__(self, weights: str, threshold: float, name: str) -> None:
        self.threshold = validate.number("lengths.threshold", threshold, 0, 1)
        self.network = load_network(weights, name)
        self.files: list[Path] = files_of(weights)
        self._hidden = "hidden" in self.network.shape.features
        if self._hidden:
            self.applied_by = _WithHidden

    @property
    def trained_for(self) -> str:
        """Return the identity of the draft that the network was trained for."""
        return self.network.shape.draft

    def check(self, proposer: Proposer) -> None:
        super().check(proposer)
        if self._hidden and type(proposer) is not ModelDrafter:
            raise InputError(
                f"The network of lengths={self.network.shape.policy} reads hidden states, which only a draft model beside the "
                f"verifier gives it: train one without hidden for {proposer.name}."
            )

    @abstractmethod
    def judge(self, features: Float[Tensor, "B F"], depth: int | np.ndarray, memory: list[Any]) -> Bool[Tensor, " B"]:
        """Return the rows that draft on behind a token with these features. The other arguments are those of `go_on`."""

    def go_on(
        self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray, memory: list[Any]
    ) -> Bool[Tensor, " B"]:
        return self.judge(self.network.features(scored, token, depth), depth, memory)
