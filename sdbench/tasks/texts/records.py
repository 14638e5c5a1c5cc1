"""Generate structured records with the task to copy or summarise them. The completion repeats long spans of the prompt.

The generator invents names, order numbers and telephone numbers. Those of the test split never occur in training.
"""

import json
import random
import string
from collections.abc import Callable

from sdbench.tasks.texts.text import Text, keyed_random, split_of

KIND = "records"
_ONSETS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V")
_MIDDLES = ("al", "an", "ar", "el", "en", "er", "il", "in", "ol", "on", "or", "ul")
_ENDINGS = ("da", "do", "ka", "ko", "la", "lo", "ma", "mo", "na", "no", "ta", "vi")
_CITIES = ("Oslo", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Rome", "Tokyo", "Dublin", "Bern")
_GOODS = ("lamps", "chairs", "clocks", "tables", "radios", "kettles", "mirrors", "bikes", "desks", "vases")
_MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October")
_STREETS = ("Elm", "Oak", "Mill", "King", "Hill", "Lake", "Church", "Bridge")
_STATES = ("paid", "open", "sent", "late")


def _held(rng: random.Random, split: str, draw: Callable[[random.Random], str]) -> str:
    """Draw contents until one belongs to the split, and return it."""
    while split_of(content := draw(rng)) != split:
        pass
    return content


def _name(rng: random.Random) -> str:
    first = rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_ENDINGS)
    last = rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_MIDDLES) + rng.choice(_ENDINGS)
    return f"{first} {last}"


def _order(rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=2))
    return f"{letters}-{rng.randint(1000, 9999)}"


def _phone(rng: random.Random) -> str:
    return f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"


def _plain(fields: dict[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in fields.items())


def _summary(fields: dict[str, str]) -> str:
    return (
        f"{fields['name']} of {fields['street']}, {fields['city']} ordered {fields['count']} {fields['goods']} "
        f"on {fields['date']}. "
        f"The order {fields['order']} is {fields['state']}; call {fields['phone']}."
    )


def _some(fields: dict[str, str], keys: list[str]) -> dict[str, str]:
    return {key: fields[key] for key in keys}


def generate(split: str, seed: int, index: int) -> Text:
    """Return the record with this index, with its task and completion."""
    rng = keyed_random(KIND, split, seed, index)
    fields = {
        "name": _held(rng, split, _name),
        "order": _held(rng, split, _order),
        "phone": _held(rng, split, _phone),
        "street": f"{rng.randint(2, 99)} {rng.choice(_STREETS)} Road",
        "city": rng.choice(_CITIES),
        "goods": rng.choice(_GOODS),
        "count": str(rng.randint(2, 99)),
        "date": f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}",
        "state": rng.choice(_STATES),
    }
    keys = list(fields)
    rng.shuffle(keys)
    shown = _some(fields, keys)
    record, form = rng.choice(((_plain(shown), _plain), (json.dumps(shown), json.dumps)))
    match rng.choice(("copy", "copy", "fields", "summary")):
        case "copy":
            task, output = "Copy the record.", form(shown)
        case "fields":
            wanted = rng.sample(keys, 4)
            task, output = f"Copy only {', '.join(wanted)}.", form(_some(fields, wanted))
        case _:
            task, output = "Summarise the record.", _summary(fields)
    prompt = f"Record:\n{record}\nTask: {task}\nOutput:\n"
    return Text(KIND, prompt, output, output, (fields["name"], fields["order"], fields["phone"]))


def matches(text: str, answer: str) -> bool:
    """Return whether a completion equals the expected output, except for outer blanks."""
    return text.strip() == answer.strip()
