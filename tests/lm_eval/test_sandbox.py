"""Generated code: what may run does, and nothing else gets out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdbench.errors import RunError
from sdbench.lm_eval import confined
from sdbench.lm_eval.code_eval import SandboxedCodeEval, pass_at
from sdbench.lm_eval.sandbox import Limits, run

LIMITS = Limits(cpu_seconds=1, wall_seconds=30, memory_bytes=1 << 29)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of the sandbox is Linux's")


def test_right_and_wrong_solutions():
    tests = "def check(f):\n    assert f(2) == 4, 'twice two'\ncheck(double)\n"
    assert run("def double(x): return 2 * x\n" + tests, LIMITS).passed
    wrong = run("def double(x): return x\n" + tests, LIMITS)
    assert not wrong.passed
    assert wrong.reason == "AssertionError: twice two"


@linux
def test_what_ends_before_the_answer_runs_is_no_wrong_answer(monkeypatch, tmp_path):
    broken = tmp_path / "confined.py"
    broken.write_text("raise OSError('no filter of system calls')\n")
    monkeypatch.setattr("sdbench.lm_eval.sandbox.CHILD", broken)
    with pytest.raises(RunError, match=r"cannot be confined on this machine .*no filter"):
        run("pass", LIMITS)


@linux
def test_a_hard_limit_below_ours_is_kept():
    import resource

    low = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "from sdbench.lm_eval.sandbox import Limits, run\n"
        "print(run('assert 1 + 1 == 2', Limits(cpu_seconds=5, wall_seconds=30, memory_bytes=1 << 29)).passed)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "True", said.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == low


@pytest.mark.parametrize("leave", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "def ("])
def test_leaving_early_is_not_passing(leave):
    assert not run(f"{leave}\nassert False", LIMITS).passed


def test_an_endless_loop_is_stopped():
    assert "CPU time" in run("while True: pass", LIMITS).reason


def test_a_sleeper_is_killed():
    limits = Limits(cpu_seconds=1, wall_seconds=0.7, memory_bytes=1 << 29)
    assert run("import time; time.sleep(60)", limits).reason == "killed after 0.7 s"


def test_a_memory_hog_is_stopped():
    limits = Limits(cpu_seconds=5, wall_seconds=20, memory_bytes=1 << 28)
    assert run("held = []\nwhile True: held.append(bytearray(10**7))", limits).reason.startswith("MemoryError")


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket()",
        "import urllib.request; urllib.request.urlopen('http://localhost')",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.execv('/bin/true', ['true'])",
        "import ctypes; ctypes.CDLL(None)",
        "open(__import__('os').path.expanduser('~/../stray'), 'w')",
        "import os; os.mkdir('../stray')",
    ],
)
def test_no_network_no_process_no_stray_file(attempt):
    outcome = run(attempt, LIMITS)
    assert not outcome.passed
    assert "sandbox" in outcome.reason or "not permitted" in outcome.reason


def test_threads_files_and_libraries_work():
    program = """
import collections, heapq, math, os, re, threading
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
open("mine", "w").write("x")
assert os.listdir() == ["mine"]
assert set(os.environ) <= {"PATH", "HOME", "TMPDIR", "PYTHONHASHSEED", "LC_CTYPE"}
"""
    assert run(program, LIMITS).reason == "passed"


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("open('mine', 'w').write('x')\nwhile True: pass", Limits(wall_seconds=0.7))
    assert list(tmp_path.iterdir()) == []


@linux
@pytest.mark.parametrize(
    "attempt", ["import socket; socket.socket()", "os.fork()", "os.kill(1, 0)", "os.execv('/bin/true', ['true'])"]
)
def test_the_kernel_refuses_it_too(attempt):
    """Without Python's hooks, which code might get around."""
    folder = Path(confined.__file__).parent
    script = f"import os, sys\nsys.path.insert(0, {str(folder)!r})\nimport confined\nconfined.filter_system_calls()\n{attempt}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert "PermissionError" in done.stderr


@linux
def test_a_forged_group_is_killed_with_its_leader():
    """The child leads a session of its own: what ends it cannot reach this process."""
    assert run("import os; assert os.getsid(0) == os.getpid() == os.getpgid(0)", LIMITS).passed
    assert os.getsid(0) != os.getpid() or os.getpgid(0) == os.getpid()


def test_pass_at_k():
    assert pass_at(1, [True, False, False, False]) == pytest.approx(0.25)
    assert pass_at(2, [True, False, False, False]) == pytest.approx(0.5)
    rates, results = SandboxedCodeEval(LIMITS).compute(
        ["assert f() == 1"], [["def f(): return 1", "def f(): return 2"]], [1, 2]
    )
    assert rates == {"pass@1": 0.5, "pass@2": 1.0}
    assert [one["passed"] for one in results[0]] == [True, False]
