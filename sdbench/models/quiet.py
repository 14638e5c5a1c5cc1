"""What other libraries print and raise while a model is loaded: silence for the first, one clause for the second."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 240  # characters of a reason


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the reports and progress bars of `transformers`. What matters in them is raised as an error by the caller."""
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
    """Return what an error of another library says, as one clause without a full stop.

    A message may go on over several lines, whose first only announces the next. A message that is a bare number or word says
    nothing by itself, so the name of the error's class goes before it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    words = " ".join(text.split()).rstrip(".:")
    if len(words) > _LONGEST:
        words = words[:_LONGEST].rsplit(" ", 1)[0].rstrip(".,:") + " ..."
    return words if " " in words else f"{type(error).__name__}: {words}" if words else type(error).__name__
