"""Make an lm-eval task a task of the bench, with its prompts and its own scores.

lm-eval builds the contexts: as plain text, and as a chat for a tokenizer with a template. Its seed draws the worked examples. The
task's filters and its `process_results` score a text. A task that scores likelihoods is an error, because it does not use the arm.
The run's `sampling` chooses the tokens, as for every task.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError, RunError, ScoringError
from sdbench.lm_eval.copies import DATA_SETS, advice, check_source
from sdbench.tasks.base import Message, Prompt, check_limit, select

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LmTask

    from sdbench.lm_eval.generation import Generation

FEWSHOT_SEED = 1234  # lm-eval's default


class LmEvalTask:
    """A generative task of lm-eval, or a group of such tasks. The tasks of a group are the categories.

    task: lm-eval's name. metric: the metric that is the score, as `metric` or `metric,filter` (None: the first of each).
    num_fewshot: the number of worked examples (None: the task's number). run_code: allow the score to run generated code in a
    sandbox. Without it, a task whose score runs code gives prompts and no score. settings: values that replace those of the
    task's file, by key. max_new_tokens: the maximum length of an answer (None: the task's).
    """

    def __init__(
        self,
        task: str | None = None,
        metric: str | None = None,
        num_fewshot: int | None = None,
        run_code: bool = False,
        settings: Mapping[str, Any] | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        if task is None:
            raise InputError("The task lm_eval/any needs one of lm-eval's: tasks.task=NAME, or tasks=lm_eval/NAME.")
        self.name = f"lm_eval/{task}"
        self.task = task
        self.metric, _, self.filter = (metric or "").partition(",")
        self.num_fewshot = num_fewshot
        self.run_code = run_code
        self.settings = dict(settings or {})
        self._max_new_tokens = max_new_tokens
        self._asked: dict[str, tuple[LmTask, int, Any]] = {}

    @property
    def synthetic(self) -> bool:
        return any((task.config.metadata or {}).get("synthetic", False) for task in self._tasks.values())

    @property
    def scored(self) -> bool:
        return self.run_code or not self._runs_code

    @property
    def notes(self) -> list[str]:
        """Return what the reader of a run must know about the score."""
        if self.scored:
            return []
        return [
            f"{self.name} has no score in this run: the score runs the code that the model writes. tasks.run_code=true "
            "allows that, in a sandbox."
        ]

    @property
    def stop(self) -> tuple[str, ...]:
        return self._generation.until

    @property
    def max_new_tokens(self) -> int:
        return self._max_new_tokens or self._generation.max_new_tokens

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` documents as prompts. The tasks of a group take turns."""
        check_limit(limit)
        grouped = len(self._tasks) > 1
        found = select(
            [
                self._prompt(task, index, document, name if grouped else "")
                for name, task in self._tasks.items()
                for index, document in task.doc_iterator(limit=limit)
            ],
            self.name,
            limit,
        )
        for prompt in found[:1]:
            try:
                self.score(prompt, "0")  # a package that the score lacks is an error before any decoding
            except RunError as error:
                raise InputError(str(error)) from error
        return found

    def check_source(self) -> None:
        """Check that the questions can be read. For a task with a config file this does not import lm-eval. Errors: InputError."""
        dataset = DATA_SETS.get(self.task)
        if dataset:
            check_source(dataset)
        else:
            self.prompts(1)

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Score the text that answers a prompt, by the task's metric; None without a score.

        Errors: ScoringError if the task cannot score this answer; RunError if it cannot score any answer.
        """
        from lm_eval.api.instance import Instance

        if not self.scored:
            return None
        task, index, document = self._asked[prompt.id]
        answer = Instance("generate_until", document, (prompt.text, {}), 0, (task.task_name, index, 1), resps=[text])
        task._instances = [answer]
        values: Any
        try:
            task.apply_filters()
            chosen = self.filter or next(iter(answer.filtered_resps))
            values = task.process_results(document, [answer.filtered_resps[chosen]])
        except RunError:
            raise
        except Exception as error:  # a task's module may raise any exception
            raise ScoringError(f"{self.name} cannot score an answer to {prompt.id} ({_first_line(error)}).") from error
        value = values.get(self.metric or next(iter(values)))
        if not isinstance(value, (int, float)):
            raise RunError(
                f"The metric '{self.metric}' of {self.name} gives {value!r}, no number; it gives: {', '.join(values)}."
            )
        return float(value)

    def provenance(self) -> dict[str, Any]:
        """Return lm-eval's version, each task's version and source, and the SHA-256 of each document, for the record."""
        from lm_eval.utils import handle_non_serializable, hash_string

        def sha256(document: Any) -> str:
            # The same hash as in lm-eval's records.
            return hash_string(json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False))

        return {
            "lm_eval": metadata.version("lm-eval"),
            "tasks": {name: _described(task) for name, task in self._tasks.items()},
            "documents_sha256": {name: sha256(document) for name, (_, _, document) in self._asked.items()},
        }

    @cached_property
    def _tasks(self) -> dict[str, LmTask]:
        from sdbench.lm_eval.catalogue import Catalogue

        catalogue = Catalogue([self.task], settings=self.settings)
        try:
            with _quiet():
                tasks = catalogue.tasks(self.task)
        except InputError:
            raise
        except Exception as error:  # the hub, the network and the task's module raise different types
            raise InputError(_unreadable(self.name, catalogue, self.task, error)) from error
        for task in tasks.values():
            self._check(task)
        return tasks

    @property
    def _runs_code(self) -> bool:
        return any(getattr(task.config, "unsafe_code", False) for task in self._tasks.values())

    def _check(self, task: LmTask) -> None:
        """Refuse a task whose score is not a mean over single texts. Set the worked examples as `lm_eval.simple_evaluate` does."""
        from lm_eval.api.registry import get_aggregation

        if task.OUTPUT_TYPE != "generate_until":
            raise InputError(
                f"The task {task.task_name} is scored by likelihoods ({task.OUTPUT_TYPE}), which are the target's: it does not see "
                "an arm. Choose a generative task, or run it by `python -m sdbench.lm_eval run`."
            )
        if task.config.repeats != 1:
            raise InputError(
                f"The task {task.task_name} scores {task.config.repeats} answers together; here each has its own."
            )
        shots = self.num_fewshot if self.num_fewshot is not None else task.config.num_fewshot or 0
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        aggregations: Any = task.aggregation()
        better: Any = task.higher_is_better()
        mean = get_aggregation("mean")
        metric = self.metric or next(iter(aggregations))
        known = ", ".join(name for name, one in aggregations.items() if one is mean) or "none"
        if aggregations.get(metric, mean) is not mean or not better.get(metric, True):
            raise InputError(
                f"The metric {metric} of {task.task_name} is no mean of scores; tasks.metric may be: {known}."
            )
        filters = [one.name for one in task._filters]
        if self.filter and self.filter not in filters:
            raise InputError(f"The task {task.task_name} has no filter '{self.filter}'; it has: {', '.join(filters)}.")

    @cached_property
    def _generation(self) -> Generation:
        from sdbench.lm_eval.generation import generation

        every = {generation(task.config.generation_kwargs, f"The task {name}") for name, task in self._tasks.items()}
        if len({(one.until, one.max_new_tokens) for one in every}) > 1:
            raise InputError(f"The tasks of {self.name} end their answers differently; name one of them.")
        return next(iter(every))

    def _prompt(self, task: LmTask, index: int, document: Any, category: str) -> Prompt:
        name = f"{task.task_name}/{index}"
        self._asked[name] = (task, index, document)
        chats: list[list[dict[str, str]]] = []

        def template(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
            chats.append(messages)
            return ""

        shots, prefix = task.config.num_fewshot or 0, task.doc_to_prefix(document)
        sampler: Any = getattr(task, "sampler", None)
        drawn = sampler.rnd.getstate() if sampler is not None else None
        text = task.fewshot_context(document, shots, gen_prefix=prefix)
        if sampler is not None:
            sampler.rnd.setstate(drawn)  # both forms get the same examples
        as_chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": template}
        task.fewshot_context(document, shots, gen_prefix=prefix, **as_chat)
        chat = tuple(Message(turn["role"], turn["content"]) for turn in chats[0])
        return Prompt(name, text, chat, str(task.doc_to_target(document)), category)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's advice, and the output of the tasks' modules during import, out of the run's standard output."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip(" .") for line in str(error).splitlines() if any(sign.isalnum() for sign in line)]
    how = ["pip install 'sdbench[quality]' brings what these scores need"] if isinstance(error, ImportError) else []
    return "; ".join([": ".join([type(error).__name__, *lines[:1]]), *how])


def _described(task: LmTask) -> dict[str, Any]:
    config = task.config
    split = config.test_split or config.validation_split
    return {
        "version": task.VERSION,
        "dataset": config.dataset_path,
        "dataset_name": config.dataset_name,
        "source": repr(config.custom_dataset) if hasattr(config.custom_dataset, "files") else "hub or package",
        "num_fewshot": config.num_fewshot,
        "split": split,
        "fewshot_split": (config.fewshot_split or config.training_split or split) if config.num_fewshot else None,
        "generation_kwargs": config.generation_kwargs,
    }


def _unreadable(name: str, catalogue: Any, task: str, error: Exception) -> str:
    return f"{name} could not be read ({_first_line(error)}){advice(catalogue.dataset(task))}."
