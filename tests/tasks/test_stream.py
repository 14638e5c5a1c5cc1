"""A stream of prompts whose kind changes."""

import pytest

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.harness.config import compose
from sdbench.tasks.stream import Stream
from sdbench.tasks.tiny import Records, Stories, WordProblems


def test_one_task_behind_the_other():
    stream = Stream(WordProblems(), Records(), each=3)
    prompts = stream.prompts()
    assert [prompt.category for prompt in prompts] == ["wordproblems"] * 3 + ["records"] * 3
    assert [prompt.text for prompt in prompts[3:]] == [prompt.text for prompt in Records().prompts(3)]
    assert stream.prompts(4) == prompts[:4]
    assert stream.scored
    assert stream.synthetic


def test_each_prompt_is_scored_by_its_own_task():
    stream = Stream(WordProblems(), Records(), each=1)
    problem, record = stream.prompts()
    assert stream.score(record, record.reference) == 1
    assert stream.score(problem, f"The answer is {problem.reference}.") == 1
    assert stream.score(problem, record.reference) == 0
    assert not Stream(WordProblems(), Stories()).scored


def test_a_part_may_be_a_stream():
    stream = Stream(WordProblems(), Stream(Records(), Stories(), each=2), each=4)
    kinds = [prompt.category for prompt in stream.prompts()]
    assert kinds == ["wordproblems"] * 4 + ["records"] * 2 + ["stories"] * 2


def test_conf():
    words = ["tasks=stream", "tasks@tasks.second=stories", "tasks.each=2"]
    stream = build(compose(words)["tasks"], {}, "tasks")
    assert [prompt.category for prompt in stream.prompts()] == ["wordproblems"] * 2 + ["stories"] * 2
    assert stream.max_new_tokens == 192


def test_refusals():
    with pytest.raises(InputError, match="share prompts: give them different ones"):
        Stream(Records(), Records()).prompts()
    assert len(Stream(Records(), Records(seed=1), each=2).prompts()) == 4
    other = Records()
    other.stop = ("end",)
    with pytest.raises(InputError, match="end their answers with different strings"):
        Stream(WordProblems(), other)
