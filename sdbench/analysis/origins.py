"""Where each token of an output came from, read off the rounds of its sequence.

The rows of a sequence stand in the order in which its verifications happened, inner ones first. So each verifier is replayed:
of what its proposer handed up it kept `accepted` tokens, and added one of its own. What an inner verifier adds is a token of the
qualifier; what the outermost adds is a bonus or a correction, or the target's alone where nothing had been drafted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from sdbench.analysis.rows import TARGET

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
    """(arm, prompt_id, repeat) and the origins of its tokens by round, as `of_rounds` gives them, for every sequence."""
    ordered = rounds.sort_values(_SEQUENCE, kind="stable")
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


def of_rounds(verifications: Iterable[Verification]) -> list[str]:
    """A letter per token (see NAMES), a string per round: the first token's, then what each target forward emitted.

    verifications: proposer, verifier, proposed, accepted, emitted and outcome of a sequence's rows of ROUNDS, in their order.
    """
    rounds = [FIRST]
    handed_up: dict[str, str] = {}
    for source, judge, proposed, accepted, emitted, outcome in verifications:
        drafted = handed_up.pop(source, "") or (QUALIFIER if source == _QUALIFIER else DRAFT) * proposed
        kept = drafted[:accepted]
        if judge != TARGET:
            handed_up[judge] = handed_up.get(judge, "") + kept + QUALIFIER
        elif not proposed:
            rounds.append(ALONE)
        else:
            rounds.append((kept + (BONUS if outcome == "bonus" else CORRECTION))[:emitted])
    return rounds
