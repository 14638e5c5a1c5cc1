"""The stages of a model with exit heads (AdaDecode, 2506.03700): each runs the layers between two exits, and no layer runs twice.

The stages share the cache of the whole model. A stage reads every token that it has not read, in one step. It takes the hidden
states of these tokens from the cache, where the stage before it has written them, and writes its own. So a token that left at an
early exit runs through the later layers together with the tokens behind it. The last stage ends in the target's own head: it
verifies what the exits drafted, and runs only the layers behind the last exit.

It can do so if every stage has read all drafted tokens. If the draft ended because it was long enough, no stage has read its last
token. Then the whole model reads the draft from its first layer on (`RestStage.scored`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.errors import InputError
from sdbench.heads.exit_heads import ExitHeads
from sdbench.lm.early_exit import layers_between
from sdbench.lm.output import StepOutput
from sdbench.lm.programs.execution import Execution
from sdbench.lm.state import DecodeState
from sdbench.lm.transformer import Transformer, TruncatedTransformer

_TOLERANCE = {torch.float32: 0.01, torch.float64: 0.01, torch.bfloat16: 0.25, torch.float16: 0.1}  # share of the spread


class ExitStage(TruncatedTransformer):
    """The layers `start` to `stop` - 1 of a whole model, and a head behind them."""

    def __init__(self, name: str, whole: Transformer, start: int, stop: int, head: nn.Module | None) -> None:
        model = layers_between(whole.model, start, stop, whole.layers, head)
        Transformer.__init__(self, name, model, execution=whole.execution.fresh(), ids=whole.ids)
        self._whole, self.layers, self._verifies = whole, stop, False

    def bare(self) -> Self:
        raise InputError(
            f"{self.name} runs layers of {self._whole.name} over its cache, so it drafts in the process of {self._whole.name} "
            "only: take the arm adadecode."
        )

    def truncated(self, layers: int) -> TruncatedTransformer:
        raise InputError(
            f"{self.name} has exits of its own: take {self._whole.name}[{layers}] for an exit of its target."
        )

    def _follow(self, state: DecodeState) -> None:
        self._adopt(state)


class RestStage(ExitStage):
    """The layers behind the last exit, and the head of the whole model. last: the stage before."""

    def __init__(self, name: str, whole: Transformer, last: ExitStage) -> None:
        super().__init__(name, whole, last.layers, whole.layers, None)
        self._last = last

    def begin(self) -> None:
        """Verify in place of the whole model where this is possible, until the next `allocate`."""
        self._whole.verify_behind(self)

    def scored(self, state: DecodeState, count: int) -> StepOutput | None:
        """Return what the whole model says of `count` drafted tokens of each row; None if it must read them itself."""
        rows = zip(state.length.tolist(), self._last.kv_len, self._whole.kv_len, state.active.tolist(), strict=True)
        if not all(not on or (whole == length - 1 and read >= length + count) for length, read, whole, on in rows):
            return None
        self._kv_len = list(self._whole.kv_len)
        stop = [length + count for length in state.length.tolist()]
        output = self.read(state, stop, "verify", num_logits=count + 1)
        self._whole._kv_len = list(self._kv_len)
        return output


class ExitCascade(ExitStage):
    """The stage before the first exit, as the model of the exit heads' role. It holds the other stages.

    stages: those that end in an exit, this one first. rest: the layers behind the last exit.
    """

    def __init__(self, name: str, heads: ExitHeads, whole: Transformer) -> None:
        heads.config.check(name, whole.config)
        own, layers = whole.model.get_output_embeddings(), heads.config.layers
        self.heads = heads.to(whole.device, whole.dtype)
        super().__init__(name, whole, 0, layers[0], heads.head(0, own))
        later = [
            ExitStage(f"{name}[{stop}]", whole, start, stop, heads.head(place, own))
            for place, (start, stop) in enumerate(pairwise(layers), 1)
        ]
        self.stages: list[ExitStage] = [self, *later]
        self.rest = RestStage(f"{name}[rest]", whole, self.stages[-1])

    @property
    def bytes(self) -> int:
        """The size of the exit heads, and of the hidden states in the cache, in bytes."""
        return sum(w.numel() * w.element_size() for w in self.heads.parameters()) + self._whole.pool.hidden_bytes

    def check_stages(self) -> None:
        """Refuse a model whose layers, run stage by stage, give other logits than its own forward. Raises: InputError."""
        tokens = (torch.arange(6, device=self.device) * 7919 + 5).remainder(min(self.vocab, self.ids.width))[None]
        whole, order = self._whole, (*self.stages, self.rest)
        modes = [(model, model.execution) for model in (whole, *order)]
        try:
            for model, _ in modes:
                model.execution = Execution()  # no program is made for these shapes
                model.allocate(1, 7)
            expected, found = self._both_ways(tokens)
        finally:
            for model, mode in modes:
                model.execution = mode
            whole.allocate(0, 0)
        known = self.ids.proposable.to(expected.device)
        deviation = float((expected[known] - found[known]).abs().max() / expected[known].std().clamp(min=1e-6))
        if not deviation <= _TOLERANCE.get(self.dtype, 0.25):
            raise InputError(
                f"{whole.name}: the layers of {type(whole.model).__name__} give other logits stage by stage than together (they "
                f"deviate by {deviation:.2g} of their spread), so it cannot have the exit heads {self.name}."
            )

    @torch.inference_mode()
    def _both_ways(self, tokens: Int[Tensor, "1 T"]) -> tuple[Float[Tensor, " V"], Float[Tensor, " V"]]:
        """Return the logits behind some tokens by the whole model, and by the stages one after the other in two steps."""
        whole, count = self._whole, tokens.shape[1]
        at = torch.arange(count, device=self.device)[None]
        expected = whole.step(tokens, at, None, attend_len=count).logits[0, -1]
        for held in (*whole.pool.keys.values(), *whole.pool.values.values()):
            held.zero_()
        found = expected
        for first, stop in ((0, count - 2), (count - 2, count)):
            for stage in (*self.stages, self.rest):
                found = stage.step(tokens[:, first:stop], at[:, first:stop], None, attend_len=stop).logits[0, -1]
        return expected, found


def exit_cascade(name: str, heads: ExitHeads, whole: Transformer) -> ExitCascade:
    """Return exit heads as a language model over the tokens of their target. Raises: InputError."""
    cascade = ExitCascade(name, heads, whole)
    cascade.check_stages()
    return cascade
