"""Run generated code in a confined child process. No other module runs generated code.

The child confines itself before it reads the code (`sdbench.lm_eval.confined`). It has its own temporary folder, process group and
environment. Its time and memory are limited. It has no network and cannot start processes. The parent kills it at the time limit.
The sandbox guards against accidents. For malicious code use a virtual machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sdbench.errors import RunError
from sdbench.lm_eval.confined import PASSED, READY

CHILD = Path(__file__).with_name("confined.py")
STARTED = 400  # bytes of a report that are read


@dataclass(frozen=True)
class Limits:
    """Limits of the child. cpu_seconds: CPU time. wall_seconds: time until the parent kills it. memory_bytes: address space."""

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """The result of a program.

    passed: the program ran to its end without an exception. reason: 'passed', the exception, or how the child ended.
    """

    passed: bool
    reason: str


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program until it ends or reaches a limit. Errors: RunError if this machine cannot confine it."""
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="sdbench-") as folder:
        reader, writer = os.pipe()
        arguments = [str(limits.cpu_seconds), str(limits.memory_bytes), folder, str(writer)]
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", str(CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0"},
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        with os.fdopen(reader, "rb") as report:
            late, complaint = _wait(child, program, limits.wall_seconds)
            said = report.read(STARTED).decode(errors="replace")
    if late:
        return Outcome(False, f"killed after {limits.wall_seconds:g} s")
    ready, said = said.startswith(READY), said.removeprefix(READY)
    if said:
        return Outcome(said == PASSED, said)
    if child.returncode == -signal.SIGXCPU or child.returncode == -signal.SIGKILL:
        return Outcome(False, f"killed after {limits.cpu_seconds} s of CPU time, or for its memory")
    if not ready:
        said = (complaint.strip().splitlines() or [f"status {child.returncode}"])[-1]
        raise RunError(f"Generated code cannot be confined on this machine ({said}).")
    return Outcome(False, f"ended without a report, status {child.returncode}")


def _wait(child: subprocess.Popen[bytes], program: str, seconds: float) -> tuple[bool, str]:
    """Send the child its program and wait for its end. Then kill its process group.

    seconds: the time limit. Returns whether the child exceeded it, and the child's standard error.
    """
    try:
        _, complaint = child.communicate(program.encode(errors="replace"), timeout=seconds)
        return False, complaint.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return True, ""
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stderr is not None:
            child.stderr.close()
