"""Test `MyTask`: the scorer on answers of many forms, and the prompts."""

import pytest
from my_task import MyTask

from sdbench.errors import InputError


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("10 + 2 = 12. 12 - 4 = 8. The answer is 8.", 1),
        ("1. 12 books\n2. 8 books\nThe answer is 8. He sold 4.", 1),
        ("The answer is 9. No. The answer is 8.", 1),
        ("The answer is 8. No. The answer is 9.", 0),
        ("The answer is 18.", 0),
        ("The answer is 8.5.", 0),
        ("The answer is -8.", 0),
        ("The answer is eight.", 0),
        ("10 + 2 - 4 = 8", 0),
        ("", 0),
    ],
)
def test_score(text, score):
    task = MyTask()
    (prompt,) = task.prompts(1)
    assert prompt.reference == "8"
    assert task.score(prompt, text) == score


def test_every_prompt_has_its_own_id_and_an_answer_that_scores():
    task = MyTask(largest=12)
    prompts = task.prompts()
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 30
    assert [task.score(prompt, f"The answer is {prompt.reference}.") for prompt in prompts] == [1] * 30


def test_a_limit_takes_the_first_prompts():
    assert MyTask().prompts(5) == MyTask().prompts()[:5]


@pytest.mark.parametrize("largest", [9, 20.5, "ten"])
def test_a_bad_value_is_refused(largest):
    with pytest.raises(InputError, match=r"tasks\.largest"):
        MyTask(largest)
