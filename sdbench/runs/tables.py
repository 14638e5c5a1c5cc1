"""Convert the run record's tables between rows, DataFrames and parquet files, with the types of the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sdbench.errors import InputError
from sdbench.runs.files import write_atomically
from sdbench.runs.schema import TABLES

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "list[int]": pa.list_(pa.int64())}


def columnar(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows of one table into columns: first the columns of the schema, then those that a method added.

    An added column is None for rows without it.

    Raises:
        ValueError: a row lacks a column of the schema.
    """
    for row in rows:
        missing = TABLES[name].keys() - row.keys()
        if missing:
            raise ValueError(f"a row of {name} lacks {', '.join(sorted(missing))}")
    added = dict.fromkeys(column for row in rows for column in row if column not in TABLES[name])
    return {column: [row.get(column) for row in rows] for column in [*TABLES[name], *added]}


def arrow(name: str, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Turn columns of one table into an Arrow table. The schema's columns have the schema's types, even when empty."""
    arrays = {
        column: pa.array(values, type=column_type(name, column) if column in TABLES[name] else None)
        for column, values in columns.items()
    }
    return pa.table(arrays)


def column_type(name: str, column: str) -> pa.DataType:
    """Look up the type of a column: the first word of its description in the schema."""
    return _TYPES[TABLES[name][column].split(":")[0].split()[0]]


def renewed(name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the columns of a table from an earlier release to their current names.

    columns: sequences of values by name. `proposer` and `verifier` are derived from the text of `edge`. `beside` becomes
    `concurrent`.
    """
    found = dict(columns)
    if name == "rounds" and "edge" in found:
        sides = [str(edge).rpartition(">") for edge in found["edge"]]
        found.setdefault("proposer", [proposer for proposer, _, _ in sides])
        found.setdefault("verifier", [verifier for _, _, verifier in sides])
    if "beside" in found:
        found["concurrent"] = found.pop("beside")
    return found


def frame(name: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Turn rows of one table into a DataFrame."""
    return arrow(name, columnar(name, rows)).to_pandas()


def frames(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, pd.DataFrame]:
    """Turn rows of every table into DataFrames. A table that is missing in `rows` is empty."""
    return {name: frame(name, rows.get(name, ())) for name in TABLES}


def write_parquet(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write `<folder>/<name>.parquet`, atomically."""
    content = arrow(name, {str(column): _cells(table[column]) for column in table.columns})
    write_atomically(folder / f"{name}.parquet", lambda temporary: pq.write_table(content, temporary))


def _cells(column: pd.Series) -> list[Any]:
    """List the values of a column. In a column that is not numeric, pandas marks missing values by NaN; they become None."""
    if pd.api.types.is_numeric_dtype(column):
        return column.tolist()
    return column.astype(object).where(column.notna(), None).tolist()


def read_parquet(folder: Path, name: str) -> pd.DataFrame:
    """Read `<folder>/<name>.parquet`.

    Raises:
        InputError: the file is missing, is not readable as parquet, or lacks a column of the schema.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing: the run record is incomplete; run it again")
    try:
        table = pd.DataFrame(renewed(name, dict(pq.read_table(path).to_pandas())))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}); run it again") from error
    missing = [column for column in TABLES[name] if column not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; it is no {name} table of a run")
    return table
