"""Arms with a process of their own, from the command line: measured, simulated, and ended in good order."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from sdbench.analysis.figures.draw import FIGURES
from sdbench.runs.journal import Journal
from sdbench.runs.record import load

FAULTY = '''
import os
from sdbench.asynchronous import Neural


class Faulty(Neural):
    """A back-up that ends its process after some blocks."""

    def __init__(self, calls=12):
        super().__init__()
        self.left = calls

    def draft(self, request):
        self.left -= 1
        if self.left == 0:
            os._exit(9)
        return super().draft(request)
'''


@pytest.fixture(scope="module")
def overlapped(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "overlapped"
    words = [
        "arms=[ar,sd,ssd,pearl,amusd,sd_two_cores]",
        "hardware=cpu_pair",
        "arms.sd.grid.draft_length=[2,4]",
        "limit=3",
    ]
    assert bench.call("run", out, *words, figures=FIGURES) == 0
    assert not multiprocessing.active_children()
    return out


def test_what_was_measured(overlapped):
    run = load(overlapped)
    arms = run.summary["arms"]
    arm = arms["ssd"]
    assert arm["lossless"]
    assert 0 < arm["hit_rate"] < 1
    assert len(arm["devices"]) == 2
    spec = arm["speculation"]
    assert spec["theorem_7_tokens_per_second"] > 0
    assert spec["seconds"]["serve_on_hit"] < spec["seconds"]["backup"]
    bounds = spec["corollary_9"]
    assert bounds["over"] == f"sd[draft_length={arm['config']['draft_length']}]"
    assert 0 < bounds["low"] < bounds["high"]
    assert arm["memory_bytes"] > arms["sd[draft_length=4]"]["memory_bytes"]
    assert 0 < arm["model_time_fraction"] <= 1.05
    assert arms["sd[draft_length=4]"]["hit_rate"] is None
    assert arms["sd[draft_length=4]"]["ranks"]["outcomes"] > 0
    assert arms["pearl"]["overlapped"]["window"] >= 1
    assert arms["sd_two_cores"]["model_time_fraction"] is None
    tokens = run.sequences.groupby("prompt_id").tokens.agg(lambda rows: len({tuple(row) for row in rows}))
    assert (tokens == 1).all()
    names = {path.stem for path in (overlapped / "report" / "figures").glob("*.svg")}
    assert {"timeline", "fan_out", "draft_length", "predicted"} <= names


def test_the_memory_of_a_server_is_reckoned_with(bench):
    from sdbench.harness.config import compose
    from sdbench.harness.plan import memory

    def draft(*words):
        config = compose(["models=tiny", "batch_size=2", *words])
        return next(role.cache_bytes for role in memory(config, 100).roles if role.role == "draft")

    plain, cached = draft("arms=[ar,sd]"), draft("arms=[ar,ssd]", "arms.ssd.proposer.fan_out.budget=12")
    tokens = 4 * 12  # K tokens behind each branch: keys and values of one layer of 192, and logits over 1,024
    assert cached - plain == tokens * (2 * 192 + 1024) * 2 * 4


def test_simulate(overlapped, tmp_path, capsys):
    from sdbench.cli import main

    saved = tmp_path / "mine.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(overlapped), "--save", str(saved)])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("SIMULATED")
    document = json.loads(text.splitlines()[-1])
    assert document["simulated"]
    simulated = {"ar", "sd[draft_length=2]", "sd[draft_length=4]", "ssd", "pearl", "amusd"}
    assert set(document["against_measured"]) == simulated
    assert {row["method"] for row in document["methods"]} == {"ar", "sd", "ssd", "pearl", "amusd", "dsi"}
    # Another machine: a file, with a value of one's own.
    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(overlapped), f"latency={saved}", "latency.draft=0.01"])
    assert stop.value.code == 0
    faster = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = {row["method"]: row["tokens_per_second"] for row in faster["methods"] if row.get("draft_length", 4) == 4}
    assert best["sd"] > next(r["tokens_per_second"] for r in document["methods"] if r.get("draft_length") == 4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["latency=nowhere"], "There is no latency file"),
        (["latency=llama3_70b_h100"], "lacks 'draft'"),
        (["speed=3"], "simulate takes"),
        (["latency.draft=fast"], "must be a number"),
    ],
)
def test_simulate_refuses(overlapped, words, says, capsys):
    from sdbench.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["simulate", str(overlapped), *words])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_server_that_dies_ends_the_run_and_keeps_what_was_measured(bench, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "faulty.py").write_text(FAULTY)
    out = tmp_path / "out"
    backup = ["arms.ssd.proposer.backup._target_=faulty.Faulty", "~arms.ssd.proposer.backup.whole_batch"]
    status = bench.call("run", out, "--config-dir", str(mine), "arms=[ar,ssd]", "limit=8", "repeats=9", *backup)
    error = capsys.readouterr().err
    assert status == 1, error
    assert "The draft's process has ended (exit status 9)." in error
    assert "Traceback" not in error
    assert 0 < len(Journal(out / "journal").finished()) < 72
    assert "exit status 9" in json.loads((out / "failed.json").read_text())["reason"]
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_end_leaves_no_process(bench, tmp_path, sign, status):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sdbench", "run", *bench.words(out, "arms=[ar,ssd]", "limit=8", "repeats=1000")]
    running = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 90
    while not list((out / "journal").glob("*.json")) and time.monotonic() < deadline:
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        time.sleep(0.1)
    children = [pid for pid in os.listdir("/proc") if pid.isdigit() and _parent(pid) == running.pid]
    assert children
    running.send_signal(sign)
    _, error = running.communicate(timeout=30)
    assert running.returncode == status, error
    assert "Traceback" not in error
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None
