"""Keep the journal of a run: one file per finished block. A crash loses at most the current block.

`journal/00012-r0.json` contains repeat 0 of block 12 under every arm: the rows of the run record's four tables, by column.
A file gets its name only after its content is complete and on the disk.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from sdbench.errors import InputError
from sdbench.runs.files import TEMPORARY, write_text
from sdbench.runs.schema import SCHEMA_VERSION, TABLES
from sdbench.runs.tables import arrow, columnar, renewed

_NAME = re.compile(r"(\d{5,})-r(\d+)\.json")


class Journal:
    """The finished blocks of a run, in their own folder."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def finished(self) -> set[tuple[int, int]]:
        """Return the (block, repeat) pairs in the journal.

        Raises:
            InputError: a file is damaged, or does not belong to the journal.
        """
        return {self._identify(path) for path in self._files() if self._read(path)}

    def write(self, block: int, repeat: int, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Append a finished block.

        Args:
            block: the block's number.
            repeat: the repeat of the block.
            tables: rows by table name (`sequences`, `rounds`, `steps`, `bare`); a table without rows may be absent.

        Raises:
            ValueError: a table is unknown, or a row lacks a column of the schema.
            OSError: the file could not be written; earlier blocks are intact.
        """
        unknown = tables.keys() - TABLES.keys()
        if unknown:
            raise ValueError(f"no table of the run record: {', '.join(sorted(unknown))}")
        columns = {name: _jsonable(columnar(name, tables.get(name, ()))) for name in TABLES}
        document = {"schema_version": SCHEMA_VERSION, "block": block, "repeat": repeat, "tables": columns}
        self.directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        write_text(self.directory / f"{block:05d}-r{repeat}.json", text)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Read all rows of all finished blocks: one DataFrame per table, in the order of the blocks.

        Raises:
            InputError: a file is damaged, or does not belong to the journal.
        """
        parts: dict[str, list[pa.Table]] = {name: [arrow(name, columnar(name, ()))] for name in TABLES}
        for path in self._files():
            columns = self._read(path)
            try:
                for name in TABLES:
                    parts[name].append(arrow(name, columns[name]))
            except pa.ArrowException as error:
                raise self._damaged(path) from error
        return {name: pa.concat_tables(part, promote_options="permissive").to_pandas() for name, part in parts.items()}

    def _files(self) -> list[Path]:
        """List the journal's files in the order of (block, repeat), without the leftovers of an interrupted write."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.suffix != TEMPORARY), key=self._identify)

    def _identify(self, path: Path) -> tuple[int, int]:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path} is not a file of the journal; move it elsewhere and start again")
        return int(match[1]), int(match[2])

    def _read(self, path: Path) -> dict[str, dict[str, list[Any]]]:
        """Read and check the columns of every table of one file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            version, key, tables = (
                document["schema_version"],
                (document["block"], document["repeat"]),
                document["tables"],
            )
            tables = {name: renewed(name, tables[name]) for name in TABLES}
            whole = all(
                TABLES[name].keys() <= tables[name].keys()
                and len({len(values) for values in tables[name].values()}) == 1
                for name in TABLES
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(path) from error
        if version != SCHEMA_VERSION:
            raise InputError(f"{path} has schema version {version}, not {SCHEMA_VERSION}: choose another output folder")
        if not whole or key != self._identify(path):
            raise self._damaged(path)
        return tables

    @staticmethod
    def _damaged(path: Path) -> InputError:
        return InputError(f"{path} is damaged or is no block of a run; delete it and its block will be run again")


def _jsonable(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Replace NaN by None, because JSON has no NaN."""
    return {
        name: [None if isinstance(value, float) and math.isnan(value) else value for value in values]
        for name, values in columns.items()
    }
