"""lm-eval's tasks as the bench's: prompts, scores, provenance and refusals, on rows of each published set's schema."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.harness.config import choices, compose
from sdbench.lm_eval.catalogue import SHIPPED as FOLDER, Catalogue
from sdbench.lm_eval.copies import COPIES, DATA_SETS
from sdbench.lm_eval.sandbox import Outcome
from sdbench.tasks import encode
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.texts import generate
from tests.lm_eval.rows import ROWS, mmlu_rows, write
from tests.tasks.tokenizers_made import CHAT, byte_level

# Of each shipped task: an answer that is right for the first row, one that is not, where its outputs end, its worked examples.
SHIPPED = {
    "gsm8k": ("So #### 1", "The answer is 7.", "Q:", 0),
    "lm_eval/gsm8k": ("So #### 1", "The answer is 1.", "Question:", 5),  # its first filter is the strict one
    "humaneval": ("    return 2 * x\n```\nIt doubles x.", "    return x\n", "\ndef", 0),
    "lm_eval/humaneval": ("    return 2 * x\n", "    return x\n", "\ndef", 0),
    "lm_eval/mbpp": ("def double(x):\n    return x + x\n", "def double(x): return x\n", "[DONE]", 3),
    "commonsense_qa": (" A library. The answer is (B).", " (A)", "Question:", 0),
    "lm_eval/ifeval": ("blue", "blue, or red", None, 0),
    "lm_eval/math500": ("Half of one is $0.5$.", "It is \\boxed{2}.", "Problem:", 0),
}
RUN_CODE = {"humaneval", "lm_eval/humaneval", "lm_eval/mbpp"}


def made(name: str, *words: str):
    return build(compose([f"tasks={name}", *words])["tasks"], {}, "tasks")


@pytest.mark.parametrize("name", SHIPPED)
def test_prompts_and_scores(name, data):
    right, wrong, stop, shots = SHIPPED[name]
    task = made(name, *(["tasks.run_code=true"] if name in RUN_CODE else []))
    first = task.prompts(1)[0]
    assert task.score(first, right) == 1.0
    assert task.score(first, wrong) == 0.0
    assert task.scored
    assert not task.synthetic
    assert stop is None or stop in task.stop
    begun = first.messages[-1].role == "assistant"  # HumanEval begins the answer
    assert begun == (name == "humaneval")
    assert len([turn for turn in first.messages if turn.role == "assistant"]) == shots + begun
    (described,) = task.provenance()["tasks"].values()
    assert described["num_fewshot"] == shots
    assert "SDBENCH_DATA" in described["source"]
    assert str(data) not in json.dumps(task.provenance()), "no path of this machine"


@pytest.mark.parametrize("name", [*sorted(RUN_CODE), f"lm_eval/any tasks.task={FOLDER}/humaneval/humaneval.yaml"])
def test_without_leave_to_run_code_there_are_prompts_and_no_score(name, data, monkeypatch):
    monkeypatch.setattr("sdbench.lm_eval.code_eval.run", lambda *_: pytest.fail("nothing may run"))
    task = made(*name.split())
    (first,) = task.prompts(1)
    assert "double" in first.text
    assert not task.scored
    assert task.score(first, "    return 2 * x\n") is None
    assert "tasks.run_code=true" in task.notes[0]


def test_code_runs_in_the_sandbox_only(data, monkeypatch):
    ran = []
    monkeypatch.setattr(
        "sdbench.lm_eval.code_eval.run", lambda program, _: ran.append(program) or Outcome(True, "passed")
    )
    task = made("humaneval", "tasks.run_code=true")
    (first,) = task.prompts(1)
    ran.clear()  # the task was tried out on one answer
    assert task.score(first, "    import os\n") == 1.0
    assert [program.startswith(first.text.rpartition("```python\n")[2].rstrip()) for program in ran] == [True]
    assert "import os" in ran[0]
    assert "check(double)" in ran[0]


# Worked answers to a question whose answer is given: the score by `flexible-extract` and by `strict-match`. The values are
# lm-eval's: the first takes the last number of the text, the second the number behind the first "The answer is".
WORKED = [
    ("Step 3: 4 * 5 = 20 dollars. The answer is 20.", "20", 1, 1),
    ("1. 3 apples\n2. 5 apples\nTotal: 8 apples", "8", 1, 0),
    ("\\boxed{18}", "18", 1, 0),
    ("It costs $1,234.50", "1234.50", 1, 0),
    ("It costs $1,234.50", "1234.5", 0, 0),  # numbers are compared as text
    ("The answer is 70,000.", "70,000", 1, 1),
    ("x = 12/4 = 3 km/h", "3", 1, 0),
    ("x = 12/4 = 3 km/h", "12", 0, 0),
    ("#### 18", "18", 1, 0),
    ("The answer is 18. This took 3 steps.", "18", 0, 1),
    ("The answer is 17. No, the answer is 18", "18", 1, 0),
    ("The answer is -5.", "-5", 1, 1),
    ("The answer is 5.", "-5", 0, 0),
    ("1.\n2.\n3.", "3", 1, 0),  # a list without an answer
    ("none at all", "3", 0, 0),
]


@pytest.mark.parametrize("metric", ["flexible-extract", "strict-match"])
def test_worked_answers(metric, data):
    rows = [{"question": "How many?", "answer": f"#### {reference}"} for _, reference, _, _ in WORKED]
    write(data, "gsm8k_test.jsonl", rows)
    task = made("gsm8k", f'tasks.metric="exact_match,{metric}"')
    scores = [task.score(prompt, text) for prompt, (text, *_) in zip(task.prompts(), WORKED, strict=True)]
    assert scores == [flexible if metric == "flexible-extract" else strict for *_, flexible, strict in WORKED]


def test_gsm8k_is_scored_by_the_flexible_filter():
    assert compose(["tasks=gsm8k"])["tasks"]["metric"] == "exact_match,flexible-extract"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1. (A) is a bank\n2. (B) lends books\nThe answer is (B).", 1),
        ("The answer is B", 1),
        ("The answer is: **B**", 1),
        ("The answer is (A). No: the answer is (B).", 1),
        ("The answer is (B). (A) is a bank.", 1),
        ("Of (A) and (B), (B) is better.", 0),
        ("The answer is Bank", 0),
        ("B", 0),
        ("", 0),
    ],
)
def test_stated_letters(text, score, data):
    task = made("commonsense_qa")
    assert task.score(task.prompts(1)[0], text) == score


def test_a_limit_takes_the_first(data):
    for name in ("gsm8k", "commonsense_qa", "humaneval"):
        every = made(name).prompts()
        assert made(name).prompts(1) == every[:1]
    assert len(made("gsm8k").prompts()) == 8


def test_provenance_says_what_was_asked(data):
    task = made("lm_eval/gsm8k")
    prompts = task.prompts(3)
    found = task.provenance()
    assert found["lm_eval"].startswith("0.4.")
    assert found["tasks"]["gsm8k"]["version"] == 3.0
    assert found["tasks"]["gsm8k"]["fewshot_split"] == "test", "the copy has no other split to draw from"
    assert list(found["documents_sha256"]) == [prompt.id for prompt in prompts]
    assert len(set(found["documents_sha256"].values())) == 3
    changed = [{**row, "question": row["question"] + "?"} for row in ROWS["gsm8k_test.jsonl"]]
    write(data, "gsm8k_test.jsonl", changed)
    again = made("lm_eval/gsm8k")
    again.prompts(3)
    assert not set(again.provenance()["documents_sha256"].values()) & set(found["documents_sha256"].values())


def test_examples_are_drawn_alike_for_both_forms_and_every_limit(data):
    task = made("lm_eval/gsm8k")
    few, many = task.prompts(2), made("lm_eval/gsm8k").prompts(4)
    assert few == many[:2]
    for prompt in many:
        question = ROWS["gsm8k_test.jsonl"][int(prompt.id.rpartition("/")[2])]["question"]
        assert prompt.text.count(question) == 1, "a question is no example of itself"
        for turn in prompt.messages:
            assert turn.content.strip() in prompt.text


def test_settings_change_the_tasks_own_file(data):
    task = made(
        "lm_eval/gsm8k", "tasks.num_fewshot=0", "+tasks.settings.generation_kwargs={until: [X], max_gen_toks: 7}"
    )
    assert task.prompts(1)[0].text == "Question: Ann has 0 pens and buys 1. How many?\nAnswer:"
    assert (task.stop, task.max_new_tokens) == (("X",), 7)
    assert made("lm_eval/gsm8k", "tasks.max_new_tokens=9").max_new_tokens == 9


@pytest.mark.parametrize("name", ["wordproblems", "records"])
def test_the_tiny_familys_own(name):
    task = made(f"lm_eval/tiny_{name}")
    prompts = task.prompts(3)
    for index, prompt in enumerate(prompts):
        text = generate(name, "test", 0, index)
        assert prompt.text == text.prompt
        assert task.score(prompt, text.completion) == 1.0
        assert task.score(prompt, "no idea") == 0.0
    assert task.synthetic
    assert task.max_new_tokens == 192


def test_a_group_is_asked_in_turn(data):
    write(data, "mmlu_test.jsonl", mmlu_rows(["anatomy", "astronomy"]))
    task = made("lm_eval/mmlu", "tasks.task=mmlu_anatomy_generative")
    first, second = task.prompts()
    assert first.text.startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\nanatomy 0"
    )
    assert "astronomy" not in first.text + second.text
    assert (task.score(first, " A"), task.score(first, " B")) == (1.0, 0.0)


@pytest.mark.slow
def test_all_of_mmlu(data):
    entries = Catalogue(["mmlu_generative"]).task_index.values()
    subjects = {entry.cfg["dataset_name"] for entry in entries if entry.cfg and "dataset_name" in entry.cfg}
    write(data, "mmlu_test.jsonl", mmlu_rows(sorted(subjects)))
    prompts = made("lm_eval/mmlu").prompts(60)
    assert len({prompt.category for prompt in prompts[:57]}) == 57


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SDBENCH_DATA"), reason="SDBENCH_DATA names no folder with humaneval.jsonl.gz")
def test_the_authors_solutions_pass():
    """All 164 of HumanEval's own solutions pass their tests inside the sandbox."""
    task = made("humaneval", "tasks.run_code=true")
    prompts = task.prompts()
    with gzip.open(Path(os.environ["SDBENCH_DATA"]) / "humaneval.jsonl.gz") as lines:
        solutions = [json.loads(line)["canonical_solution"] for line in lines]
    failed = [prompt.id for prompt, text in zip(prompts, solutions, strict=True) if task.score(prompt, text) != 1]
    assert len(prompts) == 164
    assert not failed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["tasks=lm_eval/cruxeval_input"], "cannot be put into the sandbox"),
        (["tasks=lm_eval/cruxeval_input", "tasks.run_code=true"], "cannot be put into the sandbox"),
        (["tasks=lm_eval/commonsense_qa"], "does not see an arm"),
        (["tasks=lm_eval/gsm8k", "tasks.metric=f1"], "cannot|no number"),
        (["tasks=lm_eval/gsm8k", 'tasks.metric="exact_match,none"'], "no filter 'none'; it has: strict-match"),
        (["tasks=lm_eval/ifeval", "tasks.metric=inst_level_strict_acc"], "no mean of scores"),
        (["tasks=lm_eval/gsm8k", "+tasks.settings.repeats=4"], "4 answers together"),
        (["tasks=lm_eval/gsm8k", "+tasks.settings.generation_kwargs={num_beams: 4}"], "num_beams=4"),
        (["tasks=lm_eval/any"], "tasks.task=NAME"),
    ],
)
def test_refusals(words, reason, data):
    def planned() -> int:
        task = build(compose(words)["tasks"], {}, "tasks")
        return len(task.prompts(1)) + task.max_new_tokens

    with pytest.raises(InputError, match=reason):
        planned()


