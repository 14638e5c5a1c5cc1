"""Train a draft while it serves, on what the target said about the sequences that it served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sdbench.device import synchronise
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.recurrent import language_model
from sdbench.lm.transformer import Transformer
from sdbench.models.derived import put_weight, shared_copy
from sdbench.training.divergences import compare, divergence
from sdbench.training.network_calls import product_mode
from sdbench.training.optimise import CLIP
from sdbench.training.teacher import TopLaw


@dataclass(frozen=True)
class Observed:
    """A finished sequence with what the target said at some of its positions.

    tokens: prompt and answer. positions: [N], of the tokens that the laws are about. law: the target's, behind the tokens before
    each of them.
    """

    tokens: list[int]
    positions: Int[Tensor, " N"]
    law: TopLaw


class Learner(Protocol):
    """Change a model that serves."""

    @property
    def served(self) -> LanguageModel:
        """Return the model that serves."""
        ...

    def learn(self, observed: Sequence[Observed]) -> float:
        """Change the model. Returns the loss before the change, in the mean over the positions."""
        ...

    def reset(self) -> None:
        """Give the model its first weights again."""
        ...


class OnlineLearner:
    """Train a copy of a draft. Embedding and head are not trained, because a draft may share them with the target.

    model: the draft; its own weights stay as they are, and other arms can use it. learning_rate: of AdamW without weight decay; it
    is constant. loss: a name of `sdbench.training.divergences`. steps: gradient steps of an update, each over all positions.

    Errors: InputError if the weights are quantised.
    """

    def __init__(self, model: Transformer, learning_rate: float, loss: str, steps: int) -> None:
        self._first, self._rate, self._steps = dict(model.model.named_parameters()), learning_rate, steps
        self._divergence = divergence(loss)
        ends = (model.model.get_input_embeddings(), model.model.get_output_embeddings())
        kept = {id(weight) for part in ends if part is not None for weight in part.parameters()}
        self._names = [name for name, weight in self._first.items() if id(weight) not in kept]
        for name in self._names:
            weight = self._first[name].data
            if type(weight) is not Tensor or not weight.is_floating_point():
                raise InputError(
                    f"{model.name} learns while it serves, but its weight {name} is quantised: leave its quantization at null."
                )
        serving = _with_own(model.model, self._names, model.dtype)
        self.served = language_model(model.name, serving, execution=model.execution.fresh(), ids=model.ids)
        # Small steps vanish in the rounding of a narrow type, so the weights that are trained are float32.
        self._trained = serving
        if model.dtype != torch.float32:
            self._trained = _with_own(model.model, self._names, torch.float32)
            self._trained.get_output_embeddings().register_forward_pre_hook(_in_own_type)
        can = self.served.ids.proposable.nonzero()[:, 0]
        self._own = torch.full((self.served.vocab,), -1, device=can.device)  # by the target's id, the row of the head
        self._own[can] = torch.arange(len(can), device=can.device)
        self._reach = len(can)
        self.reset()

    @property
    def _weights(self) -> dict[str, nn.Parameter]:
        named = dict(self._trained.named_parameters())
        return {name: named[name] for name in self._names}

    def reset(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._first[name])
            self._publish()
            self._adam = torch.optim.AdamW(self._weights.values(), lr=self._rate, weight_decay=0.0)

    def learn(self, observed: Sequence[Observed]) -> float:
        count, losses = sum(len(one.positions) for one in observed), []
        weights = list(self._weights.values())
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(self._steps):
                total = 0.0
                for one in observed:
                    loss = self._loss(one) / count
                    # Not backward(): embedding and head, which others use, then get no gradient.
                    for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                        weight.grad = slope if weight.grad is None else weight.grad + slope
                    total += float(loss.detach())
                losses.append(total)
                nn.utils.clip_grad_norm_(weights, CLIP)
                self._adam.step()
                self._adam.zero_grad()
            with torch.no_grad():
                self._publish()
        synchronise(self.served.device)
        return losses[0]

    def _loss(self, one: Observed) -> Tensor:
        """Return the sum of the divergences at the positions of a sequence."""
        device = self.served.device
        tokens = torch.tensor(one.tokens, device=device)
        positions = one.positions.to(device)
        with product_mode(self._trained):
            output = self._trained(
                input_ids=self.served.ids.read(tokens)[None, :-1], use_cache=False, logits_to_keep=positions - 1
            )
        law = TopLaw(one.law.ids.to(device), one.law.probs.to(device))
        logits = output.logits[0, :, : self._reach]
        return self._divergence(compare(logits, law, tokens[positions], self._own)).sum()

    def _publish(self) -> None:
        """Write the trained weights into the model that serves."""
        if self._trained is not self.served.model:
            named = dict(self.served.model.named_parameters())
            for name, weight in self._weights.items():
                named[name].copy_(weight)


def _in_own_type(head: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return given[0].to(head.weight.dtype), *given[1:]


def _with_own(model: Any, names: Sequence[str], dtype: torch.dtype) -> Any:
    """Return a copy of a model that has its own weights of these names, and shares all others."""
    made = shared_copy(model)
    named = dict(model.named_parameters())
    for name in names:
        put_weight(made, name, nn.Parameter(named[name].detach().to(dtype, copy=True)))
    return made
