"""Let a model write answers, many at a time, with the decoding loop of the bench itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdbench.decoding.base import Request
from sdbench.decoding.speculative import Speculative
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROWS = 32  # answers that are written together


class Writer:
    """Write with a model.

    tokenizer: of the model. ends: ids that end a turn. rows: how many answers are written at a time.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: PreTrainedTokenizerFast, ends: Sequence[int], rows: int = ROWS
    ) -> None:
        self.tokenizer, self.ends, self.rows = tokenizer, frozenset(ends), rows
        self._decoder = Speculative(model)

    def write(
        self, prompts: Sequence[list[int]], names: Sequence[str], sampling: Sampling, limit: int, seed: int
    ) -> list[list[int]]:
        """Return an answer of at most `limit` tokens to each prompt, with the token that ends it.

        names: of the prompts; with the seed they name the random choices, so an answer depends on no other one.
        """
        requests = [Request(tokens, name) for tokens, name in zip(prompts, names, strict=True)]
        # Long prompts first: then the rows of a batch have similar lengths.
        requests.sort(key=lambda request: len(request.tokens), reverse=True)
        found = {
            done.request.name: done.tokens
            for done in self._decoder.generate(requests, sampling, StopAtTokens(self.ends), limit, seed, self.rows)
        }
        return [found[name] for name in names]
