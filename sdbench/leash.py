"""Run a command that ends with the process that started it, even if that is killed: python -m sdbench.leash CMD ..."""

from __future__ import annotations

import os
import sys

from sdbench.processes import die_with_parent

if __name__ == "__main__":
    die_with_parent()  # the kernel keeps the promise through exec
    os.execvp(sys.argv[1], sys.argv[1:])
