"""Published sets, from files and as the hub serves them, and what malformed ones get."""

from __future__ import annotations

import gzip
import json
import math
import os
import sys
import threading
from collections import Counter

import pytest

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.tasks import prompts_sha256
from sdbench.tasks.jsonl import JsonLines
from sdbench.tasks.mt_bench import MTBench
from sdbench.tasks.spec_bench import SpecBench

FILES = {
    MTBench: {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
    SpecBench: {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
}
# The same rows in the hub's columns.
HUB = {
    MTBench: {"prompt": ["Write.", "Again."], "reference": [], "category": "writing", "prompt_id": 81},
    SpecBench: {**FILES[SpecBench], "reference": None},
}


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("SDBENCH_DATA", raising=False)


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("task", FILES, ids=lambda task: task.name)
def test_the_file_in_the_data_folder_and_the_hub_give_the_same(task, tmp_path, monkeypatch):
    import datasets

    asked = {}
    monkeypatch.setattr("sdbench.tasks.rows.data_set_at_hand", lambda name: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda **how: asked.update(how) or [HUB[task]])
    from_hub = task().prompts()
    assert asked == task.default_hub
    write(tmp_path / task.file_name, [FILES[task]])
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", lambda **how: pytest.fail("the file goes first"))
    assert task().prompts() == from_hub
    assert from_hub[0].messages[0].role == "user"


def test_a_path_goes_before_the_folder(tmp_path, monkeypatch):
    write(tmp_path / "mt_bench.jsonl", [FILES[MTBench]])
    mine = write(tmp_path / "mine.jsonl", [{**FILES[MTBench], "turns": ["Mine?"]}])
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    assert MTBench(path=str(mine)).prompts()[0].text == "Mine?"


@pytest.mark.parametrize("task", FILES, ids=lambda task: task.name)
def test_offline_says_what_to_do_without_a_reader(task, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import would fail
    with pytest.raises(
        InputError, match=rf"{task.name} could not be read, because the hub does not answer: put {task.file_name}"
    ):
        task().prompts()


def test_what_the_reader_says(monkeypatch):
    import datasets

    def refuse(**how):
        raise ConnectionError("Couldn't reach the server")

    monkeypatch.setattr("sdbench.tasks.rows.data_set_at_hand", lambda name: True)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match=r"mt_bench could not be read from the hub .*put mt_bench.jsonl into"):
        MTBench().prompts()


GOOD = '{"prompt": "a?", "reference": "1"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a?", ', r"line 2: not valid JSON"),
        ("[1, 2]", r"line 2: each line must be a JSON object, not list"),
        ('{"prompt": "a?"}', r"line 2: the field 'reference' is missing; there are: prompt"),
        ('{"prompt": 3, "reference": "1"}', r"line 2: the field 'prompt' should be a text, not int"),
        ('{"prompt": " ", "reference": "1"}', r"line 2: the field 'prompt' is empty"),
    ],
)
def test_a_malformed_line_is_named(line, reason, tmp_path):
    file = write(tmp_path / "bad.jsonl", [GOOD, line])
    with pytest.raises(InputError, match=rf"bad\.jsonl, {reason}") as caught:
        JsonLines(path=str(file), reference_field="reference").prompts()
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*none\.jsonl"):
        MTBench(path=str(tmp_path / "none.jsonl")).prompts()
    with pytest.raises(InputError, match="holds no prompts"):
        MTBench(path=str(write(tmp_path / "empty.jsonl", []))).prompts()
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl, line 1: not UTF-8"):
        JsonLines(path=str(tmp_path / "latin.jsonl")).prompts()
    whole = write(tmp_path / "h.jsonl.gz", [GOOD] * 50).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz"):
        JsonLines(path=str(tmp_path / "cut.jsonl.gz")).prompts()


ROW = {"prompt": "Wie heißt du?", "kind": 1, "answer": 42, "id": 7}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_other_programs(encoding, newline, packed, tmp_path):
    """Editors on Windows write a mark or UTF-16. The name does not say whether a file is packed."""
    text = newline.join(["", json.dumps(ROW, ensure_ascii=False), "", "  ", json.dumps({**ROW, "id": 8}), ""])
    content = text.encode(encoding)
    file = tmp_path / "prompts"
    file.write_bytes(gzip.compress(content) if packed else content)
    prompts = JsonLines(path=str(file), id_field="id").prompts()
    assert [(prompt.id, prompt.text) for prompt in prompts] == [("7", ROW["prompt"]), ("8", ROW["prompt"])]


def test_files_that_were_joined(tmp_path):
    file = tmp_path / "joined.jsonl"
    file.write_bytes((json.dumps(ROW) + "\n").encode("utf-8-sig") * 2)
    assert len(JsonLines(path=str(file)).prompts()) == 2


