"""`sdbench doctor` answers without a network: it asks once, reads what is here, and says what is missing."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sdbench.harness.config import choices, members
from sdbench.harness.doctor import examine
from tests.lm_eval.rows import ROWS, write

ROOT = Path(__file__).parents[2]
SECONDS = 5.0


@pytest.fixture
def proxy():
    """A proxy that closes each connection, and the list of its connections."""
    server = socket.create_server(("127.0.0.1", 0))
    came: list[float] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # the server was closed
                return
            came.append(time.monotonic())
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", came
    server.close()


def doctor(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process whose every connection goes through a proxy, with an empty cache of the hub."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SDBENCH_"))}
    env |= {"HF_HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "", "no_proxy": ""}
    env |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
    return subprocess.run([sys.executable, "-m", "sdbench", "doctor"], env=env, capture_output=True, text=True)


def test_no_network_is_tried_twice(tmp_path, proxy):
    address, came = proxy
    done = doctor(tmp_path, address)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(came) == 1
    lines = done.stdout.splitlines()
    assert "  tiny: ready" in lines
    said = dict(line.strip().split(": ", 1) for line in lines[lines.index("families:") :] if ": " in line)
    assert set(said) == {*choices("models"), *choices("tasks")}
    assert said["gsm8k"].startswith(
        "no. The data set openai/gsm8k is not here and the hub does not answer: put gsm8k_test.jsonl"
    )
    assert "hf download" in said["smollm2"]


@pytest.mark.slow
@pytest.mark.timing
def test_the_answer_comes_soon(tmp_path, proxy):
    started = time.monotonic()
    doctor(tmp_path, proxy[0])
    assert time.monotonic() - started < SECONDS


def test_files_are_read_without_lm_eval(tmp_path, monkeypatch):
    for name in ("gsm8k_test.jsonl", "humaneval.jsonl.gz", "ifeval.jsonl"):
        write(tmp_path, name, ROWS[name])
    (tmp_path / "math500.jsonl").write_text("nonsense\n")
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # an import would fail
    lines = examine().splitlines()
    for name in ("gsm8k", "humaneval", "lm_eval/ifeval", "wordproblems"):
        assert f"  {name}: ready" in lines
    assert any("lm_eval/math500: no." in line and "not valid JSON" in line for line in lines)


def test_members_are_what_a_run_composes():
    from sdbench.harness.config import compose

    for group in ("models", "tasks"):
        found = members(group)
        assert list(found) == choices(group)
        for name in list(found)[:2]:
            assert found[name] == compose([f"{group}={name}"])[group]
