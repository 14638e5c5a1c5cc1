"""Reports of guidellm: the numbers are those of the requests, and other files are refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdbench.analysis.open_loop import grid, rates, read, write
from sdbench.cli import main
from sdbench.errors import InputError


def request(start: float, first: float | None, end: float, tokens: int | None) -> dict[str, Any]:
    """A request as version 0.8.1 writes it; the fields that are read."""
    first_ms = None if first is None else 1000 * (first - start)
    return {
        "request_start_time": start,
        "request_end_time": end,
        "time_to_first_token_ms": first_ms,
        "output_tokens": tokens,
    }


def report(file: Path, **more: Any) -> Path:
    good = [request(100.0, 100.5, 102.5, 11), request(101.0, 102.0, 104.0, 21), request(102.0, 102.1, 102.1, 1)]
    cut = [request(103.0, None, 110.0, None)]
    open_loop = {
        "config": {"strategy": {"type_": "poisson", "rate": 2.0, "random_seed": 42}},
        "requests": {"successful": good, "errored": [], "incomplete": cut, "total": None},
    }
    closed = {
        "config": {"strategy": {"type_": "concurrent", "streams": 4}},
        "requests": {"successful": good, "errored": None, "incomplete": None, "total": None},
    }
    wide = {**closed, "config": {"strategy": {"type_": "concurrent", "streams": 16}}}
    file.write_text(json.dumps({"metadata": {"version": 2}, "benchmarks": [open_loop, closed, wide], **more}))
    return file


def changed(**fields: Any) -> str:
    """A report of one request with other fields."""
    one = request(100.0, 100.5, 102.5, 11) | fields
    requests = {"successful": [one], "errored": [], "incomplete": []}
    return json.dumps(
        {"benchmarks": [{"config": {"strategy": {"type_": "poisson", "rate": 2.0}}, "requests": requests}]}
    )


def test_a_report_without_a_duration_has_no_rate(tmp_path: Path) -> None:
    (tmp_path / "short.json").write_text(changed(request_end_time=100.0, time_to_first_token_ms=None))
    table = write({"ar": tmp_path / "short.json"}, tmp_path / "out")
    assert table.served.isna().all()
    assert table.first_token_p50.isna().all()


def test_the_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = report(tmp_path / "ar.json")
    with pytest.raises(SystemExit) as ended:
        main(["load", f"ar={kept}", "--out", str(kept)])
    assert ended.value.code == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_the_numbers_are_those_of_the_requests(tmp_path: Path) -> None:
    table = rates(read("ar", report(tmp_path / "ar.json")))
    one, two, three = table.to_dict("records")
    assert (one["server"], one["arrivals"], one["rate"], one["requests"], one["failed"]) == ("ar", "poisson", 2.0, 4, 1)
    assert one["served"] == pytest.approx(3 / 10)
    assert one["tokens_per_second"] == pytest.approx(33 / 10)
    assert one["first_token_p50"] == pytest.approx(0.5)
    assert one["first_token_p95"] == pytest.approx(0.95)
    assert one["seconds_per_token_p50"] == pytest.approx(0.15)  # 2 s for 10 tokens, and for 20; a single token has none
    assert (two["arrivals"], two["streams"], two["failed"]) == ("concurrent", 4, 0)
    assert (three["streams"], three["requests"]) == (16, 3)
    assert two["served"] == pytest.approx(3 / 4)


def test_a_table_and_a_figure_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={report(tmp_path / f'{name}.json')}" for name in ("ar", "sd")]
    with pytest.raises(SystemExit) as ended:
        main(["load", *words, "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.count("poisson") == 2
    assert (tmp_path / "out" / "load.md").read_text() in said
    drawn = (tmp_path / "out" / "load.svg").read_text()
    assert "requests per second" in drawn
    assert len((tmp_path / "out" / "requests.csv").read_text().splitlines()) == 1 + 2 * 10
    assert len(grid(write({"ar": tmp_path / "ar.json"}, tmp_path / "out")).rows) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is no JSON report of guidellm"),
        ("[]", "is no JSON report of guidellm"),
        ('{"benchmarks": [{"config": {}}]}', "is no JSON report of guidellm"),
        ('{"benchmarks": []}', "holds no request"),
        (changed(request_start_time="noon"), "request_start_time is 'noon', not a number from 0 on"),
        (changed(time_to_first_token_ms=-5), "time_to_first_token_ms is -5"),
        (changed(output_tokens=float("nan")), "output_tokens is nan"),
        (changed(request_end_time=1.0), "a request ends before it starts"),
    ],
)
def test_other_files_are_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(InputError, match=said):
        write({"ar": tmp_path / "odd.json"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read("ar", tmp_path / "missing.json")


@pytest.mark.parametrize("word", ["ar.json", "=ar.json", "ar=", "ar=a.json ar=b.json"])
def test_words_are_names_with_reports(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["load", *word.split(), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "must be NAME=REPORT" in capsys.readouterr().err
