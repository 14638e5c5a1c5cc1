"""Translate between the token ids of the target and those of a model whose ids, or whose number of ids, differ.

Every model of a family takes and returns the V ids of the target. A map sits in front of the embedding and behind the head. So an
arm, a rule or a compiled program sees one vocabulary only. An id that the model cannot propose has the logit -inf. The softmax
then divides q by the mass of the shared ids, and the exact rule stays lossless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SameIds(nn.Module):
    """The map of a model that shares the target's ids, but may have another number of embedding rows.

    vocab: V, the number of the target's ids. width: the number of rows of the model.
    """

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.vocab, self.width = vocab, width

    def read(self, tokens: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Return the model's own ids of the target's. The last row stands for every id that the model lacks."""
        return tokens if self.width >= self.vocab else tokens.clamp(max=self.width - 1)

    def widen(self, logits: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch V"]:
        """Return logits for exactly V ids: surplus ones are cut off, and lacking ones are -inf."""
        lacking = self.vocab - logits.shape[-1]
        return logits[..., : self.vocab] if lacking <= 0 else pad(logits, (0, lacking), value=-torch.inf)

    @property
    def proposable(self) -> Bool[Tensor, " V"]:
        """Return which of the target's ids the model can propose."""
        return torch.arange(self.vocab) < self.width

    @property
    def record(self) -> list[Any]:
        """Return what a compiled program depends on."""
        return [self.vocab, self.width]


class MappedIds(SameIds):
    """The map of a model that proposes only some ids of the target, and may number them in another way.

    reads: [V] the model's own id for each id of the target. proposes: [R] the ids of the target that the model proposes, ascending.
    rows: [R] the model's own ids of these. The head gives R logits in this order (`keep_head_rows`).
    """

    reads: Tensor
    proposes: Tensor

    def __init__(self, reads: Sequence[int], proposes: Sequence[int], rows: Sequence[int], width: int) -> None:
        super().__init__(len(reads), width)
        self.rows = list(rows)
        self.register_buffer("reads", torch.tensor(reads), persistent=False)
        self.register_buffer("proposes", torch.tensor(proposes), persistent=False)

    def read(self, tokens: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        return self.reads[tokens]

    def widen(self, logits: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch V"]:
        every = logits.new_full((*logits.shape[:-1], self.vocab), -torch.inf)
        return every.index_copy(-1, self.proposes, logits)

    @property
    def proposable(self) -> Bool[Tensor, " V"]:
        return torch.zeros(self.vocab, dtype=torch.bool, device=self.proposes.device).index_fill(0, self.proposes, True)

    @property
    def record(self) -> list[Any]:
        return [self.vocab, self.width, len(self.proposes)]


def keep_head_rows(role: str, model: PreTrainedModel, rows: Sequence[int]) -> None:
    """Replace the head of a model by one that computes only the logits of `rows`, in this order.

    The weight is a copy of these rows, so a step reads R/W of the old head. An embedding that shares its weight stays whole.

    Raises:
        InputError: the head is no plain linear layer.
    """
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or type(head.weight.data) is not Tensor:
        raise InputError(
            f"models.{role}.vocabulary needs a head that is a plain linear layer, and that of {type(model).__name__} is "
            f"{type(head).__name__}: leave models.{role}.vocabulary at null, or take another model."
        )
    index = torch.tensor(list(rows), device=head.weight.device)
    small = nn.Linear(head.in_features, len(index), bias=head.bias is not None, device="meta")
    small.weight = nn.Parameter(head.weight.data[index], requires_grad=False)
    if head.bias is not None:
        small.bias = nn.Parameter(head.bias.data[index], requires_grad=False)
    model.set_output_embeddings(small)
