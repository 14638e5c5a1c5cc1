"""The cache folder: where it is, and what happens where it cannot be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sdbench.errors import InputError
from sdbench.models import cache, gguf
from sdbench.models.cache import cache_folder, cached, writable_cache
from tests.models.folders import saved, spec


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch, tmp_path):
    for name in ("SDBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    cache._writable.cache_clear()


def no_home(monkeypatch) -> None:
    def raising(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", raising)


def test_where_it_is(monkeypatch):
    assert cache_folder() == Path.home() / ".cache" / "sdbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/sdbench")
    monkeypatch.setenv("SDBENCH_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_a_named_folder_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(
        InputError, match=r"^SDBENCH_CACHE is .*, which cannot be written \(Not a directory\); name a folder"
    ):
        writable_cache("gguf")


def test_a_named_folder_below_no_home_is_refused(monkeypatch):
    no_home(monkeypatch)
    monkeypatch.setenv("SDBENCH_CACHE", "~/mine")
    with pytest.raises(
        InputError, match=r"SDBENCH_CACHE is ~/mine, but there is no home directory .*; give a full path"
    ):
        writable_cache("gguf")


def test_a_default_that_cannot_be_written_gives_way_and_says_so(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = writable_cache("compiled")
    assert folder.parents[1] == tmp_path / "temporary"
    assert folder.is_dir()
    assert writable_cache("compiled") == folder
    said = capsys.readouterr().err
    assert said.count("cannot be written (Not a directory), so") == 1
    assert "set SDBENCH_CACHE to another folder" in said
    (folder / "entry").mkdir()
    assert cached("compiled", "entry") == folder / "entry"
    assert cached("compiled", "other") is None


def test_without_a_home_a_gguf_file_is_converted_all_the_same(monkeypatch, tmp_path, capsys):
    no_home(monkeypatch)
    monkeypatch.setattr(gguf, "_convert", lambda file, folder: saved(folder))
    monkeypatch.setattr(gguf, "check_whole", lambda file: None)
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF without a home")
    made = gguf.converted(file)
    assert made.is_relative_to(tmp_path / "temporary")
    gguf._converted.cache_clear()
    assert gguf.converted(file) == made  # found again
    assert spec(file).path == str(file)


def test_nowhere_to_write_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(
        InputError, match=r"Neither the cache .* can be written; set SDBENCH_CACHE to a folder that can"
    ):
        writable_cache("gguf")


@pytest.mark.skipif(not hasattr(__import__("os"), "getuid"), reason="needs users")
def test_a_folder_of_another_user_in_the_temporary_directory_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_private", lambda folder: False)
    with pytest.raises(InputError, match="Neither the cache"):
        writable_cache("gguf")
