"""Draft with a model that learns while it serves: online speculative decoding (OSD, 2310.07177; github LiuXiaoxuanPKU/OSD).

The verifier's laws come for free: it computes them to test the draft. A buffer keeps the laws at the positions where it rejected a
token, or at all positions. After every I finished sequences the draft takes gradient steps on the buffer, and the next prompts are
served by the new weights. The update runs between two rounds, and its time is part of the block.

The method is lossless: the rule tests a token against the law that it was drawn from, whatever the weights are by then. In a batch
the rows that are not finished keep the keys and values of the old weights. So their law is that of neither model, and still the one
that their tokens are drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.model import ModelDrafter
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord, RoundNote
from sdbench.lm.transformer import Transformer
from sdbench.training.divergences import divergence as divergence_named
from sdbench.training.online import Learner, Observed, OnlineLearner
from sdbench.training.teacher import TopLaw

POSITIONS = ("rejected", "all")


@dataclass(frozen=True)
class _Law:
    """What the verifier said about the token at a position. ids, probs: [k], its most likely tokens there."""

    position: int
    ids: Int[Tensor, " k"]
    probs: Float[Tensor, " k"]


@dataclass(frozen=True)
class _Waiting:
    """A draft that waits for its verdict. length: the decided tokens of each row before it. logits: the verifier's own."""

    draft: Draft
    active: list[bool]
    length: list[int]
    logits: Float[Tensor, "B N1 V"]


class OnlineDrafter(ModelDrafter):
    """Draw tokens from a model that learns from each finished sequence.

    model: stays as it is; the drafter has a copy of its weights, but for embedding and head, which are not trained.
    every: I, the finished sequences before each update. positions: the buffer keeps the laws at `rejected` tokens, as OSD does, or
    at `all` tokens that the verifier has tested. learning_rate, divergence, steps: see `sdbench.training.online.OnlineLearner`.
    top: tokens of a law that are kept. learner: changes the model; None makes an `OnlineLearner`.

    Errors: InputError for another execution mode than eager, and for a model that is a part of another one.
    """

    def __init__(
        self,
        model: LanguageModel,
        every: int = 1,
        positions: str = "rejected",
        learning_rate: float = 1e-4,
        divergence: str = "kl_div",
        steps: int = 1,
        top: int = 64,
        learner: Learner | None = None,
    ) -> None:
        self.every = validate.whole("proposer.every", every, 1)
        self.positions = validate.choice("proposer.positions", positions, POSITIONS)
        self.top = validate.whole("proposer.top", top, 1)
        rate = validate.number("proposer.learning_rate", learning_rate, 0, bounds="(]")
        validate.whole("proposer.steps", steps, 1)
        divergence_named(divergence)
        if model.execution.name != "eager":
            raise InputError(
                f"{model.name} learns while it serves, and a program of the mode '{model.execution.name}' may hold the weights "
                "as they were: set hardware.execution=eager."
            )
        if "[" in model.name:
            raise InputError(
                f"{model.name} is a part of another model, whose weights must not change: name a draft of its own."
            )
        if model.bridge is not None:
            raise InputError(
                f"{model.name} has another tokenizer than the target, so the target's laws cannot teach it."
            )
        if learner is None and isinstance(model, Transformer):
            learner = OnlineLearner(model, rate, divergence, steps)
        self._learner = learner  # None: of a stub, which only checks the knobs
        super().__init__(model if learner is None else learner.served)
        self._updates: list[RoundNote] = []
        self._start()

    def _start(self) -> None:
        """Begin a pass with an empty buffer."""
        self._state: DecodeState | None = None
        self._seen: dict[int, list[_Law]] = {}
        self._waiting: _Waiting | None = None
        self._last: tuple[int, int] | None = None  # the last draft of the session, and a row of it
        self._buffer: list[Observed] = []
        self._finished = 0  # sequences since the last update

    def open(self, state: DecodeState, length: int) -> None:
        super().open(state, length)
        self._state, self._seen, self._waiting, self._last = state, {}, None, None

    def admit(self, state: DecodeState, row: int) -> None:
        self._seen[row] = []
        super().admit(state, row)

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        active = state.active.tolist()
        self._waiting = _Waiting(draft, active, state.length.tolist(), logits)
        if draft.number is not None and True in active:
            self._last = draft.number, active.index(True)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        super().commit(length, paths)
        waiting, self._waiting = self._waiting, None
        for row, laws in self._seen.items():
            if waiting is not None and waiting.active[row]:
                laws += self._laws(waiting, row, int(length[row]) - waiting.length[row])
            while laws and laws[-1].position > length[row]:  # a stage above has cut the text that this law follows
                laws.pop()

    def _laws(self, waiting: _Waiting, row: int, kept: int) -> list[_Law]:
        """Return the laws that are kept of a verdict. kept: the drafted tokens that were kept."""
        first = 0 if self.positions == "all" else kept
        if self.positions == "rejected" and kept >= int(waiting.draft.length[row]):
            return []
        logits = waiting.logits[row, first : kept + 1].float()
        best = logits.topk(min(self.top, logits.shape[-1]), -1)
        probs = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
        begin = waiting.length[row] + first
        return [_Law(begin + n, ids, law) for n, (ids, law) in enumerate(zip(best.indices, probs, strict=True))]

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Add a finished sequence to the buffer, and update the model if an update is due.

        Errors: InputError outside a session: what the verifier said about earlier sequences is in no journal.
        """
        if self._state is None:
            raise InputError(
                f"{self.name} learns while it serves, so its run cannot go on in the middle: start it again with another out."
            )
        self._finished += 1
        row = next((row for row, laws in self._seen.items() if laws and not self._state.active[row]), None)
        tokens = [*prompt, *answer]
        laws = [] if row is None else [law for law in self._seen.pop(row) if law.position < len(tokens)]
        if laws:
            with torch.inference_mode(False):  # what is made here can be differentiated
                ids, probs = torch.stack([law.ids for law in laws]), torch.stack([law.probs for law in laws])
                positions = torch.tensor([law.position for law in laws])
            self._buffer.append(Observed(tokens, positions, TopLaw(ids, probs)))
        if self._finished >= self.every and self._buffer and self._last is not None and self._learner is not None:
            self._update(self._learner, *self._last)

    def _update(self, learner: Learner, draft: int, row: int) -> None:
        """Let the model learn from the buffer. draft, row: where the record notes the update."""
        begun = perf_counter()
        loss = learner.learn(self._buffer)
        count = sum(len(one.positions) for one in self._buffer)
        self._buffer, self._finished = [], 0
        columns = {"update_seconds": perf_counter() - begun, "update_positions": count, "update_loss": loss}
        self._updates.append(RoundNote(draft, row, columns))

    def forget(self) -> None:
        self._start()
        self._updates = []
        if self._learner is not None:
            self._learner.reset()

    def record(self) -> ProposerRecord:
        notes, self._updates = self._updates, []
        return ProposerRecord(self.name, chain(super().record().notes, notes))
