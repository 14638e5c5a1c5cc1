"""What a task is: prompts in a fixed order, a score for the text that answers one, and where an answer ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sdbench.errors import InputError


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    id: unique within the task. text: the plain form, which a base model continues. messages: the chat form, for a
    tokenizer that has a chat template (empty: the prompt is always given as plain text). reference: what a scorer
    compares with (None: nothing). category: the task's own, '' where it has none.
    """

    id: str
    text: str
    messages: tuple[Message, ...] = ()
    reference: str | None = None
    category: str = ""


class Task(Protocol):
    """A set of prompts and how answers to them are scored."""

    @property
    def name(self) -> str:
        """The name that reports use."""
        ...

    @property
    def scored(self) -> bool:
        """Whether `score` gives numbers."""
        ...

    @property
    def synthetic(self) -> bool:
        """Whether the prompts are generated; a report labels such runs."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer, beside the model's own end-of-sequence tokens."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The longest answer, in tokens, unless the run says otherwise."""
        ...

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """The first `limit` prompts (all: None) in an order that never changes; categories take turns."""
        ...

    def score(self, prompt: Prompt, text: str) -> float | None:
        """How good the text (cut before its stop) is as an answer, 0 to 1; None where the task has no score."""
        ...


def provenance(task: Task) -> dict[str, Any]:
    """What a task says of where its prompts and its scoring come from, for the record: {} for one that says nothing."""
    return getattr(task, "provenance", dict)()


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """The identity of a list of prompts: a SHA-256 of their ids, texts, chats, references and categories, in order."""
    document = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()


def select(
    prompts: Sequence[Prompt], task: str, limit: int | None, category: str | Sequence[str] | None = None
) -> list[Prompt]:
    """The prompts of the wanted categories, the categories in turn, at most `limit` of them.

    So a small limit covers every category, and the prompts of a smaller limit open those of a larger one.
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
    """Refuse a number of prompts that is not positive."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be a positive number of prompts, or null for all.")