def test_a_pipe(tmp_path):
    """Process substitution names a pipe, which can be read once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(json.dumps(ROW).encode(),))
    writer.start()
    assert [prompt.text for prompt in JsonLines(path=str(pipe)).prompts()] == [ROW["prompt"]]
    writer.join()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps([ROW]).encode(), r"line 1: this is a JSON list, not JSON lines; .* jq -c '\.\[\]'"),
        (json.dumps([ROW], indent=1).encode(), r"line 1: this is a JSON list, not JSON lines"),
        (
            json.dumps(ROW, indent=1).encode(),
            r"line 1: this is an object over several lines, not JSON lines; .* jq -c \.",
        ),
        (b'{"prompt": "\xe9"}', r"line 1: not UTF-8 text \(byte 13 of the line\); convert it, as with: iconv"),
        (json.dumps(ROW).encode("utf-16")[:-1], r"is not UTF-16 text after line 0; convert it"),
    ],
)
def test_files_of_another_format(content, reason, tmp_path):
    file = tmp_path / "other.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"other\.json.*{reason}"):
        JsonLines(path=str(file)).prompts()


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.5, "1.5"), (True, "true"), (False, "false"), (0, "0"), ("x", "x")]
)
def test_labels_that_are_no_text(value, text, tmp_path):
    file = str(write(tmp_path / "labels.jsonl", [{"prompt": "p", "c": value}, {"prompt": "q", "c": "other"}]))
    task = JsonLines(path=file, id_field="c", reference_field="c", category_field="c", category=text)
    (prompt,) = task.prompts()
    assert (prompt.id, prompt.reference, prompt.category) == (text, text, text)
    assert task.score(prompt, text) == 1


@pytest.mark.parametrize("field", ["id_field", "reference_field", "category_field"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is null; it must have a value"),
        ([1], "should be a text, not list"),
        (math.nan, "a text or a finite number"),
    ],
)
def test_labels_that_are_refused(field, value, reason, tmp_path):
    file = str(write(tmp_path / "labels.jsonl", [{"prompt": "p", "c": value}]))
    with pytest.raises(InputError, match=rf"line 1: the field 'c' .*{reason}"):
        build({"_target_": "sdbench.tasks.jsonl.JsonLines", "path": file, field: "c"}, {}, "tasks").prompts()


def categories(count):
    names = ["writing", "translation", "qa", "coding"]
    return [{"question_id": i, "category": names[i * 4 // count], "turns": [f"turn {i}"]} for i in range(count)]


def test_categories_take_turns(tmp_path):
    file = str(write(tmp_path / "s.jsonl", categories(12)))
    everything = SpecBench(path=file).prompts()
    assert Counter(prompt.category for prompt in everything) == {"mt_bench": 6, "translation": 3, "qa": 3}
    for limit in range(1, 13):
        assert SpecBench(path=file).prompts(limit) == everything[:limit]
    assert {prompt.category for prompt in everything[:3]} == {"mt_bench", "translation", "qa"}
    only = SpecBench(path=file, category="qa").prompts(2)
    assert [prompt.id for prompt in only] == ["spec_bench/6", "spec_bench/7"]
    assert len(SpecBench(path=file, category=["qa", "translation"]).prompts()) == 6
    with pytest.raises(InputError, match="no category 'cooking'; its categories: mt_bench, qa, translation"):
        SpecBench(path=file, category="cooking").prompts()
    with pytest.raises(InputError, match="limit is 0"):
        SpecBench(path=file).prompts(0)


def test_ids_are_unique(tmp_path):
    row = FILES[MTBench]
    with pytest.raises(InputError, match=r"line 2: the id 'mt_bench/81' was used"):
        MTBench(path=str(write(tmp_path / "m.jsonl", [row, row]))).prompts()


def test_open_questions_have_no_score(tmp_path):
    task = MTBench(path=str(write(tmp_path / "m.jsonl", [FILES[MTBench]])))
    assert not task.scored
    assert task.score(task.prompts()[0], "Once upon a time") is None


def test_own_prompts(tmp_path):
    rows = [{"q": "one?", "a": "1", "kind": "x", "n": 7}, {"q": "two?", "a": "2", "kind": "y", "n": 8}]
    file = str(write(tmp_path / "my.jsonl", rows))
    task = JsonLines(path=file, prompt_field="q", reference_field="a", category_field="kind", id_field="n")
    first = task.prompts()[0]
    assert (first.id, first.text, first.reference, first.category) == ("7", "one?", "1", "x")
    assert task.scored
    assert task.score(first, " 1\n") == 1
    plain = JsonLines(path=file, prompt_field="q", chat=False)
    assert plain.prompts()[1].id == "jsonl/2"
    assert not plain.prompts()[0].messages
    assert plain.score(plain.prompts()[0], "1") is None
    with pytest.raises(InputError, match="the field 'prompt' is missing; there are: q, a, kind, n"):
        JsonLines(path=file).prompts()
    with pytest.raises(InputError, match=r"tasks\.path=FILE\.jsonl"):
        JsonLines()


def test_identity_of_prompts(tmp_path):
    file = str(write(tmp_path / "s.jsonl", categories(12)))
    prompts = SpecBench(path=file).prompts()
    assert prompts_sha256(prompts) == prompts_sha256(SpecBench(path=file).prompts())
    assert len({prompts_sha256(part) for part in (prompts, prompts[:5], prompts[::-1])}) == 3
