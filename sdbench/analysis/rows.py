"""The rows of the run record that count, and the few sums that all metrics share.

A run that is compared here is a dict of DataFrames, `sequences`, `rounds`, `steps` and `bare`, as `sdbench.runs`
reads them.
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
    """The tables without the blocks in which a sequence of the arm failed.

    Time cannot be told apart within a block, so a failed sequence takes its block along, in all tables, for its arm
    only. (Spec-Bench's evaluation gave a failed question the numbers of the one before it.)
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
    """The tables' rows of one arm; bare forwards belong to all."""
    return {name: table if name == "bare" else table[table["arm"] == arm] for name, table in tables.items()}


def by_arm(tables: Tables) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of each arm that has any sequence: `of_arm` for all of them, in one pass."""
    parts = {name: dict(iter(table.groupby("arm"))) for name, table in tables.items() if name != "bare"}
    return {
        str(arm): {
            **{name: part.get(arm, tables[name].iloc[:0]) for name, part in parts.items()},
            "bare": tables["bare"],
        }
        for arm in parts["sequences"]
    }


def emitted_tokens(sequences: pd.DataFrame) -> pd.Series:
    """Tokens of each sequence, counted as emitted ids: never a text tokenised again."""
    return sequences["tokens"].map(len).astype("int64")


def decode_tokens(sequences: pd.DataFrame) -> pd.Series:
    """Tokens of each sequence that decoding gave: all but the first, which prefill gives."""
    return (emitted_tokens(sequences) - 1).clip(lower=0)


def decode_seconds(sequences: pd.DataFrame) -> float:
    """Decode wall time: each (arm, block, repeat) once, however many rows it has."""
    return float(sequences.drop_duplicates(_BLOCK)["block_decode_seconds"].sum())


def decode_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Select the steps after prefill on the critical path, without those that ran while the verifier was busy."""
    decoding = steps["kind"] != "prefill"
    if "concurrent" in steps:
        decoding &= steps["concurrent"].ne(True)
    return steps[decoding]


def target_rounds(rounds: pd.DataFrame) -> pd.DataFrame:
    """The verifications of the outermost edge, where the target is the verifier (or all that there is)."""
    return rounds[rounds["verifier"] == TARGET]


def ratio(above: float, below: float) -> float:
    """above / below; NaN where there is nothing below."""
    return float(above) / float(below) if below else float("nan")


def batch_rounds(steps: pd.DataFrame) -> int:
    """How many rounds the batch went through after prefill: a round of several rows is one."""
    return len(decode_steps(steps).query("round >= 0").drop_duplicates([*_BLOCK, "round"]))


def interpolate(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y at `at`, linear between the measured x, held beyond them."""
    order = np.argsort(x)
    return np.interp(at, np.asarray(x, dtype=float)[order], np.asarray(y, dtype=float)[order])
