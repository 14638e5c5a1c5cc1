"""Sweeps: what is finished is skipped, what failed is tried again and listed, what was killed is taken up; by every launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sdbench.cli import main
from sdbench.errors import InputError
from sdbench.harness import measure as measuring
from sdbench.harness.config import compose, config_dir
from sdbench.harness.plan import prepare
from sdbench.runs.record import load
from sdbench.runs.status import status

SWEPT = ["arms=[ar,sd]", "limit=2", "max_new_tokens=6", "arms.sd.draft_length=2,3", "out=null", "-m"]
ROOT = Path(__file__).resolve().parents[2]


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDBENCH_LEASES", str(tmp_path / "leases"))
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def sweep_apart(bench, here: Path, *words: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "sdbench", "run", *bench.words(here / "unused"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def document(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def test_what_failed_is_listed_and_tried_again(bench, here, capsys, monkeypatch):
    original = measuring.decode

    def failing(plan, arm, *rest):
        if arm.config.get("draft_length") == 3:
            raise OSError(28, "No space left on device")
        return original(plan, arm, *rest)

    monkeypatch.setattr(measuring, "decode", failing)
    assert bench.call("run", here / "unused", *SWEPT) == 1
    first = last_line(capsys)
    assert len(first["runs"]) == 1
    (failed,) = first["failed"]
    assert "No space left" in failed["reason"]
    assert "arms.sd.draft_length=3" in failed["overrides"]
    found = status([here / "results"])
    assert found["counts"] == {"finished": 1, "failed": 1, "partial": 0, "running": 0}
    assert [run["reason"] for run in found["runs"] if run["state"] == "failed"] == [failed["reason"]]

    monkeypatch.setattr(measuring, "decode", original)
    assert bench.call("run", here / "unused", *SWEPT) == 0
    again = last_line(capsys)
    assert (again["skipped"], again["retried"], again["failed"]) == (1, [failed["out"]], [])
    assert load(failed["out"]).environment["attempt"] == 2
    assert not list(here.glob("multirun.yaml")), "Hydra's own file lies with the sweep's"


@pytest.mark.slow
def test_an_experiment_brings_its_own_grid(bench, here, capsys):
    mine = here / "mine" / "experiment"
    mine.mkdir(parents=True)
    grid = {"arms.sd.draft_length": "1,2", "seed": "0"}
    experiment = {
        "defaults": [{"override /arms": ["ar", "sd"]}],
        "name": "grid",
        "hydra": {"sweeper": {"params": grid}},
    }
    (mine / "paper.yaml").write_text("# @package _global_\n" + yaml.safe_dump(experiment))
    words = [word for word in bench.words(here / "unused") if not word.startswith("tracker=")]
    words += ["--config-dir", str(here / "mine"), "experiment=paper", "limit=1", "max_new_tokens=4", "out=null"]
    words += ["tracker=wandb", "tracker.mode=disabled"]
    assert call("run", *words) == 2
    assert "a grid (arms.sd.draft_length=1,2" in capsys.readouterr().err
    assert call("run", *words, "-m") == 0
    runs = last_line(capsys)["runs"]
    assert [run["summary"]["arms"]["sd"]["config"]["draft_length"] for run in runs] == [1, 2]
    (group,) = {load(run["out"]).config["tracker"]["group"] for run in runs}
    assert group.startswith("grid-"), "a sweep is a group in W&B"


def test_a_launcher_that_is_not_installed_is_refused_by_name(bench, here, capsys, monkeypatch):
    monkeypatch.setattr("sdbench.harness.sweep.find_spec", lambda name: None)
    assert bench.call("run", here / "unused", *SWEPT, "hydra/launcher=ray") == 2
    assert "pip install 'sdbench[ray]'" in capsys.readouterr().err


def test_the_shipped_launchers_name_what_there_is():
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    known = {f"{found.__module__}.{found.__name__}" for found in Plugins.instance().discover(Launcher)}
    files = sorted((config_dir() / "hydra" / "launcher").glob("*.yaml"))
    assert [path.stem for path in files] == ["basic", "joblib", "ray", "slurm"]
    for path in files:
        assert yaml.safe_load(path.read_text())["_target_"] in known


@pytest.mark.slow
def test_joblib_with_two_workers(bench, here):
    made = document(sweep_apart(bench, here, *SWEPT, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"))
    assert len(made["runs"]) == 2
    assert made["failed"] == []
    again = document(sweep_apart(bench, here, *SWEPT, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"))
    assert again["skipped"] == 2


@pytest.mark.slow
def test_submitits_local_executor(bench, here):
    made = document(sweep_apart(bench, here, *SWEPT, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"))
    assert len(made["runs"]) == 2
    assert made["failed"] == []


@pytest.mark.slow
def test_a_real_ray_cluster(bench, here):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        words = ["hydra/launcher=ray", f"hydra.launcher.address='{cluster.address}'"]
        made = document(sweep_apart(bench, here, *SWEPT, *words))
    finally:
        cluster.shutdown()
    assert len(made["runs"]) == 2
    assert made["failed"] == []


@pytest.mark.slow
def test_kill_9_loses_at_most_the_block_in_flight(bench, here):
    """Killed in the second cell: the first is skipped, and of the second no block that was written is decoded again."""
    words = ["arms=[ar,sd]", "limit=8", "repeats=4", "max_new_tokens=32", "arms.sd.draft_length=2,3", "out=null", "-m"]
    process = sweep_apart(bench, here, *words)
    deadline = time.monotonic() + 400
    runs = here / "results" / "runs"
    while True:
        journals = [sorted(path.glob("*.json")) for path in runs.glob("*/journal")]
        if len(journals) == 2 and all(len(files) >= 2 for files in journals):
            break
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (live,) = [run for run in status([here / "results"])["runs"] if run["state"] == "running"]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (stopped,) = [run for run in status([here / "results"])["runs"] if run["state"] != "finished"]
    assert (stopped["path"], stopped["state"], stopped["planned"]) == (live["path"], "partial", 32)
    assert stopped["done"] >= live["done"]
    written = {path: path.read_bytes() for path in runs.glob("*/journal/*.json")}
    again = document(sweep_apart(bench, here, *words))
    assert again["skipped"] == 1
    assert all(path.read_bytes() == content for path, content in written.items())
    for run in again["runs"]:
        assert len(load(run["out"]).sequences) == 2 * 8 * 4
        assert not load(run["out"]).sequences.duplicated(["arm", "prompt_id", "repeat"]).any()


def test_slurms_script_asks_for_what_the_config_says(tmp_path, monkeypatch):
    """The shipped config through submitit's own rendering; only `srun` is a stand-in, which submitit looks for."""
    import submitit

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    knobs = yaml.safe_load((config_dir() / "hydra" / "launcher" / "slurm.yaml").read_text())
    general = {
        "name",
        "timeout_min",
        "nodes",
        "tasks_per_node",
        "cpus_per_task",
        "gpus_per_node",
        "mem_gb",
        "stderr_to_stdout",
    }
    ours = knobs.keys() - general - {"_target_", "submitit_folder", "max_num_timeout"}
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="slurm")
    executor.update_parameters(**{key: knobs[key] for key in general}, **{f"slurm_{key}": knobs[key] for key in ours})
    script = executor._executor._make_submission_file_text("true", "0")
    for flag in ("--exclusive\n", "--cpus-per-task=2\n", "--time=240\n", "--mem=32GB\n", "--job-name=sdbench\n"):
        assert f"#SBATCH {flag}" in script


@pytest.mark.parametrize("name", ["pyramidsd/sweep", "ssd/sweep"])
def test_the_shipped_grids_are_grids_and_each_point_composes(name):
    with pytest.raises(InputError, match="run it with -m"):
        compose([f"experiment={name}"])
    document = yaml.safe_load((config_dir() / "experiment" / f"{name}.yaml").read_text())
    point = [f"{key}={str(values).split(',')[0]}" for key, values in document["hydra"]["sweeper"]["params"].items()]
    plan = prepare(compose([f"experiment={name}", *point, "hydra.sweeper.params=null", "limit=1", "tracker=none"]))
    assert len(plan.arm_configs) > 10


def test_a_sweep_of_an_experiment_can_leave_arms_out(bench, here, capsys):
    words = [*bench.words(here / "unused"), "experiment=ssd/table", "arms=[ar]", "hardware=cpu", "batch_size=1,2"]
    words += ["limit=2", "max_new_tokens=2", "out=null", "-m"]
    assert call("run", *words) == 0
    assert len(last_line(capsys)["runs"]) == 2
