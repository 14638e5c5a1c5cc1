"""Define the documents and scores of this package's lm-eval tasks. The YAML files of the tasks name these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdbench.tasks.base import Prompt
from sdbench.tasks.tiny import Records, TinyTask, WordProblems

if TYPE_CHECKING:
    from datasets import Dataset

Result = dict[str, float]


def _documents(task: type[TinyTask]) -> Callable[..., dict[str, Dataset]]:
    def documents(**_: Any) -> dict[str, Dataset]:
        """Return the held-out texts of the generator, as in the bench's task of the same name."""
        from datasets import Dataset

        prompts = task().prompts()
        rows = [{"id": prompt.id, "prompt": prompt.text, "answer": prompt.reference} for prompt in prompts]
        return {"test": Dataset.from_list(rows)}

    return documents


def _score(task: WordProblems | Records) -> Callable[[Mapping[str, Any], Sequence[str]], Result]:
    def score(document: Mapping[str, Any], results: Sequence[str]) -> Result:
        """Score an answer as the bench's task of the same name does."""
        prompt = Prompt(document["id"], document["prompt"], reference=document["answer"])
        return {"exact_match": task.score(prompt, results[0])}

    return score


wordproblems, score_wordproblems = _documents(WordProblems), _score(WordProblems())
records, score_records = _documents(Records), _score(Records())


def score_mathematics(document: Mapping[str, Any], results: Sequence[str]) -> Result:
    """Score 1 if the answer equals the reference mathematically, else 0.

    math-verify compares them: 1/2 equals 0.5, and the order of a set is irrelevant.
    """
    from math_verify import parse, verify

    reference = parse(f"\\boxed{{{document['answer']}}}")
    return {"exact_match": float(verify(reference, parse(results[0])))}
