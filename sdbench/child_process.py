"""Child processes that never outlive their parent.

`python -m sdbench.child_process COMMAND ...` runs a command that ends when the process that started it ends.
"""

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


if __name__ == "__main__":
    die_with_parent()  # the kernel keeps the promise through exec
    os.execvp(sys.argv[1], sys.argv[1:])
