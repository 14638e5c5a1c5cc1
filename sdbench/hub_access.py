"""Ask once, for a few seconds, whether the Hugging Face hub can be reached.

The hub's own clients try five times with growing pauses for each file. So code that wants a file of the hub asks here first. If the
hub does not answer, its clients go into their offline mode, in which they look at the local cache only.
"""

from __future__ import annotations

import sys
import threading
from functools import cache

SECONDS = 3.0  # for an answer, look-up of the name included


@cache
def reachable() -> bool:
    """Return whether the hub answers. Where it does not, put its clients into their offline mode."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT):
        return True
    _go_offline()
    return False


def _answers(address: str) -> bool:
    """Whether any answer comes from an address, through a proxy where the environment names one."""
    found = threading.Event()

    def ask() -> None:
        import httpx  # the hub's client is built on it

        try:
            httpx.head(address, timeout=SECONDS)
            found.set()
        except Exception:  # no network, no such address, a proxy's refusal: in none of these cases is there a hub
            return

    # The look-up of a name has no time limit of its own, so a thread asks.
    threading.Thread(target=ask, daemon=True).start()
    return found.wait(SECONDS)


def _go_offline() -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    datasets = sys.modules.get("datasets.config")
    if datasets is not None:  # else it reads the constant when it is imported
        datasets.HF_HUB_OFFLINE = datasets.HF_DATASETS_OFFLINE = True  # pyright: ignore
