"""Load lm-eval's tasks that run generated code, so that the code runs in the sandbox.

The modules of these tasks call `evaluate.load("code_eval")` when they are imported, and use the result at once. While this module
loads a task, that call returns `SandboxedCodeEval`. So generated code runs only in `sdbench.lm_eval.sandbox`. The package
`evaluate` is not imported.

pass@k is the unbiased estimate 1 - C(n - c, k) / C(n, k) over n answers of which c pass (Chen et al. 2021, section 2.1).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import comb
from pathlib import Path
from types import ModuleType
from typing import Any

from sdbench.errors import InputError
from sdbench.lm_eval.sandbox import Limits, run

# The folders of lm-eval whose tasks run code through code_eval only.
SANDBOXED = ("humaneval", "humaneval_infilling", "mbpp")


class SandboxedCodeEval:
    """Implements the interface of `evaluate`'s metric code_eval with the sandbox.

    limits: for each program. importing: a task's module is being imported. It tries out `compute`, and nothing runs then.
    """

    def __init__(self, limits: Limits | None = None, importing: bool = False) -> None:
        self.limits = limits
        self.importing = importing

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], list[list[dict[str, Any]]]]:
        """Run every answer with its tests.

        references: the tests of each prompt. predictions: the answers to each prompt. k: the values of k for pass@k. Returns the
        mean pass@k over the prompts, by name, and the outcome of each answer.
        """
        if self.importing:
            return {}, []
        outcomes = [
            [run(f"{answer}\n{tests}\n", self.limits) for answer in answers]
            for tests, answers in zip(references, predictions, strict=True)
        ]
        rates = {f"pass@{n}": _mean([pass_at(n, [one.passed for one in some]) for some in outcomes]) for n in k}
        return rates, [[{"passed": one.passed, "result": one.reason} for one in some] for some in outcomes]


def pass_at(k: int, passed: Sequence[bool]) -> float:
    """Return the probability that at least one of k answers passes, drawn from these without replacement.

    passed: whether each answer passed. Errors: InputError if there are fewer than k answers.
    """
    n, right = len(passed), sum(passed)
    if n < k:
        raise InputError(f"pass@{k} needs at least {k} answers to each prompt; there are {n}.")
    return 1 - comb(n - right, k) / comb(n, k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_unsafe(name: str, source: Path | None) -> None:
    """Refuse a task whose code cannot run in the sandbox. source: the task's YAML file."""
    if source is None or source.parent.name not in SANDBOXED:
        raise InputError(
            f"The task {name} runs generated code in a way that cannot be put into the sandbox; those of lm-eval's folders "
            f"{', '.join(SANDBOXED)} can."
        )


@contextmanager
def in_sandbox(source: Path) -> Iterator[None]:
    """Replace the module `evaluate` while a task is loaded, so that code_eval is the sandbox. source: the task's YAML file."""
    stand_in: Any = ModuleType("evaluate")
    made: list[SandboxedCodeEval] = []

    def load(metric: str) -> SandboxedCodeEval:
        if metric != "code_eval":
            raise InputError(
                f"A task that runs code asks for the metric {metric}; only code_eval can run in the sandbox."
            )
        made.append(SandboxedCodeEval(importing=True))
        return made[-1]

    stand_in.load = load
    # lm-eval may have imported the task's module earlier, with the original code_eval. So it is imported again.
    sys.modules.pop(f"lm_eval.tasks.{source.parent.name}.utils", None)
    original = sys.modules.get("evaluate")
    sys.modules["evaluate"] = stand_in
    try:
        yield
    finally:
        if original is None:
            del sys.modules["evaluate"]
        else:
            sys.modules["evaluate"] = original
        for one in made:
            one.importing = False
