"""A masked diffusion language model (LLaDA, 2502.09992): it reads a text with masked positions, and predicts all of them at once.

It attends in both directions, so every unmasked token changes all keys and values. This version has no KV cache: each forward
reads the whole text. So its decoding is exact. The approximate caches of Fast-dLLM, over which 2510.04147 measures, are not here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.transformer import Transformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DiffusionModel(LanguageModel):
    """A masked diffusion model over V tokens. mask_token: the token that stands at a masked position."""

    mask_token: int

    @abstractmethod
    def predict(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], columns: Int[Tensor, " C"]
    ) -> Float[Tensor, "B C V"]:
        """Return the logits at some columns, from one forward over whole texts.

        tokens: the texts, aligned on the right. lengths: of each text; the columns before it are padding. columns: the same for all
        texts.
        """

    def allocate(self, rows: int, slots: int) -> None:
        """Note the numbers of rows and slots. There is no cache."""
        self._allocated(rows, slots)

    def step(self, *given: object, **named: object) -> NoReturn:
        """Refuse: a token does not depend on the tokens before it alone. Errors: InputError."""
        self._refuse()

    def truncated(self, layers: int) -> NoReturn:
        """Refuse, as `step`. Errors: InputError."""
        self._refuse()

    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"{self.name} is a masked diffusion model, which does not decode token by token: take the arms diffusion and "
            "diffusion_ssd."
        )


class DiffusionTransformer(DiffusionModel, Transformer):
    """A `transformers` model whose layers attend in both directions. mask_token: by default that of its config."""

    def __init__(self, name: str, model: PreTrainedModel, mask_token: int | None = None) -> None:
        super().__init__(name, model)
        self.mask_token = self.config.mask_token_id if mask_token is None else mask_token

    def predict(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], columns: Int[Tensor, " C"]
    ) -> Float[Tensor, "B C V"]:
        width = tokens.shape[1]
        place = torch.arange(width, device=self.device)
        first = (width - lengths)[:, None]
        return self.model(
            input_ids=tokens,
            position_ids=(place - first).clamp(min=0),
            attention_mask=(place >= first).long(),
            use_cache=False,
            logits_to_keep=columns,
        ).logits


@torch.inference_mode()
def check_directions(lm: DiffusionTransformer) -> None:
    """Refuse a loaded model whose code ignores `is_causal`: a later token must change the logits before it. Errors: InputError."""
    texts = torch.tensor([[0, 0, 0], [0, 0, 1]], device=lm.device)
    one, other = lm.predict(texts, torch.tensor([3, 3], device=lm.device), texts[0, :1])
    if torch.equal(one, other):
        raise InputError(
            f"{lm.name}: {type(lm.model).__name__} does not attend in both directions, but config.json says is_causal=false: take "
            "another architecture."
        )
