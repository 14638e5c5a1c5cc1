"""The journal survives crashes, a full disk, and files of other programs."""

from __future__ import annotations

import errno
import json
import os

import pandas as pd
import pytest

from sdbench.errors import InputError
from sdbench.runs.journal import Journal
from sdbench.runs.tables import frames, read_parquet, write_parquet
from tests.runs.made import AR, PYRAMID, SD, rows

ALL = rows([AR, SD], prompts=3)


def block(number: int) -> dict:
    return {name: [row for row in part if row.get("block", number) == number] for name, part in ALL.items()}


@pytest.fixture
def journal(tmp_path):
    kept = Journal(tmp_path / "journal")
    kept.write(0, 0, block(0))
    kept.write(1, 0, block(1))
    return kept


def test_what_is_written_is_read(journal):
    assert journal.finished() == {(0, 0), (1, 0)}
    journal.write(2, 0, block(2))
    read, expected = journal.tables(), frames(ALL)
    for name in ("sequences", "rounds", "steps"):
        ours, theirs = (
            table[name].sort_values(["block", "arm"], kind="stable").reset_index(drop=True)
            for table in (read, expected)
        )
        pd.testing.assert_frame_equal(ours, theirs)


def test_a_run_is_taken_up_from_blocks_that_lack_a_column(journal, tmp_path):
    """Blocks of an earlier version lack the column that names the arm behind which a reference forward was timed."""
    newer = block(2)
    newer["bare"] = [{**row, "after": "ar", "block": 2, "repeat": 0} for row in newer["bare"]]
    journal.write(2, 0, newer)
    write_parquet(tmp_path, "bare", journal.tables()["bare"])
    after = read_parquet(tmp_path, "bare")["after"]
    assert set(after[after.notna()]) == {"ar"}
    assert after.isna().sum() == 2 * len(ALL["bare"])


def test_tables_of_an_earlier_release_get_the_present_columns(tmp_path):
    """A journal and a parquet file without `proposer` and `verifier`, and with `beside` for `concurrent`."""
    made = rows([AR, SD, PYRAMID], prompts=2)
    made["steps"] = [{**row, "concurrent": row["role"] == "draft"} for row in made["steps"]]
    Journal(tmp_path / "journal").write(0, 0, made)
    expected = Journal(tmp_path / "journal").tables()
    (file,) = (tmp_path / "journal").iterdir()
    document = json.loads(file.read_text())
    for column in ("proposer", "verifier"):
        del document["tables"]["rounds"][column]
    document["tables"]["steps"]["beside"] = document["tables"]["steps"].pop("concurrent")
    file.write_text(json.dumps(document))
    read = Journal(tmp_path / "journal").tables()
    expected["rounds"].drop(columns=["proposer", "verifier"]).to_parquet(tmp_path / "rounds.parquet")
    expected["steps"].rename(columns={"concurrent": "beside"}).to_parquet(tmp_path / "steps.parquet")
    for name in ("rounds", "steps"):
        for found in (read[name], read_parquet(tmp_path, name)):
            pd.testing.assert_frame_equal(found, expected[name], check_like=True)
    sides = set(zip(read["rounds"]["proposer"], read["rounds"]["verifier"], strict=True))
    assert sides == {("", "target"), ("draft", "target"), ("draft", "qualifier"), ("qualifier", "target")}


def test_an_empty_journal_has_typed_tables(tmp_path):
    tables = Journal(tmp_path / "none").tables()
    assert tables["sequences"].empty
    assert tables["sequences"]["block"].dtype == "int64"
    assert Journal(tmp_path / "none").finished() == set()


def test_a_block_done_again_replaces_its_rows(journal):
    journal.write(1, 0, block(1))
    assert len(journal.tables()["sequences"]) == 4


def test_columns_that_a_method_adds_are_kept(tmp_path):
    kept = Journal(tmp_path)
    some, more = block(0), block(1)
    more["rounds"] = [{**row, "hit": True} for row in more["rounds"]]
    kept.write(0, 0, some)
    kept.write(1, 0, more)
    hits = kept.tables()["rounds"]["hit"]
    assert hits.notna().sum() == len(more["rounds"])


def test_a_row_that_lacks_a_column_is_refused(journal):
    wrong = block(2)
    wrong["rounds"] = [{"arm": "ar"}]
    with pytest.raises(ValueError, match="a row of rounds lacks"):
        journal.write(2, 0, wrong)
    assert journal.finished() == {(0, 0), (1, 0)}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_earlier_blocks(journal, monkeypatch, call):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space left"):
            journal.write(2, 0, block(2))
    assert journal.finished() == {(0, 0), (1, 0)}
    assert sorted(path.name for path in journal.directory.iterdir()) == ["00000-r0.json", "00001-r0.json"]
    journal.write(2, 0, block(2))
    assert journal.finished() == {(0, 0), (1, 0), (2, 0)}


def test_a_leftover_temporary_file_is_passed_over(journal):
    (journal.directory / "00002-r0.json.tmp").write_text('{"schema_ver')
    assert journal.finished() == {(0, 0), (1, 0)}
    assert len(journal.tables()["sequences"]) == 4


def test_a_truncated_file_is_named(journal):
    path = journal.directory / "00001-r0.json"
    path.write_bytes(path.read_bytes()[:-40])
    for read in (journal.finished, journal.tables):
        with pytest.raises(InputError, match=r"00001-r0\.json is damaged"):
            read()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("notes.txt", "hello", r"notes\.txt is not a file of the journal"),
        ("00007-r0.json", "{}", r"00007-r0\.json is damaged"),
        ("00007-r0.json", "[1, 2]", r"00007-r0\.json is damaged"),
        ("00007-r0.json", '{"schema_version":99,"block":7,"repeat":0,"tables":{}}', r"00007-r0\.json"),
    ],
)
def test_a_foreign_file_is_named(journal, name, text, says):
    (journal.directory / name).write_text(text)
    with pytest.raises(InputError, match=says):
        journal.finished()


def test_a_renamed_block_is_refused(journal):
    (journal.directory / "00001-r0.json").rename(journal.directory / "00005-r0.json")
    with pytest.raises(InputError, match=r"00005-r0\.json is damaged"):
        journal.finished()
