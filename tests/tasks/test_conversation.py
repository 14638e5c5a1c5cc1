"""Later turns of conversations: the answers before them come from finished runs."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from sdbench.errors import InputError
from sdbench.tasks.mt_bench import MTBench
from sdbench.tasks.spec_bench import SpecBench

ROWS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Again.", "Shorter."]},
    {"question_id": 82, "category": "math", "turns": ["Add.", "Subtract."]},
    {"question_id": 83, "category": "math", "turns": ["Only once."]},
]


@pytest.fixture
def runs(monkeypatch):
    """Finished runs by their folder: the answers of two arms to each prompt."""
    held = {}

    def run(path, **texts):
        rows = [
            {"arm": arm, "prompt_id": name, "repeat": repeat, "text": text if arm == "ar" and not repeat else "wrong"}
            for name, text in texts.items()
            for arm in ("sd", "ar")
            for repeat in (0, 1)
        ]
        held[path] = SimpleNamespace(sequences=pd.DataFrame(rows), summary={"baseline": "ar"})

    monkeypatch.setattr("sdbench.tasks.conversation.load", lambda path: held[str(path)])
    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def said(prompt):
    return [(message.role, message.content) for message in prompt.messages]


def test_the_second_and_the_third_turn(runs, file):
    runs("/one", **{"mt_bench/81": "A poem.", "mt_bench/82": "Four.", "mt_bench/83": "Done."})
    runs("/two", **{"mt_bench/81/turn2": "A longer poem."})
    first = MTBench(path=file).prompts()
    assert [prompt.id for prompt in first] == ["mt_bench/81", "mt_bench/82", "mt_bench/83"]
    second = {prompt.id: prompt for prompt in MTBench(answers="/one", path=file).prompts()}
    assert list(second) == ["mt_bench/81/turn2", "mt_bench/82/turn2"]  # the third row has one turn
    assert said(second["mt_bench/82/turn2"]) == [("user", "Add."), ("assistant", "Four."), ("user", "Subtract.")]
    (third,) = MTBench(answers=["/one", "/two"], path=file).prompts()
    assert third.id == "mt_bench/81/turn3"
    assert [text for _, text in said(third)] == ["Write.", "A poem.", "Again.", "A longer poem.", "Shorter."]
    assert third.category == "writing"


def test_a_conversation_without_an_answer_is_left_out(runs, file):
    runs("/one", **{"spec_bench/82": "Four."})
    (prompt,) = SpecBench(answers="/one", path=file).prompts()
    assert prompt.id == "spec_bench/82/turn2"
    runs("/other", **{"spec_bench/99": "?"})
    with pytest.raises(InputError, match="spec_bench has no prompt of this kind: no row has this turn"):
        SpecBench(answers="/other", path=file).prompts()


def test_a_run_of_another_task_or_turn_is_refused(runs, file):
    runs("/gsm8k", **{"gsm8k/1": "4"})
    with pytest.raises(InputError, match=r"tasks.answers: /gsm8k holds no answers to turn 1 of mt_bench; name a run"):
        MTBench(answers="/gsm8k", path=file)
    runs("/one", **{"mt_bench/81": "A poem."})
    with pytest.raises(InputError, match="/one holds no answers to turn 2"):
        MTBench(answers=["/one", "/one"], path=file)
