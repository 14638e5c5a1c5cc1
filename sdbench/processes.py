"""Child processes: how they are started, and that they do not outlive their parent, whatever becomes of it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def starter(device: str) -> Any:
    """What starts processes for models on such a device: a context of `multiprocessing`.

    A new interpreter spends seconds on imports. On Linux processes are therefore forked from one that has made them once, those of
    the models that are loaded here too, and does nothing else. (CUDA does not survive a fork once something has only asked for it.)
    """
    if sys.platform != "linux" or device != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    models = [name for name in sys.modules if ".modeling_" in name]
    context.set_forkserver_preload(["sdbench.nursery", "sdbench.remote.process", *models])
    return context


def die_with_parent() -> None:
    """End this process, at once, when the one that started it is gone: a killed parent cannot say so itself."""
    if sys.platform == "linux":
        # By the kernel: this reaches a stopped process too.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), name="die with parent", daemon=True).start()


def _wait(parent: Any) -> None:
    parent.join()
    os._exit(1)
