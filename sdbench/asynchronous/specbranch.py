"""SpecBranch (2506.01979): draft until the draft is unsure, and fork into the likely tokens there while the target verifies.

The first place at which the draft is unsure is the branch point. The target verifies the tokens before it. Meanwhile the server
drafts behind the k most likely tokens at the branch point:

    k = max(1, floor(k_max (1 - q))),   q: the probability of the draft's most likely token there.

If the target keeps all tokens before the branch point and then chooses one of the k tokens, the branch behind it is the next
draft. So SpecBranch is a speculation cache whose drafts end at the branch point and whose whole fan-out lies there.

A classifier (H-RAD) may say where to look, before the draft begins. It reads hidden states of the target behind the last token
that it has read, and the embedding of the newest token. It expects that no token, some or all of the draft will be kept. The
branch point is then before the draft, where the draft is unsure, or behind the whole draft. Without a classifier the confidence
alone decides, as in the paper's own ablation. The classifier sees decided tokens alone, so it changes no law. `sdbench train
recipe=branch_classifier` makes one.

A place is unsure if its most likely token has a probability below epsilon. The draft then ends before a token is drawn. The
paper states the test for the drawn token. Above temperature 0 that would drop tokens because of their values, and bias the
output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.asynchronous.branch_network import ALL, NONE, SOME, branch_network_files, load_branch_network
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.drafter import SSDDrafter
from sdbench.asynchronous.protocol import Outcome, Speculation
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState


class AtBranchPoint:
    """Give the whole fan-out to the end of a draft. most: the largest number of branches."""

    def __init__(self, most: int) -> None:
        validate.whole("proposer.branches", most, 1)
        self.most = most

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        return *(0,) * length, min(self.most, vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class SpecBranchServer(SpeculationServer):
    """Draft up to the branch point, and behind the likely tokens there.

    fan_out: the branches at the branch point. epsilon: the draft is unsure below this probability, where the verifier expects that
    some tokens of the draft are kept or says nothing.
    """

    def __init__(self, model: LanguageModel, fan_out: AtBranchPoint, epsilon: float) -> None:
        super().__init__(model, fan_out)
        self.epsilon = epsilon

    def serve(self, outcome: Outcome) -> Speculation:
        speculation = super().serve(outcome)
        least = {NONE: 2.0, ALL: 0.0}  # no probability is as large; every one is
        asked = [least.get(one, self.epsilon) for one in outcome.signal or [SOME] * self.state.rows]
        wanted = torch.tensor(asked, device=speculation.logits.device)[:, None]
        sure = (confidence(speculation.logits) >= wanted).long().cumprod(-1).sum(-1).tolist()
        speculation.length = self._drafted = list(map(min, speculation.length, sure))
        return speculation

    def _fan_outs(self, glue: Float[Tensor, "B K1 V"]) -> list[tuple[int, ...]]:
        rows = torch.arange(len(glue), device=glue.device), torch.tensor(self._drafted, device=glue.device)
        sure, widest = confidence(glue[rows]).tolist(), super()._fan_outs(glue)
        return [
            (*counts[:-1], max(1, int(counts[-1] * (1 - q)))) if counts else ()
            for counts, q in zip(widest, sure, strict=True)
        ]


class SpecBranchDrafter(SSDDrafter):
    """Draft by SpecBranch (2506.01979). The arguments of the server's process are those of `AsyncDrafter`.

    branches: k_max, the most branches at a branch point. epsilon: the draft is unsure below this probability, in [0, 1].
    classifier: the folder of a trained network, or `pkg://PACKAGE/FOLDER`; None: the confidence alone decides. verifier: the model
    whose hidden states the network reads. Raises: InputError.
    """

    def __init__(
        self,
        model: LanguageModel,
        branches: int = 3,
        epsilon: float = 0.4,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
        classifier: str | None = None,
        verifier: LanguageModel | None = None,
    ) -> None:
        self.at_point = AtBranchPoint(branches)
        super().__init__(model, self.at_point, None, None, process, timeout_seconds, on_fault, core, threads)
        self.epsilon = validate.number("proposer.epsilon", epsilon, 0, 1)
        if (classifier is None) != (verifier is None):
            raise InputError("proposer.classifier reads the verifier: give proposer.verifier with it, such as target.")
        self.network = None if classifier is None else load_branch_network(classifier)
        self.files: list[Path] = [] if classifier is None else branch_network_files(classifier)
        self.verifier: Any = verifier

    @property
    def trained_for(self) -> tuple[str, str, str] | None:
        """The verifier's role, and the identities of the target and the draft of the network; None without one."""
        shape = self.network and self.network.shape
        return None if shape is None else (self.verifier.name, shape.target, shape.draft)

    def open(self, state: DecodeState, length: int) -> None:
        super().open(state, length)
        if self.network is not None:
            self.verifier.tap(self.network.shape.layers)

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return partial(SpecBranchServer, fan_out=self.at_point, epsilon=self.epsilon)

    def _outcome(self, state: DecodeState, key: Key) -> Outcome:
        outcome = super()._outcome(state, key)
        outcome.signal = self._signal(state)
        return outcome

    def _signal(self, state: DecodeState) -> list[int] | None:
        """Return what the network expects of the next draft of each row, from the tokens that the verifier has read."""
        if self.network is None:
            return None
        if (np.array(self.verifier.kv_len) < state.length - 1)[state.active].any():
            raise InputError(
                f"The classifier reads hidden states of {self.verifier.name} behind the last decided token but one, so it cannot "
                f"work below a stage in between: let {self.verifier.name} verify the drafts."
            )
        ends = np.maximum(state.length, 2)
        hidden = self.verifier.hidden(self.network.shape.layers, np.arange(state.rows), ends - 2)
        newest = state.tokens.gather(1, upload(ends[:, None] - 1, state.tokens.device))[:, 0]
        embedded = self.verifier.model.get_input_embeddings()(newest.to(self.verifier.device))
        return self.network.expected(hidden, embedded)


def confidence(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return the probability of the most likely token at temperature 1."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide.amax(-1) - wide.logsumexp(-1)).exp()
