"""A draft model, and a model's own first layers as one (early exit)."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.drafting.lengths import Fixed, LengthPolicy
from sdbench.drafting.rank_log import RankLog
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored


class ModelDrafter(Local):
    """Draws tokens from a language model, one after another (Leviathan et al. 2211.17192)."""

    kind = ProposalKind.SAMPLED

    def __init__(self, model: LanguageModel, policy: LengthPolicy | None = None) -> None:
        self.model = model
        self.policy = policy or Fixed()
        self._ranks = RankLog(model.name)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return length

    def open(self, context: DecodeState, length: int) -> None:
        self._ranks.open(context.trace)

    def admit(self, context: DecodeState, row: int) -> None:
        self.model.reset(row)
        # All but the last decided token: that one rides in the first drafting step.
        behind = self.model.read(context, context.length - 1, "prefill", row=row).logits
        self._ranks.admitted(context, row, behind[0, -1])

    def propose(self, context: DecodeState, length: int, key: Key) -> Draft:
        # Behind a draft that was kept whole the first step reads its last token too: its logits say how the bonus ranks.
        whole = self._ranks.whole(context)
        return self._at_once(context, length, key, whole) or self._step_by_step(context, length, key, whole)

    def _at_once(self, context: DecodeState, length: int, key: Key, whole: bool) -> Draft | None:
        """All tokens by one program, if there is one."""
        if not isinstance(self.policy, Fixed):
            return None
        drawn = self.model.draft(context, length, "draft", key / "draft", num_logits=2 if whole else 1)
        if drawn is None:
            return None
        tokens, logits, behind = drawn
        context.place_many(tokens, context.length)
        q = context.sampler.score(logits)
        draft = Draft(tokens, _all(context.rows, length, tokens.device), q, self.kind, full=True)
        self._ranks.drafted(context, draft, behind)
        return draft

    def _step_by_step(self, context: DecodeState, length: int, key: Key, whole: bool) -> Draft:
        tokens, scores = [], []
        going, behind = None, None
        drafted: int | Int[Tensor, " B"] = 1  # of each row; a number as long as it is the same of all
        for depth in range(length):
            places = 2 if whole and depth == 0 else 1
            both = self.model.read(context, context.length + depth, "draft", num_logits=places).logits
            logits = both[:, -1]
            if depth == 0 and whole:
                behind = both
            scored = context.sampler.score(logits)
            token = context.sampler.draw(scored, key / "draft" / depth)
            context.place(token, context.length + depth)
            tokens.append(token)
            scores.append(scored[:, None])
            if depth + 1 == length:
                break
            on = self.policy.go_on(scored, token)
            if on is not None:
                going = on if going is None else going & on
                # Off the CPU asking would stall the device: there a stopped row is only not counted.
                if self.model.device.type == "cpu" and not going[torch.from_numpy(context.active)].any():
                    break
            drafted = drafted + (1 if going is None else going)
        full = isinstance(drafted, int)
        count = _all(context.rows, drafted, self.model.device) if full else drafted
        draft = Draft(torch.stack(tokens, 1), count, Scored.cat(scores, 1), self.kind, full)
        self._ranks.drafted(context, draft, behind)
        return draft

    def commit(self, length: Lengths) -> None:
        self.model.keep(length)


@lru_cache(maxsize=64)
def _all(rows: int, length: int, device: torch.device) -> Int[Tensor, " B"]:
    """That `length` tokens of each row count."""
    return torch.full((rows,), length, device=device)


class EarlyExit(ModelDrafter):
    """The verifier's own first `layers` layers and its head as the draft (LayerSkip, 2404.16710; works on any model)."""

    def __init__(self, model: LanguageModel, layers: int, policy: LengthPolicy | None = None) -> None:
        validate.whole("proposer.layers", layers, 1)
        super().__init__(model.truncated(layers), policy)
