"""lm-eval's tasks that run generated code, with the sandbox in the place of what runs it.

Their modules take `evaluate.load("code_eval")` when they are imported, and try it out at once. While they are loaded here, that
call gives `SandboxedCodeEval`, so that nothing which a model wrote is run outside of `sdbench.lm_eval.sandbox` (and `evaluate`,
with all that it imports, need not be loaded).

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

# The folders of lm-eval whose tasks run code through code_eval and in no other way.
SANDBOXED = ("humaneval", "humaneval_infilling", "mbpp")


class SandboxedCodeEval:
    """The interface of `evaluate`'s metric code_eval."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], list[list[dict[str, Any]]]]:
        """Mean pass@k over the references, each of which tests its list of predictions; and what became of each."""
        outcomes = [
            [run(f"{answer}\n{tests}\n", self.limits) for answer in answers]
            for tests, answers in zip(references, predictions, strict=True)
        ]
        rates = {f"pass@{n}": _mean([pass_at(n, [one.passed for one in some]) for some in outcomes]) for n in k}
        return rates, [[{"passed": one.passed, "result": one.reason} for one in some] for some in outcomes]


def pass_at(k: int, passed: Sequence[bool]) -> float:
    """The probability that k answers, drawn from these without replacement, hold one that passes."""
    n, right = len(passed), sum(passed)
    if n < k:
        raise InputError(f"pass@{k} needs at least {k} answers to each prompt; there are {n}.")
    return 1 - comb(n - right, k) / comb(n, k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_unsafe(name: str, source: Path | None) -> None:
    """Refuse a task that runs code in a way of its own."""
    if source is None or source.parent.name not in SANDBOXED:
        raise InputError(
            f"The task {name} runs generated code in a way that cannot be put into the sandbox; those of lm-eval's folders "
            f"{', '.join(SANDBOXED)} can."
        )


@contextmanager
def in_sandbox(source: Path) -> Iterator[None]:
    """While the task of this YAML file is loaded, what its module imports as `evaluate` has the sandbox for code_eval."""
    stand_in: Any = ModuleType("evaluate")
    stand_in.load = _load
    # A module that was loaded before, by lm-eval alone, holds on to what it took then.
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


def _load(metric: str) -> SandboxedCodeEval:
    if metric != "code_eval":
        raise InputError(f"A task that runs code asks for the metric {metric}, of which it is not known what it runs.")
    return SandboxedCodeEval()
