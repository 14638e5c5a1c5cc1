"""Generated code runs here and nowhere else: in a child process of its own, confined before it reads a line of that code.

The child has a temporary folder, a process group and an environment of its own, little time and memory, no network and no right
to start processes (`sdbench.lm_eval.confined`); it is killed when its time is up. It guards against accidents and sloppy answers
of a model; for code that is out to do harm use a virtual machine.
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
STARTED = 400  # bytes of a report


@dataclass(frozen=True)
class Limits:
    """cpu_seconds: of the child; wall_seconds: until it is killed, whatever it does; memory_bytes: of its address space."""

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """passed: the program ran to its end and raised nothing. reason: 'passed', what it raised, or how it was ended."""

    passed: bool
    reason: str


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program to its end, or to the end of its limits. Errors: RunError if it cannot be confined here."""
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
    """Give the child its program and its time; then its whole group is gone. Whether it was late; what it complained of."""
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
