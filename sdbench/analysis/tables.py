"""Select the rows of the run record that count, and compute the sums that all metrics share.

A run is here a dict of DataFrames, `sequences`, `rounds`, `steps` and `bare`, as `sdbench.runs` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

Tables = Mapping[str, pd.DataFrame]

TARGET = "target"
ERROR = "error"
_BLOCK = ["arm", "block", "repeat"]


def usable(tables: Tables) -> dict[str, pd.DataFrame]:
    """Leave out the blocks in which a sequence of the arm failed.

    The rows of a block share their time, so a failed sequence takes its whole block along, in all tables, for its arm only.
    (Spec-Bench's evaluation gave a failed question the numbers of the question before it.)
    """
    sequences = tables["sequences"]
    failed = sequences.loc[sequences["finish_reason"] == ERROR, _BLOCK].drop_duplicates()
    if failed.empty:
        return dict(tables)
    gone = pd.MultiIndex.from_frame(failed)
    return {
        name: table if name == "bare" else table[~pd.MultiIndex.from_frame(table[_BLOCK]).isin(gone)]
        for name, table in tables.items()
    }


def of_arm(tables: Tables, arm: str) -> dict[str, pd.DataFrame]:
    """Select the rows of one arm. Reference forwards (`bare`) belong to all arms."""
    return {name: table if name == "bare" else table[table["arm"] == arm] for name, table in tables.items()}


def by_arm(tables: Tables) -> dict[str, dict[str, pd.DataFrame]]:
    """Split the tables by arm, for every arm that has a sequence: `of_arm` for all of them, in one pass."""
    parts = {name: dict(iter(table.groupby("arm"))) for name, table in tables.items() if name != "bare"}
    return {
        str(arm): {
            **{name: part.get(arm, tables[name].iloc[:0]) for name, part in parts.items()},
            "bare": tables["bare"],
        }
        for arm in parts["sequences"]
    }


def emitted_tokens(sequences: pd.DataFrame) -> pd.Series:
    """Count the emitted token ids of each sequence. The text is not tokenised again."""
    return sequences["tokens"].map(len).astype("int64")


def decode_tokens(sequences: pd.DataFrame) -> pd.Series:
    """Count the tokens that decoding gave: all but the first, which prefill gives."""
    return (emitted_tokens(sequences) - 1).clip(lower=0)


def decode_seconds(sequences: pd.DataFrame) -> float:
    """Sum the decode wall time. Each (arm, block, repeat) counts once, however many rows it has."""
    return float(sequences.drop_duplicates(_BLOCK)["block_decode_seconds"].sum())


def decode_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Select the steps after prefill on the critical path, without those that ran while the verifier was busy."""
    decoding = steps["kind"] != "prefill"
    if "concurrent" in steps:
        decoding &= steps["concurrent"].ne(True)
    return steps[decoding]


def target_rounds(rounds: pd.DataFrame) -> pd.DataFrame:
    """Select the verifications of the outermost edge, where the target verifies or decodes alone."""
    return rounds[rounds["verifier"] == TARGET]


def ratio(above: float, below: float) -> float:
    """Divide above by below; NaN for a divisor of 0."""
    return float(above) / float(below) if below else float("nan")


def mean(values: pd.Series) -> float:
    """Average values; NaN for none."""
    return float(values.mean()) if len(values) else float("nan")


def batch_rounds(steps: pd.DataFrame) -> int:
    """Count the rounds of the batch after prefill. A round of several rows is one round."""
    return len(decode_steps(steps).query("round >= 0").drop_duplicates([*_BLOCK, "round"]))


def interpolate(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate y linearly between the measured x, constant beyond them. NaN where nothing was measured."""
    if not len(x):
        return np.full(np.shape(at), np.nan)
    order = np.argsort(x)
    return np.interp(at, np.asarray(x, dtype=float)[order], np.asarray(y, dtype=float)[order])
