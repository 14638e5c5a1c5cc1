"""Silence the output of other libraries while a model loads, and shorten their error messages to one clause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 240  # characters of a reason


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the reports and progress bars of `transformers`. The caller raises errors for the problems they report."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def reason_of(error: BaseException) -> str:
    """Return the message of another library's error as one clause without a full stop.

    The clause includes all lines of the message, because the first line may only introduce the others. A message of a single word
    or number is unclear, so the name of the error's class precedes it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    words = " ".join(text.split()).rstrip(".:")
    if len(words) > _LONGEST:
        words = words[:_LONGEST].rsplit(" ", 1)[0].rstrip(".,:") + " ..."
    return words if " " in words else f"{type(error).__name__}: {words}" if words else type(error).__name__
