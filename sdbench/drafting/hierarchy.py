"""A hierarchy of any height, written as a list of its levels (HSD, 2510.19705).

Each level verifies the tokens of the next one with the same rule, and hands them up with its own law. So

    hierarchy([qualifier, draft], [3])   is   StagedDrafter(qualifier, rule, ModelDrafter(draft), 3).
"""

from __future__ import annotations

from sdbench.acceptance.base import AcceptanceRule
from sdbench.acceptance.exact import Exact
from sdbench.drafting.base import Proposer
from sdbench.drafting.model import ModelDrafter
from sdbench.drafting.staged import StagedDrafter
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel


def hierarchy(
    levels: list[LanguageModel],
    lengths: list[int],
    leaf: Proposer | None = None,
    rule: AcceptanceRule | None = None,
    flush_on_mismatch: bool = False,
) -> Proposer:
    """Return the proposer of a hierarchy below its target.

    Args:
        levels: the models below the target, the largest first.
        lengths: the tokens that each level asks of the next one, so one for each pair of neighbours.
        leaf: a proposer below the last level, such as a look-up (None: the last level drafts).
        rule: of every level (None: exact).
        flush_on_mismatch: each level hands its buffer up after the first correction.

    Errors: InputError if there is no level, or if the numbers of levels and lengths do not fit.
    """
    names = [model.name for model in levels] + ([leaf.name] if leaf else [])
    if not names:
        raise InputError("a hierarchy needs at least one level: a role in levels, or a leaf.")
    if len(lengths) != len(names) - 1:
        raise InputError(
            f"the levels {', '.join(names)} need {len(names) - 1} lengths, one for each pair of neighbours; there are "
            f"{len(lengths)}."
        )
    verifiers = levels if leaf else levels[:-1]
    proposer = leaf or ModelDrafter(levels[-1])
    for verifier, length in zip(reversed(verifiers), reversed(lengths), strict=True):
        proposer = StagedDrafter(verifier, rule or Exact(), proposer, length, flush_on_mismatch=flush_on_mismatch)
    return proposer
