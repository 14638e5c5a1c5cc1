"""Find the origin of each token of an output from the rounds of its sequence.

The rows of a sequence are in the order of its verifications, inner ones first. So the functions replay each verifier: it kept
`accepted` tokens of its proposer and added one token of its own. An inner verifier adds a token of the qualifier. The
outermost adds a bonus or a correction, or, where nothing was drafted, a token of the target alone. In a token tree that a stage
hands up, the qualifier has drawn every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from sdbench.analysis.tables import TARGET

FIRST, DRAFT, QUALIFIER, CORRECTION, BONUS, ALONE, UNKNOWN = "fdqcbtu"
NAMES = {
    DRAFT: "draft, accepted",
    QUALIFIER: "qualifier, accepted",
    CORRECTION: "correction by the target",
    BONUS: "bonus of the target",
    ALONE: "target alone, nothing drafted",
    FIRST: "first token, from prefill",
    UNKNOWN: "origin not recorded",
}
_QUALIFIER = "qualifier"
_COLUMNS = ["proposer", "verifier", "proposed", "accepted", "emitted", "outcome"]
_SEQUENCE = ["arm", "prompt_id", "repeat"]

Verification = tuple[str, str, int, int, int, str]  # as _COLUMNS


def by_sequence(rounds: pd.DataFrame) -> Iterator[tuple[tuple[str, str, int], list[str]]]:
    """Yield (arm, prompt_id, repeat) and the origins of its tokens by round (`of_rounds`), for every sequence."""
    ordered = _without_stages_below_trees(rounds).sort_values(_SEQUENCE, kind="stable")
    columns = [ordered[name].tolist() for name in [*_SEQUENCE, *_COLUMNS]]
    current: tuple[str, str, int] | None = None
    verifications: list[Verification] = []
    for arm, prompt, repeat, *verification in zip(*columns, strict=True):
        if (arm, prompt, repeat) != current:
            if current is not None:
                yield current, of_rounds(verifications)
            current, verifications = (arm, prompt, repeat), []
        verifications.append(tuple(verification))
    if current is not None:
        yield current, of_rounds(verifications)


def _without_stages_below_trees(rounds: pd.DataFrame) -> pd.DataFrame:
    """Leave out the inner verifications of the arms whose stage hands up token trees."""
    if "nodes" not in rounds:
        return rounds
    outer = rounds["verifier"] == TARGET
    handed_up = outer & rounds["nodes"].notna() & rounds["proposer"].isin(rounds.loc[~outer, "verifier"])
    return rounds[outer | ~rounds["arm"].isin(rounds.loc[handed_up, "arm"])]


def of_rounds(verifications: Iterable[Verification]) -> list[str]:
    """Give a letter per token (see NAMES), a string per round: the first token, then the tokens that each target forward
    emitted.

    verifications: proposer, verifier, proposed, accepted, emitted and outcome of a sequence's rows of ROUNDS, in their order.
    """
    rounds = [FIRST]
    buffers: dict[str, str] = {}
    for source, judge, proposed, accepted, emitted, outcome in verifications:
        drafted = buffers.pop(source, "") or (QUALIFIER if source == _QUALIFIER else DRAFT) * proposed
        kept = drafted[:accepted]
        if judge != TARGET:
            buffers[judge] = buffers.get(judge, "") + kept + QUALIFIER
        elif not proposed:
            rounds.append(ALONE)
        else:
            rounds.append((kept + (BONUS if outcome == "bonus" else CORRECTION))[:emitted])
    return rounds
