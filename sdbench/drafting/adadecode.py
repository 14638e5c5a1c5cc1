"""Draft with exit heads: the first exit that is sure gives the token (AdaDecode, 2506.03700).

A token runs through the layers up to the first exit. If the likeliest token there has a probability above `threshold`, a token is
drawn from the law of this exit, and the next token begins. Otherwise the layers up to the next exit run. Where no exit is sure, the
draft ends: the remaining layers verify all drafted tokens in one step, and give the token behind them. So a round without any sure
exit costs one forward of the target and its exit heads.

The paper commits a token if its own probability is above the threshold. For greedy decoding that is the same. Above temperature 0,
a token that is drawn and then dropped because of its value changes the law of the output (FA D.1). Here the exit's law decides
before the draw. So an exact rule stays lossless.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.device import upload
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored


class AdaDecode(Local):
    """Draft with the exit heads of the verifier.

    heads: the role of the exit heads (`sdbench.lm.exit_stages`). threshold: the paper's gamma. An exit is sure if the probability
    of its likeliest token at temperature 1 is larger.
    """

    kind = ProposalKind.SAMPLED

    def __init__(self, heads: LanguageModel, threshold: float = 0.85) -> None:
        self.threshold = validate.number("proposer.threshold", threshold, 0, 1)
        self.name = heads.name
        self.stages: list[LanguageModel] = getattr(heads, "stages", [heads])
        self._rest: Any = getattr(heads, "rest", None)

    @property
    def models(self) -> list[LanguageModel]:
        return self.stages if self._rest is None else [*self.stages, self._rest]

    def max_lookahead(self, length: int) -> int:
        return length

    def open(self, state: DecodeState, length: int) -> None:
        if self._rest is not None:
            self._rest.begin()

    def admit(self, state: DecodeState, row: int) -> None:
        for stage in self.stages:
            stage.reset(row)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, names = state.copy(), drafting_key(key)
        going, counts = state.active.copy(), np.zeros(state.rows, np.int64)
        tokens: list[Tensor] = []
        scores: list[Scored] = []
        for depth in range(length):
            law, sure = self._law(here, depth, going)
            going = going & sure
            if not going.any():
                break
            scored = state.sampler.score(law)
            token = state.sampler.draw(scored, names / depth)
            here.place(token, here.length + depth)
            tokens.append(token)
            scores.append(scored[:, None])
            counts += going  # a row that has stopped drafts on with the others, and its tokens do not count
        kept = upload(counts, self.stages[0].device)
        if not tokens:
            return Draft(torch.zeros(state.rows, 0, dtype=torch.long, device=kept.device), kept, None, self.kind)
        return Draft(torch.stack(tokens, 1), kept, Scored.cat(scores, 1), self.kind)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        for stage in self.stages:
            stage.keep(length)

    def _law(self, here: DecodeState, depth: int, going: np.ndarray) -> tuple[Float[Tensor, "B V"], np.ndarray]:
        """Read each active row up to the token at `depth`, through the stages until its law is found.

        going: [B] the rows that draft on. Where one of these goes through a later stage, all rows that have stopped do too. So all
        stages have read all rows when the draft ends.

        Returns the logits of each row, and which rows [B] have an exit that is sure.
        """
        end, reading = here.length + depth, here.active.copy()
        sure = np.zeros_like(reading)
        law: Float[Tensor, "B V"] | None = None
        for stage in self.stages:
            logits = stage.read(here.ahead(here.length, reading), end, "draft").logits[:, -1]
            law = logits if law is None else torch.where(upload(reading, logits.device)[:, None], logits, law)
            best = here.sampler.score(logits).plain.amax(-1)
            found = (best > self.threshold).cpu().numpy() & reading & going
            sure, reading = sure | found, reading & ~found
            if not (reading & going).any():
                break
        assert law is not None
        return law, sure
