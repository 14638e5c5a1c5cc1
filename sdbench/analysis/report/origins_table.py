"""Which level of a hierarchy each token came from, and how many of its tokens the next level kept.

A token that a middle level took from the level below may survive more often than one that it put in place of a rejected token (FA
A.1). The rows of ROUNDS with `origins` tell both apart.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd

from sdbench.analysis.report.grid import Column, Grid, percent
from sdbench.analysis.tables import ratio, usable
from sdbench.runs.record import Run

_NOTE = (
    "Reached: the verifier kept all tokens before it. Survival: kept / reached. `correction` and `bonus` are tokens that the lower "
    "level added itself, after a rejection and after a whole accepted draft."
)


def survival(rounds: pd.DataFrame) -> pd.DataFrame:
    """Count the tokens of each level at each edge. rounds: of one arm, with `origins`.

    Returns `edge`, `origin`, and the numbers `proposed`, `reached` and `kept`. Token trees are left out.
    """
    chains = rounds[rounds["nodes"].isna()] if "nodes" in rounds else rounds
    proposed, reached, kept = Counter(), Counter(), Counter()
    columns = [chains[name].tolist() for name in ("edge", "proposer", "proposed", "accepted", "origins")]
    for edge, proposer, count, accepted, origins in zip(*columns, strict=True):
        tokens = [proposer] * count if origins is None or isinstance(origins, float) else list(origins)
        for place, origin in enumerate(tokens):
            proposed[edge, origin] += 1
            reached[edge, origin] += place <= accepted
            kept[edge, origin] += place < accepted
    rows = [
        (edge, origin, count, reached[edge, origin], kept[edge, origin]) for (edge, origin), count in proposed.items()
    ]
    return pd.DataFrame(rows, columns=["edge", "origin", "proposed", "reached", "kept"]).sort_values(["edge", "origin"])


def origins_table(run: Run) -> Grid | None:
    """Make a row per arm, edge and origin, for the arms in which a verified pair drafts. None if there is no such arm."""
    rounds = usable(run.tables)["rounds"]
    if "origins" not in rounds or rounds["origins"].isna().all():
        return None
    rows = [
        (arm, edge, origin, proposed, reached, kept, ratio(kept, reached))
        for arm in run.summary["arms"]
        if (own := rounds[rounds["arm"] == arm])["origins"].notna().any()
        for edge, origin, proposed, reached, kept in survival(own).to_numpy().tolist()
    ]
    columns = [
        Column("arm"),
        Column("edge"),
        Column("proposed by"),
        Column("proposed", "d"),
        Column("reached", "d"),
        Column("kept", "d"),
        Column("survival", percent),
    ]
    return Grid(columns, rows, notes=[_NOTE])
