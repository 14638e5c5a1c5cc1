"""The command line of an experiment's script: its words are counted, and what is wrong is one sentence and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sdbench.errors import InputError


def script(main: Callable[..., None], usage: str | None, count: int, more: bool = False) -> None:
    """Call `main` with the words of the command line, so many or `more`; usage: the script's docstring, which is its help."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print((usage or "").strip())
        return
    if len(words) < count or (len(words) > count and not more):
        line = next(line for line in (usage or "").splitlines() if line.startswith("python -m "))
        print(f"{len(words)} words were given where this is wanted: {line}", file=sys.stderr)
        sys.exit(2)
    try:
        main(*words)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
