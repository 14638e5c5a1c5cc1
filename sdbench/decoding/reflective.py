"""Reflective Verification (Think Before You Accept, 2505.18629): the target reads the draft twice in one forward.

    decided tokens | draft | reflective prompt | position prefix | draft again
                   l_0 ... l_K                                 r_0 ... r_K

The prompt asks the target to correct what it has just read. The position prefix repeats the last decided tokens, so that the second
reading begins at the same place of the text. Any rule then runs on the fused logits

    (1 - alpha) l_i + alpha r_i.

All of this is one longer chain, so it needs no mask of its own. The cache forgets what stands behind the kept tokens, and the next
round overwrites the slots. r depends on the whole draft, so the output has no closed law. It is lossy unless alpha
is 0. The abstract and the reviews of the paper give the mechanism. They give no prompt, alpha or length of the position prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.draft import Draft
from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.output import StepOutput
from sdbench.lm.state import DecodeState
from sdbench.validate import number, whole


class Reflective:
    """Score a draft by the logits of two readings. A round without a draft has one reading.

    prompt: the reflective prompt, as token ids. A config may give a text, which the harness encodes (`texts`).
    alpha: the weight of the second reading. 0 gives the scores of the first one, at the price of both.
    position_prefix: the number of decided tokens that stand before the second copy. A shorter text gives all its tokens.

    Chains only: the source reads a tree in a way that is not known.
    """

    trees = False
    texts = ("prompt",)

    def __init__(self, prompt: str | Sequence[int], alpha: float = 0.5, position_prefix: int = 8) -> None:
        self.alpha = number("reflective.alpha", alpha, 0, 1)
        self.position_prefix = whole("reflective.position_prefix", position_prefix, 1)
        if not prompt:
            raise InputError("reflective.prompt is empty; it must be a text or a list of token ids.")
        self.prompt = prompt
        self.lossless = alpha == 0

    def nodes(self, drafted: int) -> int:
        return 2 * drafted + len(self._ids) + self.position_prefix if drafted else 0

    def score(self, target: LanguageModel, state: DecodeState, draft: Draft) -> StepOutput:
        K = draft.tokens.shape[1]
        if K == 0:
            return target.score(state, 0)
        repeated = np.minimum(state.length, self.position_prefix)
        prefix = upload(repeated, draft.length.device)
        state.place_many(self._chain(state, draft, prefix), state.length)
        output = target.score(state, self.nodes(K))
        # r_i stands behind the position prefix and i tokens of the copy. Behind a short draft r means nothing, as l does.
        second = draft.length + len(self._ids) + prefix
        places = (second[:, None] + torch.arange(K + 1, device=second.device)).clamp(max=self.nodes(K))
        first = output.logits[:, : K + 1]
        again = output.logits.gather(1, places[..., None].expand(-1, -1, first.shape[-1]))
        return StepOutput(self._fused(first, again, draft.length), missed=output.missed)

    def _chain(self, state: DecodeState, draft: Draft, prefix: Int[Tensor, " B"]) -> Int[Tensor, "B N"]:
        """Return the tokens that the target reads behind the decided ones, each row with its own lengths and padding behind."""
        ids, device = torch.tensor(self._ids, device=draft.tokens.device), draft.tokens.device
        K, R, P = draft.tokens.shape[1], len(ids), self.position_prefix
        back = np.maximum(state.length[:, None] - P + np.arange(P), 0)
        decided = state.tokens.gather(1, upload(back, state.tokens.device)).to(device)
        parts = torch.cat([draft.tokens, ids.expand(len(decided), -1), decided], 1)
        place, length = torch.arange(self.nodes(K), device=device), draft.length[:, None]
        after = place - length  # from the prompt on; the prefix of a short text fills the end of its part
        behind = after - R - prefix[:, None]  # from the copy on
        text = torch.where(after < R, K + after, K + R + P + behind)
        source = torch.where(after < 0, place, torch.where(behind < 0, text, behind.clamp(max=K - 1)))
        return parts.gather(1, source)

    def _fused(
        self, first: Float[Tensor, "B K1 V"], again: Float[Tensor, "B K1 V"], length: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K1 V"]:
        """Mix the logits of both readings. A row without a draft was read once."""
        if self.alpha == 0:  # not 0 x -inf
            return first
        mixed = again if self.alpha == 1 else (1 - self.alpha) * first + self.alpha * again
        return torch.where((length > 0)[:, None, None], mixed, first)

    @property
    def _ids(self) -> Sequence[int]:
        if isinstance(self.prompt, str):
            raise InputError(
                "reflective.prompt is a text, but a decoder knows no tokenizer: give the text in a run's config, or token ids."
            )
        return self.prompt
