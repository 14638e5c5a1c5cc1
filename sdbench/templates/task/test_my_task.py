"""Test `MyTask`: the scorer on answers of many forms, and the prompts."""

import pytest
from my_task import MyTask

from sdbench.errors import InputError


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" 2", 1),
        ("2.", 1),
        ("2.0", 1),
        ("1 + 1 = 2", 1),
        ("The sum of 1 and 1 is **2**, of course", 1),
        ("2 or 3", 0),
        ("12", 0),
        ("2.5", 0),
        ("-2", 0),
        ("two", 0),
        ("", 0),
    ],
)
def test_score(text, score):
    task = MyTask()
    (prompt,) = task.prompts(1)
    assert prompt.reference == "2"
    assert task.score(prompt, text) == score


def test_every_prompt_has_its_own_id_and_an_answer_that_scores():
    task = MyTask(largest=3)
    prompts = task.prompts()
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 9
    assert [task.score(prompt, f" {prompt.reference}") for prompt in prompts] == [1] * 9


def test_a_limit_takes_the_first_prompts():
    assert MyTask().prompts(5) == MyTask().prompts()[:5]


@pytest.mark.parametrize("largest", [0, 2.5, "nine"])
def test_a_bad_value_is_refused(largest):
    with pytest.raises(InputError, match=r"tasks\.largest"):
        MyTask(largest)
