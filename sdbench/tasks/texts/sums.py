"""Generate single sums in the form of the worked steps of word problems. Such short texts teach arithmetic fast."""

import random

from sdbench.tasks.texts.text import Text, keyed_random, split_of
from sdbench.tasks.texts.wordproblems import LARGEST_VALUE, draw_step, sum_of
from sdbench.tasks.texts.words import PEOPLE

KIND = "sums"


def _draw(rng: random.Random) -> tuple[str, int]:
    value = rng.randint(1, LARGEST_VALUE)
    step = draw_step(rng, value)
    return sum_of(step, value), step.apply(value)


def generate(split: str, seed: int, index: int) -> Text:
    """Return the sum with this index. The two splits share no sum."""
    rng = keyed_random(KIND, split, seed, index)
    written, result = _draw(rng)
    while split_of(written) != split:
        written, result = _draw(rng)
    return Text(KIND, f"Sum: {rng.choice(PEOPLE)} has {written} =", f" {result}.", str(result), (written,))
