"""Generate arithmetic word problems with worked steps and a final answer.

The wording is easy to predict. A small model fails at the arithmetic and at the choice of the right numbers. The prompt
determines every word of the completion. So greedy decoding of a perfect model gives the reference solution.
"""

import random
import re
from dataclasses import dataclass

from sdbench.tasks.texts.text import Text, keyed_random, split_of
from sdbench.tasks.texts.words import CONTAINERS, HE, OBJECTS, PEOPLE, PLACES

KIND = "wordproblems"
FEWEST_STEPS, MOST_STEPS = 2, 3
LARGEST_START = 60
LARGEST_CHANGE = 19  # the largest number that one step adds or subtracts
LARGEST_VALUE = 99
LARGEST_FACTOR = 5  # the largest number of groups, and of things in each group, in a step of kind `groups`
ORDINALS = ("First", "Next", "Then", "Finally")
_ANSWER = re.compile(r"The answer is (-?\d+)\.(?!\d)")  # "3.5." is no whole number


@dataclass(frozen=True)
class Step:
    """Hold one event. kind: the operation. number: its operand. each: the number of things in each group of `groups`."""

    kind: str
    number: int = 0
    each: int = 0

    def apply(self, value: int) -> int:
        """Return the value after the event. Errors: ValueError for an unknown kind."""
        match self.kind:
            case "gain":
                return value + self.number
            case "lose":
                return value - self.number
            case "multiply":
                return value * self.number
            case "halve":
                return value // 2
            case "groups":
                return value + self.number * self.each
        raise ValueError(f"unknown kind of step '{self.kind}'")


def draw_step(rng: random.Random, value: int) -> Step:
    """Draw a step that keeps the value between 1 and `LARGEST_VALUE`."""
    while True:
        kind = rng.choices(("gain", "lose", "multiply", "halve", "groups"), weights=(7, 7, 2, 2, 3))[0]
        match kind:
            case "gain" | "lose":
                step = Step(kind, rng.randint(2, LARGEST_CHANGE))
            case "multiply":
                step = Step(kind, rng.randint(2, 3))
            case "halve":
                step = Step(kind)
            case _:
                step = Step(kind, rng.randint(2, LARGEST_FACTOR), rng.randint(2, LARGEST_FACTOR))
        possible = kind != "halve" or value % 2 == 0
        if possible and 1 <= step.apply(value) <= LARGEST_VALUE:
            return step


def _draw_numbers(rng: random.Random, most_steps: int) -> tuple[int, tuple[Step, ...]]:
    """Draw the numerical content of a problem: the start value and the steps."""
    start = rng.randint(5, LARGEST_START)
    value, steps = start, []
    for _ in range(rng.randint(FEWEST_STEPS, most_steps)):
        steps.append(draw_step(rng, value))
        value = steps[-1].apply(value)
    return start, tuple(steps)


def content_of(start: int, steps: tuple[Step, ...]) -> str:
    """Return the numbers of a problem without its wording. This content decides the split."""
    return f"{start}:" + ",".join(f"{step.kind}-{step.number}-{step.each}" for step in steps)


def _event(rng: random.Random, step: Step, she: str, things: str) -> str:
    """Return the sentence of the question that describes a step."""
    friend, place, container = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(CONTAINERS)
    match step.kind:
        case "gain":
            wordings = (
                f"{she} buys {step.number} more",
                f"{she} finds {step.number} {things} at the {place}",
                f"{she} gets {step.number} from {friend}",
            )
        case "lose":
            wordings = (
                f"{she} gives {step.number} to {friend}",
                f"{she} loses {step.number} {things} at the {place}",
                f"{she} sells {step.number} of them",
            )
        case "multiply":
            times = {2: "doubles", 3: "triples"}[step.number]
            wordings = (f"{she} {times} the number of {things}", f"{she} {times} what is there")
        case "halve":
            wordings = (f"{she} leaves half of the {things} at the {place}", f"{she} leaves half of them to {friend}")
        case _:
            wordings = (
                f"{she} brings {step.number} {container} of {step.each} {things}",
                f"{she} brings {step.number} {container} with {step.each} in each",
            )
    return rng.choice(wordings)


def sum_of(step: Step, value: int) -> str:
    """Return the arithmetic expression that gives the value after a step. value: the value before it."""
    match step.kind:
        case "gain":
            return f"{value} + {step.number}"
        case "lose":
            return f"{value} - {step.number}"
        case "multiply":
            return f"{value} * {step.number}"
        case "halve":
            return f"{value} / 2"
    return f"{value} + {step.number * step.each}"


def _worked(step: Step, verb: str, value: int, name: str, things: str) -> str:
    """Return the line of the solution that computes a step. value: the value before it."""
    match step.kind:
        case "gain" | "lose":
            event = str(step.number)
        case "multiply":
            event = "them"
        case "halve":
            event = "half"
        case _:
            event = f"{step.number} * {step.each} = {step.number * step.each}"
    return f"{name} {verb} {event}, so {name} has {sum_of(step, value)} = {step.apply(value)} {things} now."


def generate(split: str, seed: int, index: int, most_steps: int = MOST_STEPS) -> Text:
    """Return the problem with this index. It has two to `most_steps` steps (at most four).

    Problems of the two splits never share their sequence of numbers.
    """
    rng = keyed_random(KIND, split, seed, index)
    start, steps = _draw_numbers(rng, most_steps)
    while split_of(content_of(start, steps)) != split:
        start, steps = _draw_numbers(rng, most_steps)
    name, things = rng.choice(PEOPLE), rng.choice(OBJECTS)
    she = "he" if name in HE else "she"
    question, lines, value = f"{name} has {start} {things}.", [], start
    for ordinal, step in zip(ORDINALS, steps, strict=False):
        event = _event(rng, step, she, things)
        question += f" {ordinal}, {event}."
        lines.append(f"{ordinal}, {_worked(step, event.split()[1], value, name, things)}")
        value = step.apply(value)
    asked = rng.choice(
        (f"How many {things} does {name} have now?", "How many are left?", f"How many {things} are there in the end?")
    )
    completion = " " + "\n".join([*lines, f"The answer is {value}."])
    prompt = f"Question: {question} {asked}\nAnswer:"
    return Text(KIND, prompt, completion, str(value), (content_of(start, steps),))


def final_answer(text: str) -> str | None:
    """Return the last final answer that a text states; None if it states none."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None
