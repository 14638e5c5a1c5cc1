"""A target over several ranks and a draft on the last: what is refused, and a real run of three processes with gloo."""

import json
import os
import signal
import subprocess
import sys

import pytest

from sdbench.runs.record import load

TP = ["hardware=cuda_tp", "hardware.device=cpu", "hardware.dtype=float32"]


@pytest.fixture
def launched(monkeypatch):
    """As torchrun starts rank 1 of so many."""

    def launch(world):
        for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", world)):
            monkeypatch.setenv(name, str(value))

    return launch


@pytest.mark.parametrize(
    ("world", "words", "says"),
    [
        (None, [], "needs a process for each device: torchrun"),
        (2, [], "2 ranks are too few"),
        (3, ["hardware.device=cuda"], "3 ranks need a GPU each, but this machine has 0"),
        (3, ["hardware.device=mps"], "must be cuda"),
        (4, [], "The target's 2 num_attention_heads cannot be shared out to 3 ranks evenly"),
        (3, ["models.draft.device=cpu"], "each rank has its own"),
        (3, ["arms.ssd.proposer.on_fault=continue"], "on_fault must be stop"),
        (3, ["arms=[ar,pearl]"], "give a number"),
    ],
)
def test_refused_in_one_sentence(bench, tmp_path, capsys, launched, monkeypatch, world, words, says):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    if world is not None:
        launched(world)
    assert bench.call("run", tmp_path / "out", *TP, "arms=[ar,ssd]", *words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_verify_is_made_in_one_process(bench, tmp_path, capsys, launched):
    launched(3)
    assert bench.call("verify", tmp_path / "out", *TP, "arms=[ar]") == 2
    assert "for `sdbench run` alone" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ends a group of processes")
def test_two_ranks_of_a_target_and_one_of_a_draft(bench, tmp_path):
    """transformers' tensor parallelism on the CPU: the tokens of one process, and a cache that hits."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    arms = ["arms=[ar,sd,ssd,amusd]", "limit=2", "max_new_tokens=8", "warmup=0"]
    words = bench.words(out, *TP, *arms)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    running = subprocess.Popen(
        [*command, "-m", "sdbench", "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        output, error = running.communicate(timeout=500)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, error
    assert output.count('{"out"') == 1  # one rank keeps the record, and says so
    assert bench.call("run", alone, "hardware=cpu", *arms) == 0
    run, other = load(out), load(alone)
    tokens = [run.sequences.set_index(["arm", "prompt_id"]).tokens.map(list).to_dict(),
              other.sequences.set_index(["arm", "prompt_id"]).tokens.map(list).to_dict()]  # fmt: skip
    assert tokens[0] == tokens[1]
    arm = run.summary["arms"]["ssd"]
    assert arm["hit_rate"] == pytest.approx(other.summary["arms"]["ssd"]["hit_rate"])
    assert arm["devices"] == ["cpu (rank 0)", "cpu (rank 1)", "cpu (rank 2)"]
    # Half of the heads' weights and half of their slots.
    whole, part = (json.loads((folder / "summary.json").read_text())["arms"]["ar"] for folder in (alone, out))
    assert part["memory_bytes"] < 0.8 * whole["memory_bytes"]
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
