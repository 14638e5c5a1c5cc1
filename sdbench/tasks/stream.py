"""A stream of prompts whose kind changes: one task behind another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.tasks.base import Prompt, Task, check_limit, provenance


class Stream:
    """Give the prompts of one task, then those of another. A part may be such a stream too.

    first, second: the tasks. each: prompts of each part (null: all of its prompts). max_new_tokens: the longest answer, in tokens
    (null: the longer of the two limits). The category of a prompt is the name of its part, so that results are shown by part.

    Errors: InputError if the parts end their answers with different strings, or have prompts of the same id.
    """

    name = "stream"

    def __init__(self, first: Task, second: Task, each: int | None = 20, max_new_tokens: int | None = None) -> None:
        check_limit(each)
        self.parts, self.each = (first, second), each
        if set(first.stop) != set(second.stop):
            raise InputError(
                f"The tasks {first.name} and {second.name} end their answers with different strings: run them one by one."
            )
        self.stop: tuple[str, ...] = tuple(first.stop)
        longest = max(part.max_new_tokens for part in self.parts)
        self.max_new_tokens = (
            longest if max_new_tokens is None else validate.whole("tasks.max_new_tokens", max_new_tokens, 1)
        )
        self._sources: dict[str, tuple[Task, Prompt]] = {}

    @property
    def scored(self) -> bool:
        """Say whether each part has a score."""
        return all(part.scored for part in self.parts)

    @property
    def synthetic(self) -> bool:
        return any(part.synthetic for part in self.parts)

    def provenance(self) -> dict[str, Any]:
        """Return what the parts record about their prompts."""
        return {part.name: provenance(part) for part in self.parts}

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` prompts of the stream (None: all)."""
        check_limit(limit)
        found: list[Prompt] = []
        for part in self.parts:
            found += [self._taken(part, prompt) for prompt in part.prompts(self.each)]
        names = [prompt.id for prompt in found]
        if len(set(names)) < len(names):
            raise InputError(
                "The parts of the stream share prompts: give them different ones, such as by tasks.second.seed."
            )
        return found[:limit]

    def _taken(self, part: Task, prompt: Prompt) -> Prompt:
        self._sources[prompt.id] = part, prompt
        nested = isinstance(part, Stream)
        return prompt if nested else replace(prompt, category=part.name)

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return the score that the prompt's own task gives."""
        part, own = self._sources[prompt.id]
        return part.score(own, text)
