"""Hydra multirun: a comparison for each combination of comma-separated values, by whatever launcher is configured.

Each job leaves a line of a ledger (a folder of small files, since launchers may use other processes), from which the sweep's
document is made. A job that fails is recorded and the others go on; one that was finished before is skipped.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.config import config_dir, normalised, searching

LEDGER = "SDBENCH_LEDGER"


def sweep(overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    """Run every combination. {"runs": [{"out", "summary"}], "skipped": n, "failed": [{"overrides", "reason"}]}."""
    import hydra

    words = [*normalised(overrides), *searching(extra)]
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    argv = sys.argv
    with tempfile.TemporaryDirectory() as ledger:
        os.environ[LEDGER] = ledger
        sys.argv = ["sdbench", *words, *quiet, "--multirun"]
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
        except SystemExit as error:
            if error.code not in (0, None):
                raise InputError("The sweep was refused; see above.") from error
        finally:
            sys.argv = argv
        lines = [json.loads(path.read_text()) for path in sorted(Path(ledger).iterdir())]
    return {
        "runs": [{"out": line["out"], "summary": line["summary"]} for line in lines if "out" in line],
        "skipped": sum(line.get("skipped", False) for line in lines),
        "failed": [line for line in lines if "reason" in line],
    }


def job(composed: Any) -> None:
    """One run of a sweep, in whatever process the launcher put it."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from sdbench.harness.plan import prepare
    from sdbench.harness.run import run

    hydra = HydraConfig.get()
    line: dict[str, Any]
    try:
        config = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        out, summary, fresh = run(prepare({str(key): value for key, value in config.items()}))
        line = {"out": str(out), "summary": summary, "skipped": not fresh}
    except Exception as error:
        # The others go on: what failed is listed at the end, and done again when the sweep is.
        line = {"overrides": list(hydra.overrides.task), "reason": f"{type(error).__name__}: {error}"}
        print(f"sdbench: {line['reason']}", file=sys.stderr)
    Path(os.environ[LEDGER], f"{hydra.job.num:05d}.json").write_text(json.dumps(line))
