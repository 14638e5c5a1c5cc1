"""Read the rows of a prompt set from a JSON-lines or parquet file or, without a file, from the Hugging Face hub.

The argument `path` names the file. JSON lines can come from a pipe, gzip can have packed them, and their text is UTF-8, UTF-16 or
UTF-32. Without a path, `rows_of` looks for the set's usual file in the folder that the environment variable SDBENCH_DATA names.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from sdbench.errors import InputError
from sdbench.hub_access import data_set_at_hand
from sdbench.paths import expanded

DATA_FOLDER = "SDBENCH_DATA"
_KINDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number"}
_GZIP = b"\x1f\x8b"  # how a file that gzip packed begins
T = TypeVar("T")


class Row:
    """Hold one row of a set. Each access checks the field, and each error names the position of the row.

    fields: the row. where: file and line, for messages. number: line or row number, from 1.
    """

    def __init__(self, fields: Mapping[str, Any], where: str, number: int) -> None:
        self.fields = fields
        self.where = where
        self.number = number

    def __contains__(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def get(self, field: str, kind: type[T]) -> T:
        """Return a field. Errors: InputError if it is missing or of another type."""
        if field not in self.fields:
            raise InputError(f"{self.where}: the field '{field}' is missing; there are: {', '.join(self.fields)}.")
        value = self.fields[field]
        if value is None:
            raise InputError(f"{self.where}: the field '{field}' is null; it must have a value.")
        if not isinstance(value, kind):
            expected = _KINDS.get(kind, kind.__name__)
            raise InputError(f"{self.where}: the field '{field}' should be {expected}, not {type(value).__name__}.")
        return value

    def text(self, field: str) -> str:
        """Return a text field. Errors: InputError if it holds blanks only."""
        value = self.get(field, str)
        if not value.strip():
            raise InputError(f"{self.where}: the field '{field}' is empty.")
        self._written(field, value)
        return value

    def label(self, field: str) -> str:
        """Return a text field; a number or a switch becomes text as JSON writes it. Errors: InputError."""
        value = self.fields.get(field)
        if not isinstance(value, int | float):
            return self.text(field)
        if not isfinite(value):
            raise InputError(f"{self.where}: the field '{field}' is {value}; it must be a text or a finite number.")
        return json.dumps(value)

    def texts(self, field: str) -> list[str]:
        """Return a field with a list of texts, such as the turns of a conversation. Errors: InputError if the first is no text."""
        turns = self.get(field, list)
        if not turns or not isinstance(turns[0], str) or not turns[0].strip():
            raise InputError(f"{self.where}: the field '{field}' should be a list that opens with a text.")
        found = [turn for turn in turns if isinstance(turn, str) and turn.strip()]
        for turn in found:
            self._written(field, turn)
        return found

    def _written(self, field: str, value: str) -> None:
        """Refuse a lone surrogate: JSON can encode half of a character. Errors: InputError."""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.where}: the field '{field}' holds half of a character (a lone surrogate, place {error.start + 1})."
            ) from error

    def inner(self, field: str) -> Row:
        """Return a field with an object, as a row. Errors: InputError."""
        return Row(self.get(field, dict), f"{self.where}, '{field}'", self.number)

    def refuse(self, reason: str) -> InputError:
        """Return the error that names this row and the reason."""
        return InputError(f"{self.where}: {reason}")


def rows_of(task: str, path: str | None, file_name: str | None, hub: Mapping[str, Any] | None) -> list[Row]:
    """Return the rows of a set, in order.

    task: the name for messages. path: the user's file. file_name: the set's file in the SDBENCH_DATA folder. hub:
    arguments of `datasets.load_dataset`. Errors: InputError if no source is readable, or a line is malformed.
    """
    file = _file_of(path, file_name)
    read = _read_parquet if file and file.suffix == ".parquet" else _read_file
    rows = list(read(file) if file else _read_hub(task, file_name, hub))
    if not rows:
        raise InputError(f"{file or task} holds no prompts.")
    return rows


def _file_of(path: str | None, file_name: str | None) -> Path | None:
    if path is not None:
        file = expanded(path)
        if not file.exists() or file.is_dir():
            raise InputError(f"There is no file {path}; tasks.path must name a JSON-lines file.")
        return file
    folder = os.environ.get(DATA_FOLDER)
    if folder and file_name and (Path(folder) / file_name).is_file():
        return Path(folder) / file_name
    return None


def _read_file(file: Path) -> Iterator[Row]:
    number, encoding = 0, "UTF-8"
    try:
        with ExitStack() as stack:
            content = stack.enter_context(file.open("rb"))
            if content.peek(2)[:2] == _GZIP:
                content = stack.enter_context(gzip.GzipFile(fileobj=content))
            encoding = json.detect_encoding(content.peek(4)[:4]).upper()
            lines = content if encoding.startswith("UTF-8") else io.TextIOWrapper(content, encoding)
            for number, line in enumerate(lines, start=1):
                text = line if isinstance(line, str) else _decoded(line, file, number)
                if text.strip():
                    yield _parsed(text, file, number)
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not {encoding} text after line {number}; {_convert(file)}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read after line {number}: {error}.") from error


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}.") from error
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield Row(fields, f"{file}, row {number}", number)


def _decoded(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig")  # joined files have a mark in the middle
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}, line {number}: not UTF-8 text (byte {error.start + 1} of the line); {_convert(file)}."
        ) from error


def _parsed(text: str, file: Path, number: int) -> Row:
    where = f"{file}, line {number}"
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        if number == 1 and text.strip()[0] in "[{" and error.pos >= len(text.rstrip()):
            raise InputError(f"{where}: {_more_than_a_line(text, file)}.") from error
        raise InputError(f"{where}: not valid JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise InputError(f"{where}: JSON that cannot be read ({error}).") from error
    if isinstance(fields, list) and number == 1:
        raise InputError(f"{where}: {_more_than_a_line(text, file)}.")
    if not isinstance(fields, dict):
        raise InputError(f"{where}: each line must be a JSON object, not {type(fields).__name__}.")
    return Row(fields, where, number)


def _convert(file: Path) -> str:
    return f"convert it, as with: iconv -f ENCODING -t UTF-8 {quote(str(file))} > NEW.jsonl"


def _more_than_a_line(text: str, file: Path) -> str:
    """Say that a file is one JSON document, and how it becomes JSON lines. text: its first line."""
    what, part = ("a JSON list", "'.[]'") if text.lstrip().startswith("[") else ("an object over several lines", ".")
    return (
        f"this is {what}, not JSON lines; write one object a line, as with: jq -c {part} {quote(str(file))} > NEW.jsonl"
    )


def _read_hub(task: str, file_name: str | None, hub: Mapping[str, Any] | None) -> Iterator[Row]:
    how = f"put {file_name} into the folder that {DATA_FOLDER} names, or give tasks.path=FILE"
    if not hub:
        raise InputError(f"The task {task} has no source on the hub: {how}.")
    # Before the import: this sets the hub's clients to read only their cache if the hub is unreachable.
    source = hub.get("data_files") or hub["path"]
    if not data_set_at_hand(str(source)):
        raise InputError(f"The task {task} could not be read, because the hub does not answer: {how}.")
    import datasets

    try:
        table = datasets.load_dataset(**hub)
    except Exception as error:  # the hub, the network and the readers raise different exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"The task {task} could not be read from the hub ({reason}): {how}.") from error
    for number, fields in enumerate(table, start=1):
        yield Row(fields, f"{source}, row {number}", number)


def texts_in(value: Any) -> list[str]:
    """Return every text in a value of JSON or of a table, in its order."""
    if isinstance(value, str):
        return [value]
    value = value.tolist() if hasattr(value, "tolist") else value  # an array
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in texts_in(one)]
