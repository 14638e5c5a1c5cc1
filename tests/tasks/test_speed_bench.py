"""SPEED-Bench: the file that specdec_bench prepares, and a sentence where the texts are not fetched."""

import pandas as pd
import pytest

from sdbench.errors import InputError
from sdbench.tasks.speed_bench import SpeedBench

ROWS = [
    {"question_id": 7, "category": "coding", "turns": ["Write a loop.", "Again."], "source": "x"},
    {"question_id": 8, "category": "math", "turns": [" Add 2 and 3. "], "source": "x"},
]


def write(folder, rows, split="qualitative"):
    file = folder / "speed" / split / "test.parquet"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(file)
    return file


def test_the_prepared_file_is_found_and_its_first_turns_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    write(tmp_path, ROWS)
    write(tmp_path, ROWS[:1], "throughput_1k")
    prompts = SpeedBench().prompts()
    assert [(one.id, one.text, one.category) for one in prompts] == [
        ("speed_bench/7", "Write a loop.", "coding"),
        ("speed_bench/8", " Add 2 and 3. ", "math"),
    ]
    assert [one.id for one in SpeedBench(category="math").prompts()] == ["speed_bench/8"]
    assert [one.id for one in SpeedBench("throughput_1k").prompts()] == ["speed_bench_throughput_1k/7"]


def test_what_is_not_fetched_is_refused_with_the_way_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"put speed/throughput_8k/test\.parquet into the folder"):
        SpeedBench("throughput_8k").prompts()
    turns = ["FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"]
    file = write(tmp_path, [{**ROWS[0], "turns": turns}])
    with pytest.raises(InputError, match=r"test\.parquet, row 1: the text of this prompt is not there"):
        SpeedBench().prompts()
    file.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        SpeedBench().prompts()
    with pytest.raises(InputError, match=r"tasks\.split"):
        SpeedBench("throughput_4k")
