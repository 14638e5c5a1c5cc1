"""The tiny family's tasks: held-out texts, their scores, and every file of conf/tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sdbench.errors import InputError
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.texts import final_answer, generate
from sdbench.tasks.tiny import Records, Stories, TinyTask, WordProblems

CONF = sorted((Path(__file__).parents[2] / "conf" / "tasks").glob("*.yaml"))
ELSEWHERE = {"commonsense_qa", "gsm8k", "humaneval", "stream"}  # tests/lm_eval and test_stream.py have their tests


@pytest.mark.parametrize("task", [WordProblems, Records, Stories], ids=lambda task: task.name)
def test_prompts_are_the_test_split_in_order(task):
    made = task(count=20)
    prompts = made.prompts()
    assert len({prompt.id for prompt in prompts}) == 20
    assert made.prompts(5) == prompts[:5]
    assert made.prompts(999) == prompts
    assert prompts[3].text == generate(task.name, "test", 0, 3).prompt
    assert made.synthetic
    assert task(seed=1).prompts(5) != prompts[:5]


@pytest.mark.parametrize("task", [WordProblems, Records], ids=lambda task: task.name)
def test_the_reference_completion_scores_one(task):
    made = task()
    for index, prompt in enumerate(made.prompts(30)):
        completion = generate(task.name, "test", 0, index).completion
        assert made.score(prompt, completion) == 1
        assert made.score(prompt, completion[:-3] + "x.") == 0
        assert made.score(prompt, "") == 0


def test_stories_have_no_score():
    assert not Stories().scored
    assert Stories().score(Stories().prompts(1)[0], "a story") is None


def test_bad_knobs():
    with pytest.raises(InputError, match=r"tasks\.count is 0"):
        WordProblems(count=0)
    with pytest.raises(InputError, match="limit is -1"):
        WordProblems().prompts(-1)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 3: 4 * 5 = 20 dollars. The answer is 20.", "20"),
        ("The answer is 3.\nNo. The answer is 4.", "4"),
        ("The answer is -5.", "-5"),
        ("The answer is 3.5.", None),
        ("The answer is 1,234.", None),
        ("1. 3 apples\n2. 5 apples\nTotal: 8 apples", None),
        ("x = 12 / 4 = 3 km/h.", None),
        ("\\boxed{18}", None),
        ("The answer is 18", None),
    ],
)
def test_only_the_form_of_the_texts_states_an_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize("file", [file for file in CONF if file.stem not in ELSEWHERE], ids=lambda file: file.stem)
def test_conf_composes_and_says_what_the_class_says(file):
    conf = OmegaConf.load(file)
    task = instantiate(conf, path="FILE") if file.stem == "jsonl" else instantiate(conf)
    assert task.name == file.stem
    assert isinstance(task.stop, tuple)
    assert isinstance(task.max_new_tokens, int)
    if isinstance(task, DatasetTask | TinyTask) and file.stem != "jsonl":
        assert vars(task) == vars(type(task)())


def test_there_is_a_file_for_each_task():
    assert [file.stem for file in CONF] == [
        "commonsense_qa", "gsm8k", "humaneval", "jsonl", "mt_bench", "records", "spec_bench", "speed_bench", "stories", "stream",
        "wordproblems",
    ]  # fmt: skip
