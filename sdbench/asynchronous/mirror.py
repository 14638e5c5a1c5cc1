"""Mirror-SD (2510.13161): an early exit of the target names its likely next tokens, and the draft grows branches from them.

In the middle of a verification, behind the first layers, the target's head gives the kappa likeliest tokens behind each number of
accepted ones. The target sends them, and goes on with its upper layers. Meanwhile the server drafts behind each of them. If the
verification ends in one of these outcomes, the branch behind it is the next draft. Otherwise the back-up drafts anew.

So Mirror-SD is a speculation cache (SSD) whose fan-out the target chooses. The server reads the speculation while the lower layers
run, and grows the branches while the upper layers run. For the first token behind a prompt it uses the draft's own likely tokens.

The target must run eagerly, because a compiled step has no middle. No layer runs twice; the head runs once more. On a GPU the
host waits for the lower layers before it queues the upper ones. Not here: the draft of the paper drafts several tokens per step
(speculative streaming), which needs training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.asynchronous.backup import Backup
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.drafter import SSDDrafter
from sdbench.asynchronous.fan_out import Uniform
from sdbench.asynchronous.protocol import Caller
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState


class MirrorServer(SpeculationServer):
    """Grow branches from the tokens that the verifier's early exit names. The arguments are those of `SpeculationServer`."""

    def work(self, caller: Caller | None = None) -> None:
        """Read the speculation. The branches wait for the early exit."""
        self._read_ahead()
        self.cache.clear()

    def early_exit(self, likely: list[list[list[int]]], caller: Caller | None = None) -> None:
        """Build the cache for the outcomes that the early exit names."""
        self._grow(caller, likely)
        self.served[-1]["built"] = perf_counter()


class MirrorDrafter(SSDDrafter):
    """Draft by Mirror-SD (2510.13161). The arguments of the server's process are those of `AsyncDrafter`.

    verifier: the model that verifies the drafts. layers: of the verifier, before its early exit.
    width: kappa, the branches behind each number of accepted tokens. backup: drafts where no branch comes true; None is `Neural`.

    Raises:
        InputError: the verifier has no such exit, or its steps are compiled.
    """

    def __init__(
        self,
        model: LanguageModel,
        verifier: LanguageModel,
        layers: int,
        width: int = 2,
        backup: Backup | None = None,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
    ) -> None:
        validate.whole("proposer.layers", layers, 1)
        validate.whole("proposer.width", width, 1)
        if verifier.execution.name != "eager":
            raise InputError(
                f"Mirror-SD reads the middle of a step of {verifier.name}, and a step of the mode "
                f"{verifier.execution.name} has none: set hardware.execution=eager."
            )
        super().__init__(model, Uniform(width), backup, None, process, timeout_seconds, on_fault, core, threads)
        self.exit = verifier.truncated(layers).name  # refuses a number of layers that the verifier has not
        self.verifier, self.layers, self.width = verifier, layers, width

    def receive(self, state: DecodeState, length: int) -> Draft:
        draft = super().receive(state, length)
        if self._server is not None:
            self.verifier.exit_once(self.layers, partial(self._send_early_exit, state.rows))
        return draft

    def _send_early_exit(self, count: int, logits: Float[Tensor, "B R V"], rows: slice) -> None:
        """Send the likely tokens of an early exit, one more than kappa: a drafted token is no outcome where it was rejected."""
        likely: list[list[list[int]]] = [[] for _ in range(count)]
        likely[rows] = torch.topk(logits, min(self.width + 1, logits.shape[-1])).indices.tolist()
        server = self._server
        if server is not None:
            self._guarded(lambda: server.send_early_exit(likely))

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return partial(MirrorServer, fan_out=self.fan_out, backup=self.backup)