def test_a_subject_that_a_copy_lacks_is_not_asked_with_anothers_questions(data):
    write(data, "mmlu_test.jsonl", mmlu_rows(["anatomy"]))
    write(data, "mmlu_dev.jsonl", mmlu_rows(["anatomy"]))
    with pytest.raises(InputError, match="no rows of the part"):
        build(compose(["tasks=lm_eval/mmlu"])["tasks"], {}, "tasks").prompts(2)


def test_a_set_that_is_not_here_says_where_to_put_it(monkeypatch):
    monkeypatch.delenv("SDBENCH_DATA", raising=False)
    with pytest.raises(InputError, match=r"put math500\.jsonl into the folder that SDBENCH_DATA names"):
        made("lm_eval/math500").prompts(1)


def test_any_task_can_be_named():
    words = compose(["tasks=lm_eval/gsm8k_cot"])["tasks"]
    assert words["task"] == "gsm8k_cot"
    lm_eval_own = {name for name in choices("tasks") if name.startswith("lm_eval/")}
    assert lm_eval_own == {f"lm_eval/{name}" for name in ("any", "ifeval", "math500", "mbpp", "mmlu")}


def test_a_set_has_one_config():
    """No two files of conf/tasks read the same data set."""
    named = [compose([f"tasks={name}"])["tasks"].get("task") for name in choices("tasks")]
    sets = [DATA_SETS[name] for name in named if name is not None]
    assert sorted(sets) == sorted(set(sets)) == sorted(COPIES)


def test_the_names_of_data_sets_are_lm_evals():
    for task, dataset in DATA_SETS.items():
        group = {"mmlu_generative": "mmlu_anatomy_generative"}
        name = group.get(task, task)
        assert Catalogue([name]).dataset(name) == dataset


def test_an_answer_that_was_begun_is_continued():
    """lm-eval's `gen_prefix` becomes an assistant's turn, which the template must leave open."""
    tokenizer = byte_level(300, template=CHAT)
    prompt = Prompt("p", "plain", (Message("user", "ask"), Message("assistant", "Well,")))
    text = tokenizer.decode(encode(prompt, tokenizer))
    assert text.endswith("Well,")
