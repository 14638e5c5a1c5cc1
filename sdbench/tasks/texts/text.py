"""What a generated text is, and how the held-out texts are kept apart from the training texts."""

import hashlib
import random
from dataclasses import dataclass

SPLITS = ("train", "test")
TEST_SHARE = 8  # one content in eight belongs to the test split


@dataclass(frozen=True)
class Text:
    """One prompt with the completion that a perfect model would write.

    `answer` is what a scorer compares (None: the kind has no score). `contents` are the pieces of the text that decide
    its split: none of them ever occurs in the other split.
    """

    kind: str
    prompt: str
    completion: str
    answer: str | None
    contents: tuple[str, ...]


def split_of(content: str) -> str:
    """The split that a content belongs to: a stable hash decides, so the splits are disjoint by construction."""
    digest = hashlib.sha256(content.encode()).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "train"


def keyed_random(kind: str, split: str, seed: int, index: int) -> random.Random:
    """A generator of random numbers for one text: it depends on its name alone (hashed by SHA-512)."""
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}': use one of {', '.join(SPLITS)}")
    return random.Random(f"{kind}/{split}/{seed}/{index}")
