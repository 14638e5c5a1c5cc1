"""Let an instruct model write both turns of a conversation (Magpie, 2406.08464).

The model gets the start of its chat template, up to the place where a user would write. It has seen many user turns there, so it
writes one. Then the template closes the turn, and the model answers. No data set is needed.

`openings` are the first words of user turns. They steer what the model writes about, as the system prompts of Magpie do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.sampling import Sampling
from sdbench.tasks.encode import FIXED_DATE
from sdbench.training.corpus import Sample
from sdbench.training.writer import Writer

CHUNK = 1024  # conversations that are written together; the rows of a batch are empty at the end of a chunk only
EMPTY = 2  # chunks without a question, after which the source gives up
SHORTEST = 4  # tokens of a user turn; shorter ones ask nothing
_PLACE = "\x00"  # stands for the user's turn in a rendered template


class SelfInstructed:
    """Write conversations with the target.

    temperature, top_k: of the user's turns. openings: the first words of the user's turns, in turn; an empty one leaves the whole
    turn to the model. answer_temperatures: of the answers, in turn for each opening: 0 is greedy.
    longest_question, longest_answer: in tokens. A question that does not end within its limit is dropped. An answer is cut.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 50,
        answer_temperatures: Sequence[float] = (0.0, 1.0),
        longest_question: int = 160,
        longest_answer: int = 320,
        openings: Sequence[str] = ("",),
    ) -> None:
        validate.whole("recipe.data.longest_question", longest_question, SHORTEST)
        validate.whole("recipe.data.longest_answer", longest_answer, 1)
        if not answer_temperatures:
            raise InputError("recipe.data.answer_temperatures is empty; give at least one, such as [0.0].")
        for one in answer_temperatures:
            validate.number("recipe.data.answer_temperatures", one, 0)
        validate.whole("recipe.data.top_k", top_k)
        if not openings or not all(isinstance(one, str) for one in openings):
            raise InputError(
                f"recipe.data.openings is {openings!r}; it must be a list of texts, such as ['', 'Write a poem']."
            )
        self._openings = list(openings)
        self._asking = Sampling(validate.number("recipe.data.temperature", temperature, 0), top_k)
        self._answering = [Sampling(one) for one in answer_temperatures]
        self._longest_question, self._longest_answer = longest_question, longest_answer

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings."""
        return {
            "kind": "SelfInstructed",
            "temperature": self._asking.temperature,
            "top_k": self._asking.top_k,
            "answer_temperatures": [one.temperature for one in self._answering],
            "longest_question": self._longest_question,
            "longest_answer": self._longest_answer,
            "openings": self._openings,
        }

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        before, behind = template_parts(writer)
        openings = [
            [*before, *writer.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in self._openings
        ]
        chunk = 1 + max((int(sample.source.split("/")[1]) for sample in have), default=-1)
        empty = 0
        while True:
            names = [f"self/{chunk}/{number}" for number in range(CHUNK)]
            opened = [openings[number % len(openings)] for number in range(CHUNK)]
            questions = writer.write(opened, names, self._asking, self._longest_question, seed)
            kept = [
                (name, [*opening, *question[:-1], *behind])
                for name, opening, question in zip(names, opened, questions, strict=True)
                if question[-1] in writer.ends and len(question) > SHORTEST
            ]
            empty = 0 if kept else empty + 1
            if empty == EMPTY:
                raise InputError(
                    f"The target has written no question that ends within recipe.data.longest_question={self._longest_question} "
                    f"tokens, {EMPTY * CHUNK} times in a row: it is no instruct model, so take data=answers or data=text_file."
                )
            yield self._answered(writer, kept, seed)
            chunk += 1

    def _answered(self, writer: Writer, asked: Sequence[tuple[str, list[int]]], seed: int) -> list[Sample]:
        """Let the target answer. With the same opening, the temperatures take turns."""
        found: dict[str, Sample] = {}
        for place, sampling in enumerate(self._answering):
            mine = [
                (name, tokens)
                for name, tokens in asked
                if _number(name) // len(self._openings) % len(self._answering) == place
            ]
            names = [name for name, _ in mine]
            answers = writer.write([tokens for _, tokens in mine], names, sampling, self._longest_answer, seed)
            for (name, tokens), answer in zip(mine, answers, strict=True):
                found[name] = Sample([*tokens, *answer], len(tokens), f"{name} t={sampling.temperature}")
        return [found[name] for name, _ in asked]


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def template_parts(writer: Writer) -> tuple[list[int], list[int]]:
    """Return the tokens of the chat template before the user's turn, and those behind it up to the start of the answer.

    Errors: InputError if the tokenizer has no chat template, or one that changes the text of a turn.
    """
    tokenizer = writer.tokenizer
    if not tokenizer.chat_template:
        raise InputError(
            "recipe.data is SelfInstructed, but the target's tokenizer has no chat template: take Answers or TextFile."
        )
    turns = [{"role": "user", "content": _PLACE}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, date_string=FIXED_DATE))
    before, place, behind = text.partition(_PLACE)
    if not place:
        raise InputError(
            "recipe.data is SelfInstructed, but the chat template changes the text of a user's turn: take Answers."
        )
    opening, closing = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, behind))
    return list(opening), list(closing)
