"""Draft chains from a head that predicts K tokens in one pass: Medusa (2401.10774), ParallelSpec (2410.05589), SpecFormer
(2511.20340), DFlash (2602.06036), PARD (2504.18583).

The K laws are known before a token is drawn. So the drafted tokens are independent given the context, q of a draft is the product
of the laws, and each token's q is the law of its depth.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState

_MASK_KEYS = ("pard_token", "ptd_token_id")  # of the config.json of published draft models


def mask_in(name: str, config: Any) -> int:
    """Return the mask that the config of a draft model names. name: for messages. Raises: InputError if it names none."""
    for key in _MASK_KEYS:
        if isinstance(getattr(config, key, None), int):
            return getattr(config, key)
    raise InputError(
        f"The config.json of {name} names no mask ({' or '.join(_MASK_KEYS)}): set proposer.mask_token to the id of the mask that "
        "it was trained with."
    )


class OnePass(Local):
    """Provide what drafters have in common whose model predicts all their depths in one pass.

    model: a head (`sdbench.lm.parallel_model`), or with mask_token any language model. mask_token: the token that stands in the
    place of drafted tokens that are not known, as PARD (2504.18583) trains a draft model to read it; its id, or `config` for the
    one that the config.json of a published model names (`pard_token` or `ptd_token_id`, as vLLM reads them).
    """

    one_pass = True

    def __init__(self, model: LanguageModel, mask_token: int | str | None = None) -> None:
        if isinstance(mask_token, str):
            validate.choice("proposer.mask_token", mask_token, ("config",))
        elif mask_token is not None:
            validate.whole("proposer.mask_token", mask_token)
        self.model, self.name, self._asked = model, model.name, mask_token

    @property
    def masked(self) -> bool:
        """Whether the model is a language model that reads masks, and no head."""
        return self._asked is not None

    @property
    def mask_from_config(self) -> bool:
        """Whether the config of the model names its mask."""
        return isinstance(self._asked, str)

    @cached_property
    def mask_token(self) -> int:
        """The id of the mask. Raises: InputError if the config of the model should name it and does not."""
        if isinstance(self._asked, int):
            return self._asked
        return mask_in(self.name, getattr(self.model, "config", None))

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def open(self, state: DecodeState, length: int) -> None:
        self.check_depth(length)

    def check_depth(self, length: int) -> None:
        """Refuse a model that cannot predict `length` tokens in one pass. Raises: InputError."""
        depth = getattr(self.model, "depth", None)
        if self.masked:
            vocab = self.model.vocab
            if self.mask_token >= vocab:
                raise InputError(f"proposer.mask_token is {self.mask_token}, but {self.name} has {vocab} tokens.")
        elif depth is None:
            raise InputError(
                f"{self.name} is no head that predicts several tokens in one pass: give one, such as models.medusa.path with "
                f"head_of: target, or set proposer.mask_token to the mask of a draft model that was trained with one."
            )
        elif length > depth:
            raise InputError(
                f"{self.name} predicts {depth} tokens in one pass, but a draft has {length}: draft at most {depth}."
            )

    def admit(self, state: DecodeState, row: int) -> None:
        self.model.reset(row)
        if not self.masked:
            self.model.prefill(state, row)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.model.read(state, state.length - 1, "prefill", row=row)

    def laws(self, state: DecodeState, depth: int) -> Float[Tensor, "B K V"]:
        """Return the logits of the first `depth` tokens behind the decided ones of each row."""
        if not self.masked:
            return self.model.laws(state)[:, :depth]  # pyright: ignore[reportAttributeAccessIssue]
        here, ends = state.copy(), state.length + depth - 1
        if depth > 1:
            here.place_many(
                torch.full((state.rows, depth - 1), self.mask_token, device=state.tokens.device), state.length
            )
        logits = self.model.read(here, ends, "draft", num_logits=depth).logits
        for row in np.flatnonzero(state.active).tolist():
            self.model.forget(row, int(state.length[row]))  # the masks are no tokens of the text
        return logits

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        self.model.keep(length)  # the model has read no drafted token


class ParallelDrafter(OnePass):
    """Draw a chain: the token at each depth from its own law."""

    kind = ProposalKind.SAMPLED

    def max_lookahead(self, length: int) -> int:
        return length

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        names = drafting_key(key)
        q = state.sampler.score(self.laws(state, length))
        tokens = torch.stack([state.sampler.draw(q[:, depth], names / depth) for depth in range(length)], 1)
        whole = torch.full((state.rows,), length, device=tokens.device)
        return Draft(tokens, whole, q, self.kind, full=True)
