"""The target's own law: its logits under the rules of its generation config (`sdbench.models.generation`).

A rule such as a repetition penalty changes the law of a token, given the tokens before it. It is applied to the target alone: the
laws of proposers may be any, since an exact rule corrects them. So every arm has the law that the target's `generate` has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.lm.model import LanguageModel
from sdbench.lm.output import StepOutput
from sdbench.lm.state import DecodeState
from sdbench.models.generation import SequenceRules
from sdbench.sampling import Scored
from sdbench.topology import Topology


class TargetLaw:
    """Score the target's steps of one batch. max_new_tokens: of each answer."""

    def __init__(self, target: LanguageModel, rows: int, max_new_tokens: int) -> None:
        self._target, self._max_new_tokens = target, max_new_tokens
        self._rules: list[SequenceRules | None] = [None] * rows

    def start(self, row: int, prompt: Sequence[int]) -> None:
        """A new sequence takes a row."""
        if self._target.rules is not None:
            self._rules[row] = self._target.rules.start(prompt, self._max_new_tokens)

    def scored(
        self,
        state: DecodeState,
        output: StepOutput,
        before: Sequence[int],
        row: int | None = None,
        trees: Sequence[Topology] | None = None,
    ) -> Scored:
        """Score the output of a step.

        before: for each row, the number of tokens before the first of the R scored places; place r follows before[b] + r of the
        row's tokens. row: `output` and `before` are of this row alone. trees: the places are nodes of these trees; node i
        follows the first before[b] tokens and its own path.
        """
        if self._target.rules is None:
            return state.sampler.score(output.logits, output.best)
        rows = [row] if row is not None else range(state.rows)
        logits = torch.stack(
            [
                self._ruled(state.tokens[index], part, count, index, trees[index] if trees else None)
                if state.active[index]
                else _wide(part)
                for index, part, count in zip(rows, output.logits, before, strict=True)
            ]
        )
        state.trace.watch(self._target.name, logits, [index if state.active[index] else -1 for index in rows])
        return state.sampler.score(logits)

    def _ruled(
        self, tokens: Int[Tensor, " N"], logits: Float[Tensor, "R V"], before: int, row: int, tree: Topology | None
    ) -> Float[Tensor, "R V"]:
        """Apply a row's rules to each place. A place before the first token belongs to no sequence and stays as it is."""
        rules, known = self._rules[row], tokens[: before + len(logits)].tolist()
        assert rules is not None
        wide = _wide(logits)
        if tree is not None:
            contexts = [
                [*known[:before], *(known[before + i - 1] for i in tree.path(node))] for node in range(len(wide))
            ]
        else:
            contexts = [known[: before + place] if before + place > 0 else [] for place in range(len(wide))]
        return torch.stack([rules(known, one) if known else one for known, one in zip(contexts, wide, strict=True)])


def _wide(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """Logits in the type that rules compute in: float32, or float64 where they are."""
    return logits if logits.dtype == torch.float64 else logits.float()
