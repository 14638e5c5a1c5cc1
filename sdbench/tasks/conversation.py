"""Ask a turn of a conversation of several turns, in which the target itself has answered the earlier ones.

The prompts of a run are the same for all its arms. So the answers to the earlier turns come from finished runs, one for each turn.
Run the first turn, then give its folder as `answers`: the prompts are then the second turns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sdbench.errors import InputError
from sdbench.paths import expanded
from sdbench.runs.record import load
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row


class Conversation(DatasetTask):
    """Read one turn of each conversation.

    answers: the folder of a finished run on the turn before, or a list of them for all turns before, in order. null: the prompts
    are the first turns. The answers are those of the baseline of each run. A conversation without this turn, or without an answer
    to an earlier one, is left out. The other arguments are those of `DatasetTask`.
    """

    def __init__(self, answers: str | Sequence[str] | None = None, **named: Any) -> None:
        super().__init__(**named)
        given = [answers] if isinstance(answers, str) else list(answers or ())
        self._answers = [_baseline_texts(self.name, path, turn) for turn, path in enumerate(given, 1)]

    @abstractmethod
    def turns(self, row: Row) -> tuple[str, list[str], str]:
        """Return the id, the user's turns and the category of a row. Errors: InputError."""

    def prompt(self, row: Row) -> Prompt | None:
        name, turns, category = self.turns(row)
        count = len(self._answers)
        texts = [answers.get(_turn_id(name, turn)) for turn, answers in enumerate(self._answers, 1)]
        if len(turns) <= count or None in texts:
            return None
        messages = [
            message
            for turn, text in zip(turns, texts, strict=False)
            for message in (Message("user", turn), Message("assistant", text or ""))
        ]
        messages.append(Message("user", turns[count]))
        return Prompt(
            id=_turn_id(name, count + 1),
            text="\n\n".join(message.content for message in messages),
            messages=tuple(messages),
            category=category,
        )


def _turn_id(name: str, turn: int) -> str:
    return name if turn == 1 else f"{name}/turn{turn}"


def _baseline_texts(task: str, path: str, turn: int) -> Mapping[str, str]:
    """Return what the baseline of a finished run answered to each prompt. Errors: InputError if the run is of another task."""
    run = load(expanded(path))
    own = run.sequences[(run.sequences["arm"] == run.summary["baseline"]) & (run.sequences["repeat"] == 0)]
    texts = dict(zip(own["prompt_id"], own["text"], strict=True))
    here = [name for name in texts if name.startswith(f"{task}/") and (turn == 1) == ("/turn" not in name)]
    if not here or (turn > 1 and not any(name.endswith(f"/turn{turn}") for name in here)):
        raise InputError(
            f"tasks.answers: {path} holds no answers to turn {turn} of {task}; name a run of tasks={task}."
        )
    return texts
