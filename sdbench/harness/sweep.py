"""Hydra multirun: a comparison for each combination of comma-separated values, by whatever launcher is configured.

The values are those of the command line and of an experiment's own `hydra.sweeper.params`. Each job leaves a line of a ledger
(a folder of small files, since launchers use other processes and machines), from which the sweep's document is made. A job that
fails is recorded and the others go on; started again, the sweep skips what is finished, takes up what was stopped at its last
whole block, and tries again what failed.
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
from sdbench.harness.config import config_dir, hydra_words, resolved, sentence_of
from sdbench.harness.override_words import quote

LEDGER, GROUP = "SDBENCH_LEDGER", "SDBENCH_SWEEP"
FULL_ERROR = "HYDRA_FULL_ERROR"
SWEEPS = Path("results") / "runs" / "sweeps"  # Hydra's own files, and a cluster's logs
_LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "ray": ("ray", "ray"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}  # launcher: what it needs, and the extra that brings it


def sweep(overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    """Run every combination.

    Returns:
        {"runs": [{"out", "summary"}], "skipped": n, "retried": [out], "failed": [{"overrides", "out", "reason"}]}: `retried` had
        failed before and is finished now.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check_launcher(overrides)
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
        os.environ[FULL_ERROR] = "1"  # Hydra raises its errors, in place of printing them
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(sentence_of(error, words, extra)) from error
        except Exception as error:  # a launcher may raise anything: a worker was killed, the cluster is gone
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
        "failed": [line for line in lines if "reason" in line],
    }


def job(composed: Any) -> None:
    """One run of a sweep, in whatever process the launcher put it."""
    from hydra.core.hydra_config import HydraConfig

    from sdbench.harness.plan import prepare
    from sdbench.harness.run import folder_of, run

    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)
    for place in hydra.searchpath or ():  # a user's folder holds Python files too
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
    except Exception as error:
        # The others go on: what failed is listed at the end, and done again when the sweep is.
        line["reason"] = f"{type(error).__name__}: {error}"
        print(f"sdbench: {line['reason']}", file=sys.stderr)
    try:
        Path(os.environ[LEDGER], f"{hydra.job.num:05d}.json").write_text(json.dumps(line))
    except (
        OSError
    ) as error:  # a full disk: the next cell may yet find room, and the sweep given again takes this one up
        print(f"sdbench: the outcome of {' '.join(line['overrides'])} could not be noted: {error}", file=sys.stderr)


def _check_launcher(overrides: Sequence[str]) -> None:
    for word in overrides:
        key, _, name = word.partition("=")
        if key == "hydra/launcher" and name in _LAUNCHERS:
            needed, extra = _LAUNCHERS[name]
            if find_spec(needed.partition(".")[0]) is None or find_spec(needed) is None:
                raise InputError(f"The launcher {name} is not installed: pip install 'sdbench[{extra}]'.")
