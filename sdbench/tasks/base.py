"""Define a task: prompts in a fixed order, a score for each answer, and the strings that end an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sdbench.errors import InputError


@dataclass(frozen=True)
class Message:
    """Hold one turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """Hold one prompt.

    id: unique within the task. text: the plain form, which a base model continues. messages: the chat form, for a
    tokenizer that has a chat template (empty: the encoder always uses the plain form). reference: the text that a scorer
    compares with (None: no reference). category: a category of the task ('': none).
    """

    id: str
    text: str
    messages: tuple[Message, ...] = ()
    reference: str | None = None
    category: str = ""


class Task(Protocol):
    """Provide a set of prompts, and score the answers."""

    @property
    def name(self) -> str:
        """Return the name that reports use."""
        ...

    @property
    def scored(self) -> bool:
        """Return whether `score` gives numbers."""
        ...

    @property
    def synthetic(self) -> bool:
        """Return whether a generator wrote the prompts; a report labels such runs."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Return the strings that end an answer, in addition to the model's end-of-sequence tokens."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Return the default length limit of an answer, in tokens; a run may set another."""
        ...

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` prompts (None: all) in a fixed order that alternates between the categories."""
        ...

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return the score of an answer, 0 to 1; None if the task has no score. text: the answer without its stop."""
        ...


def provenance(task: Task) -> dict[str, Any]:
    """Return what a task records about the source of its prompts and of its scoring; {} if it records nothing."""
    return getattr(task, "provenance", dict)()


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of a list of prompts: their ids, texts, chats, references and categories, in order."""
    document = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()


def select(
    prompts: Sequence[Prompt], task: str, limit: int | None, category: str | Sequence[str] | None = None
) -> list[Prompt]:
    """Return at most `limit` prompts of the wanted categories, and alternate between the categories.

    So a small limit covers every category. The list for a smaller limit is the start of the list for a larger one.
    Errors: InputError for an unknown category or a bad limit.
    """
    by_category: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    if category is not None:
        wanted = [category] if isinstance(category, str) else list(category)
        for name in wanted:
            if name not in by_category:
                known = ", ".join(sorted(by_category)) if any(by_category) else "none"
                raise InputError(f"The task {task} has no category '{name}'; its categories: {known}.")
        by_category = {name: by_category[name] for name in wanted}
    check_limit(limit)
    longest = max((len(queue) for queue in by_category.values()), default=0)
    ordered = [queue[turn] for turn in range(longest) for queue in by_category.values() if turn < len(queue)]
    return ordered[:limit]


def check_limit(limit: int | None) -> None:
    """Refuse a number of prompts that is not positive. Errors: InputError."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be a positive number of prompts, or null for all.")
