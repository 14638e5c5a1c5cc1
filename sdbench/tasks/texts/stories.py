"""Generate short free stories. Every sentence has many choices, so no model can predict the next one. They have no score."""

import random

from sdbench.tasks.texts.text import Text, keyed_random, split_of
from sdbench.tasks.texts.words import PEOPLE, PLACES

KIND = "stories"
FEWEST_EVENTS, MOST_EVENTS = 3, 6
_MOODS = ("brave", "quiet", "clever", "sleepy", "hungry", "curious", "gentle", "proud", "shy", "merry", "old", "tiny")
_HEROES = ("fox", "bear", "owl", "mouse", "baker", "sailor", "painter", "robot", "dragon", "wizard", "farmer", "cat")
_TREASURES = ("map", "key", "lamp", "drum", "kite", "ring", "clock", "flute", "boat", "letter", "crown", "mirror")
_WEATHER = ("rain", "snow", "wind", "fog", "sunshine", "thunder")
_TIMES = ("One morning", "Late at night", "That evening", "Before dawn", "Much later", "The next day", "Soon")
_WAYS = ("slowly", "quickly", "softly", "happily", "carefully", "sadly", "boldly")
_ENDS = (
    "{name} went home and slept well.",
    "From that day on, {name} was never alone.",
    "And the {treasure} was never seen again.",
    "{name} smiled, for the {mood} {hero} had won.",
    "Nobody ever told {name} why.",
)
_EVENTS = (
    "{time}, {name} walked {way} to the {place}.",
    "{time}, the {other} asked {name} about the {treasure}.",
    "The {weather} came {way} over the {place}.",
    '"Where is the {treasure}?" asked the {mood2} {other}.',
    '"I will help you," said {friend} {way}.',
    "{name} hid the {treasure} behind the {place}.",
    "{time}, the {treasure} began to shine {way}.",
    "{friend} and the {mood2} {other} danced in the {weather}.",
    "But the {treasure} broke, and {name} cried {way}.",
    "The {mood} {hero} looked {way} at the {treasure2}.",
    "{friend} gave {name} a {mood2} {treasure2}.",
    "{time}, everything at the {place} was full of {weather}.",
)


def _opening(rng: random.Random) -> dict[str, str]:
    return {
        "name": rng.choice(PEOPLE),
        "mood": rng.choice(_MOODS),
        "hero": rng.choice(_HEROES),
        "treasure": rng.choice(_TREASURES),
        "place": rng.choice(PLACES),
    }


def _fill(rng: random.Random, template: str, opening: dict[str, str]) -> str:
    free = {
        "time": rng.choice(_TIMES),
        "way": rng.choice(_WAYS),
        "weather": rng.choice(_WEATHER),
        "other": rng.choice(_HEROES),
        "mood2": rng.choice(_MOODS),
        "treasure2": rng.choice(_TREASURES),
        "friend": rng.choice(PEOPLE),
        "place": rng.choice(PLACES),
    }
    return template.format(**{**opening, **free})


def generate(split: str, seed: int, index: int) -> Text:
    """Return the story with this index. No hero, treasure and place occur together in stories of both splits."""
    rng = keyed_random(KIND, split, seed, index)
    opening = _opening(rng)
    while split_of(content := "/".join(opening.values())) != split:
        opening = _opening(rng)
    prompt = "Story: the {mood} {hero} {name}, a {treasure} and the {place}.\n".format(**opening)
    sentences = ["{name} was a {mood} {hero} who found a {treasure} at the {place}.".format(**opening)]
    events = rng.sample(_EVENTS, rng.randint(FEWEST_EVENTS, MOST_EVENTS))
    sentences += [_fill(rng, event, opening) for event in events]
    sentences.append(_fill(rng, rng.choice(_ENDS), opening))
    return Text(KIND, prompt, " ".join(sentences), None, (content,))
