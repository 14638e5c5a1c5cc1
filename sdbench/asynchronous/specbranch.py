"""SpecBranch (2506.01979): draft until the draft is unsure, and fork into the likely tokens there while the target verifies.

The first place at which the draft is unsure is the branch point. The target verifies the tokens before it. Meanwhile the server
drafts behind the k most likely tokens at the branch point:

    k = max(1, floor(k_max (1 - q))),   q: the probability of the draft's most likely token there.

If the target keeps all tokens before the branch point and then chooses one of the k tokens, the branch behind it is the next draft.
So SpecBranch is a speculation cache whose drafts end at the branch point and whose whole fan-out lies there.

The paper's classifier (H-RAD) reads hidden states of the target and says where to look: nowhere, at the confidence, or behind the
whole draft. It needs training. Here the confidence alone decides, which is the paper's own ablation without the classifier.

A place is unsure if its most likely token has a probability below epsilon. The draft then ends before a token is drawn. The paper
states the test for the drawn token. Above temperature 0 that would drop tokens because of their values, and bias the output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.drafter import SSDDrafter
from sdbench.asynchronous.protocol import Outcome, Speculation
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.lm.model import LanguageModel


class AtBranchPoint:
    """Give the whole fan-out to the end of a draft. most: the largest number of branches."""

    def __init__(self, most: int) -> None:
        validate.whole("proposer.branches", most, 1)
        self.most = most

    def counts(self, length: int, vocab: int, hit: bool) -> tuple[int, ...]:
        return *(0,) * length, min(self.most, vocab)

    def learn(self, length: int, hit: bool, accepted: int, rank: int) -> None:
        return None


class SpecBranchServer(SpeculationServer):
    """Draft up to the branch point, and behind the likely tokens there.

    fan_out: the branches at the branch point. epsilon: the draft is unsure below this probability.
    """

    def __init__(self, model: LanguageModel, fan_out: AtBranchPoint, epsilon: float) -> None:
        super().__init__(model, fan_out)
        self.epsilon = epsilon

    def serve(self, outcome: Outcome) -> Speculation:
        speculation = super().serve(outcome)
        sure = (confidence(speculation.logits) >= self.epsilon).long().cumprod(-1).sum(-1).tolist()
        speculation.length = self._drafted = list(map(min, speculation.length, sure))
        return speculation

    def _fan_outs(self, glue: Float[Tensor, "B K1 V"]) -> list[tuple[int, ...]]:
        rows = torch.arange(len(glue), device=glue.device), torch.tensor(self._drafted, device=glue.device)
        sure, widest = confidence(glue[rows]).tolist(), super()._fan_outs(glue)
        return [
            (*counts[:-1], max(1, int(counts[-1] * (1 - q)))) if counts else ()
            for counts, q in zip(widest, sure, strict=True)
        ]


class SpecBranchDrafter(SSDDrafter):
    """Draft by SpecBranch (2506.01979). The arguments of the server's process are those of `AsyncDrafter`.

    branches: k_max, the most branches at a branch point. epsilon: the draft is unsure below this probability, in [0, 1].
    """

    def __init__(
        self,
        model: LanguageModel,
        branches: int = 3,
        epsilon: float = 0.4,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
    ) -> None:
        self.at_point = AtBranchPoint(branches)
        super().__init__(model, self.at_point, None, None, process, timeout_seconds, on_fault, core, threads)
        self.epsilon = validate.number("proposer.epsilon", epsilon, 0, 1)

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return partial(SpecBranchServer, fan_out=self.at_point, epsilon=self.epsilon)


def confidence(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return the probability of the most likely token at temperature 1."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide.amax(-1) - wide.logsumexp(-1)).exp()
