"""Run a sweep with Hydra's multirun: one comparison for each combination of comma-separated values.

The values come from the command line and from the experiment's `hydra.sweeper.params`. Hydra's configured launcher starts the jobs.
Each job writes its result to a file in a ledger folder, because launchers use other processes and machines. The sweep reads these
files at the end. If a job fails, the sweep records it and continues. A repeated sweep skips finished jobs, continues stopped jobs
after their last whole block, and runs failed jobs again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdbench.errors import InputError, RunError
from sdbench.harness.config import check_folder, config_dir, hydra_words, resolved, sentence_of
from sdbench.harness.override_words import quote

LEDGER, GROUP = "SDBENCH_LEDGER", "SDBENCH_SWEEP"
FULL_ERROR = "HYDRA_FULL_ERROR"
SWEEPS = Path("results") / "runs" / "sweeps"  # for Hydra's own files and the logs of a cluster
_LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "ray": ("ray", "ray"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}  # launcher: the module that it needs, and the extra that installs it


def sweep(overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    """Run every combination of the values.

    Args:
        overrides: the words of the command line.
        extra: another folder of configs.

    Returns:
        {"runs": [{"out", "summary"}], "skipped": n, "retried": [out], "failed": [{"overrides", "out", "reason"}]}. The runs in
        `retried` failed before and are finished now. A failed run has no "out" if it failed before its folder was chosen.

    Raises:
        InputError: Hydra refused the words. RunError: the launcher stopped.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check_launcher(overrides)
    check_folder("A sweep's working folder", Path.cwd())
    words = hydra_words(overrides, extra, sweep=True)
    group = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:8]
    folder = (SWEEPS / group).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    argv = sys.argv
    with tempfile.TemporaryDirectory(dir=folder, prefix="ledger-") as ledger:
        own = [
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
            f"hydra.sweep.dir={quote(str(folder), interpolate=False)}",
            f"+hydra.job.env_set.{LEDGER}={quote(ledger, interpolate=False)}",
            f"+hydra.job.env_set.{GROUP}={group}",
        ]
        sys.argv = ["sdbench", *words, *own, "--multirun"]
        full_error = os.environ.get(FULL_ERROR)
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(sentence_of(error, words, extra)) from error
        except Exception as error:  # a launcher may raise any error, for example after a worker was killed
            raise RunError(f"The launcher stopped ({type(error).__name__}: {error}).") from error
        finally:
            sys.argv = argv
            os.environ.pop(FULL_ERROR)
            os.environ.update({FULL_ERROR: full_error} if full_error else {})
        lines = [json.loads(path.read_text()) for path in sorted(Path(ledger).iterdir())]
    return {
        "runs": [{"out": line["out"], "summary": line["summary"]} for line in lines if "summary" in line],
        "skipped": sum(line.get("skipped", False) for line in lines),
        "retried": [line["out"] for line in lines if line.get("retried")],
        "failed": [{key: line[key] for key in line if key != "summary"} for line in lines if "reason" in line],
    }


def job(composed: Any) -> None:
    """Run one job of a sweep, and write its result to the ledger. The launcher may call this in another process."""
    from hydra.core.hydra_config import HydraConfig

    from sdbench.analysis.metrics.summary import stopped_arms
    from sdbench.harness.plan import prepare
    from sdbench.harness.run import folder_of, run

    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)
    for place in hydra.searchpath or ():  # a user's config folder may hold Python files too
        if place.startswith("file://") and place.removeprefix("file://") not in sys.path:
            sys.path.insert(0, place.removeprefix("file://"))
    line: dict[str, Any] = {"overrides": list(hydra.overrides.task)}
    try:
        config = resolved(composed, hydra.runtime.choices, line["overrides"])
        if config["tracker"].get("group", "") is None:
            config["tracker"]["group"] = f"{config['name']}-{os.environ[GROUP]}"
        plan = prepare(config)
        folder = folder_of(plan)
        line["out"] = str(folder.path)
        failed_before = folder.failure is not None
        _, summary, fresh = run(plan, folder)
        line |= {"summary": summary, "skipped": not fresh, "retried": fresh and failed_before}
        if stopped := stopped_arms(summary):
            line["reason"] = "; ".join(f"{arm} failed ({reason})" for arm, reason in stopped.items())
    except Exception as error:
        # The other jobs continue. The sweep lists this failure at its end; a repeated sweep runs the job again.
        line["reason"] = f"{type(error).__name__}: {error}"
        print(f"sdbench: {line['reason']}", file=sys.stderr)
    try:
        Path(os.environ[LEDGER], f"{hydra.job.num:05d}.json").write_text(json.dumps(line))
    except OSError as error:  # such as a full disk: the other jobs continue, and a repeated sweep continues this one
        print(f"sdbench: the result of {' '.join(line['overrides'])} could not be written: {error}", file=sys.stderr)


def _check_launcher(overrides: Sequence[str]) -> None:
    """Refuse a launcher whose package is not installed. Raises: InputError."""
    for word in overrides:
        key, _, name = word.partition("=")
        if key == "hydra/launcher" and name in _LAUNCHERS:
            needed, extra = _LAUNCHERS[name]
            if find_spec(needed.partition(".")[0]) is None or find_spec(needed) is None:
                raise InputError(f"The launcher {name} is not installed: pip install 'sdbench[{extra}]'.")
