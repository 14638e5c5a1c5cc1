"""Define a generated text, and separate the held-out texts from the training texts."""

import hashlib
import random
from dataclasses import dataclass

SPLITS = ("train", "test")
TEST_SHARE = 8  # one content in eight belongs to the test split


@dataclass(frozen=True)
class Text:
    """Hold one prompt with the completion of a perfect model.

    answer: the text that a scorer compares with (None: the kind has no score). contents: the parts of the text that
    decide its split; no part occurs in the other split.
    """

    kind: str
    prompt: str
    completion: str
    answer: str | None
    contents: tuple[str, ...]


def split_of(content: str) -> str:
    """Return the split of a content. A stable hash decides, so the splits are disjoint by construction."""
    digest = hashlib.sha256(content.encode()).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "train"


def keyed_random(kind: str, split: str, seed: int, index: int) -> random.Random:
    """Return the random number generator of one text, seeded by the four arguments only. Errors: ValueError."""
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}': use one of {', '.join(SPLITS)}")
    return random.Random(f"{kind}/{split}/{seed}/{index}")
