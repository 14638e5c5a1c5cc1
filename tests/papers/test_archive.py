"""An archived run is small, complete, and read like a run."""

import pandas as pd
import pytest
import yaml

from sdbench.analysis.results import read
from sdbench.errors import InputError
from sdbench.papers.__main__ import main
from sdbench.papers.archive import archive_run
from sdbench.runs.record import load


def test_an_archive_holds_the_summary_and_counts_of_the_traces(finished, tmp_path):
    kept, run = tmp_path / "kept" / "one", load(finished)
    archive_run(finished, kept)
    assert {path.name for path in kept.iterdir()} == {
        "config.yaml",
        "counts.parquet",
        "environment.json",
        "sequences.parquet",
        "summary.json",
    }
    assert read(kept).summary == run.summary
    counts = pd.read_parquet(kept / "counts.parquet")
    sd, rounds = counts[counts["arm"] == "sd"], run.rounds[run.rounds["arm"] == "sd"]
    assert len(sd) == run.sequences["arm"].eq("sd").sum()
    assert sd["proposed"].sum() == rounds["proposed"].sum() > 0
    assert sd["accepted"].sum() == rounds["accepted"].sum()
    steps = run.steps[(run.steps["arm"] == "sd") & (run.steps["kind"] != "prefill")]
    assert sd["forwards_target"].sum() == steps["role"].eq("target").sum()
    assert counts["outcomes"].sum() == 0  # no arm of this run has a speculation cache


def test_no_absolute_path_of_a_machine_is_kept(finished, tmp_path):
    assert any(str(role["path"]).startswith("/") for role in load(finished).config["models"].values())
    archive_run(finished, tmp_path / "one")
    kept = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert all("/" not in role["path"] for role in kept["models"].values())


def test_an_archive_gives_way_only_to_a_complete_one(finished, tmp_path):
    archive_run(finished, tmp_path / "one")
    with pytest.raises(InputError):
        archive_run(tmp_path / "missing", tmp_path / "one")
    assert (tmp_path / "one" / "summary.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_the_command_line_archives_and_refuses(finished, tmp_path, capsys):
    assert main(["archive", str(finished), "group/name", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "group" / "name" / "summary.json").is_file()
    assert main(["archive", str(tmp_path / "missing"), "name", "--results", str(tmp_path)]) == 2
    assert "missing" in capsys.readouterr().err
    assert main(["archive", str(finished), "name", "limit=2"]) == 2
    assert "limit=2" in capsys.readouterr().err
