"""The page's data on token trees: what each round of a prompt drafted, and which path the target kept.

The rounds record the tokens of a tree as ids (`sdbench.runs.schema`). The text of an id is the one that the run's sequences show.
The page shows the number of an id that no sequence emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sdbench.analysis.tables import target_rounds

Key = tuple[str, str, int]  # arm, prompt_id, repeat
Tree = tuple[int, int, list[int], list[str]]
"""The round, the node at which the kept path ends, the parent of each node from 1 on, and the text of each node."""


def by_sequence(rounds: pd.DataFrame, sequences: pd.DataFrame) -> dict[Key, list[Tree]]:
    """Return the trees that the target verified, in the order of the rounds; {} for a run without token trees."""
    if "nodes" not in rounds:
        return {}
    texts = _texts(sequences)
    found: dict[Key, list[Tree]] = {}
    trees = target_rounds(rounds)
    trees = trees[trees["nodes"].notna()].sort_values("round", kind="stable")
    columns = trees[["arm", "prompt_id", "repeat", "round", "end", "parents", "drafted"]]
    for arm, prompt, repeat, number, end, parents, drafted in columns.itertuples(index=False):
        labels = [texts.get(int(token), f"#{token}") for token in drafted]
        tree = int(number), int(end), [int(parent) for parent in parents], labels
        found.setdefault((arm, prompt, repeat), []).append(tree)
    return found


def packed(trees: list[Tree], shapes: dict[tuple[int, ...], int], vocabulary: dict[str, int]) -> list[list[Any]]:
    """Return trees as [round, end, number of the shape, numbers of the texts]. New shapes and texts are numbered."""
    return [
        [
            number,
            end,
            shapes.setdefault(tuple(parents), len(shapes)),
            [vocabulary.setdefault(label, len(vocabulary)) for label in labels],
        ]
        for number, end, parents, labels in trees
    ]


def _texts(sequences: pd.DataFrame) -> Mapping[int, str]:
    """Return the text of each id that a sequence emitted. A piece may depend on its neighbours; the first one counts."""
    found: dict[int, str] = {}
    if "pieces" not in sequences:
        return found
    for tokens, pieces in zip(sequences["tokens"], sequences["pieces"], strict=True):
        if pieces is not None and len(pieces) == len(tokens):
            for token, piece in zip(tokens, pieces, strict=True):
                if piece:
                    found.setdefault(int(token), piece)
    return found
