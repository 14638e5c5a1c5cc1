"""Ask once, for a few seconds, whether the Hugging Face hub can be reached.

The hub's own clients try five times with growing pauses for each file. So code that wants a file of the hub asks here first. If the
hub does not answer, its clients go into their offline mode, in which they look at the local cache only.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from functools import cache
from pathlib import Path

SECONDS = 3.0  # for an answer, look-up of the name included
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def ask() -> None:
    """Start to ask. `reachable` then waits less."""
    _question()


@cache
def reachable() -> bool:
    """Return whether the hub answers. Where it does not, put its clients into their offline mode."""
    question = _question()
    if question is not None and question.answered():
        return True
    _go_offline()
    return False


def data_set_at_hand(name: str) -> bool:
    """Return whether a data set may be read: the hub answers, or a cache has a folder for the set.

    name: a hub id, or an address. Any other name counts as local. This does not import `datasets`, which takes a second.
    """
    if reachable() or not (_HUB_ID.fullmatch(name) or "://" in name) or Path(name).exists():
        return True
    from huggingface_hub import constants

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    folders = (
        prepared / name.replace("/", "___"),
        Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}",
    )
    return any(folder.is_dir() for folder in folders)


@cache
def _question() -> _Question | None:
    """Return the only question of this process; None if the user's environment says that there is no hub."""
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else _Question(constants.ENDPOINT)


class _Question:
    """Ask an address for any answer, through a proxy where the environment names one.

    The look-up of a name has no time limit of its own, so a thread asks.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._came = False
        self._over = threading.Event()
        threading.Thread(target=self._ask, daemon=True).start()

    def answered(self) -> bool:
        """Return whether an answer came. Wait for it for a few seconds at most."""
        self._over.wait(SECONDS)
        return self._came

    def _ask(self) -> None:
        import httpx  # the hub's client is built on it

        try:
            httpx.head(self.address, timeout=SECONDS)
            self._came = True
        except Exception:  # no network, no such address, a proxy's refusal: in none of these cases is there a hub
            return
        finally:
            self._over.set()


def _go_offline() -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    datasets = sys.modules.get("datasets.config")
    if datasets is not None:  # else it reads the constant when it is imported
        datasets.HF_HUB_OFFLINE = datasets.HF_DATASETS_OFFLINE = True  # pyright: ignore
