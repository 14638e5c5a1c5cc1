"""Run lm-eval's command line with every arm as a model, and with this package's tasks added to lm-eval's.

    python -m sdbench.lm_eval run --model sdbench --model_args arm=sd,models=tiny --tasks tiny_wordproblems --limit 8

The other words of --model_args are overrides of `sdbench run`. The verbs, options and files are lm-eval's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from sdbench.cli import FAILED, INTERRUPTED, OK, REFUSED
from sdbench.errors import InputError, RunError

MODEL = "sdbench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run lm-eval's command line. Exit status: 0; 1 if a started run failed; 2 if the input is invalid."""
    if argv is not None:
        sys.argv = ["python -m sdbench.lm_eval", *argv]
    try:
        _run()
    except InputError as error:
        print(f"sdbench: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except RunError as error:
        print(f"sdbench: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:
        if os.environ.get("SDBENCH_TRACEBACK"):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"sdbench: {type(error).__name__}: {reason} (SDBENCH_TRACEBACK=1 shows where)", file=sys.stderr)
        # lm-eval raises a ValueError for invalid input.
        return REFUSED if isinstance(error, ValueError) else FAILED
    return OK


def _run() -> None:
    import lm_eval.tasks
    from lm_eval._cli import HarnessCLI
    from lm_eval.api.registry import model_registry, register_model
    from lm_eval.utils import setup_logging

    from sdbench.lm_eval.catalogue import OWN
    from sdbench.lm_eval.model import PROFILE, ArmLM

    if MODEL not in model_registry:
        register_model(MODEL)(ArmLM)
    setup_logging()
    commands = HarnessCLI()
    arguments = commands.parse_args()
    running = getattr(arguments, "command", None) == "run"
    file = _file(arguments) if running else {}
    if running and (arguments.model or file.get("model")) == MODEL and not (arguments.device or file.get("device")):
        arguments.device = PROFILE  # lm-eval's default is a GPU, even on a machine without one
    if not running and "include_path" in arguments and arguments.include_path is None:
        arguments.include_path = str(OWN)  # the verb `run` already includes this folder
    wanted = getattr(arguments, "tasks", None) or file.get("tasks")
    # lm-eval makes its task manager by this name and has no parameter for another one, so the name is replaced.
    original: Any = lm_eval.tasks.TaskManager
    lm_eval.tasks.TaskManager = _manager(wanted) if running else original
    try:
        commands.execute(arguments)
    finally:
        lm_eval.tasks.TaskManager = original


def _file(arguments: Any) -> dict[str, Any]:
    """Read the file of lm-eval's option `--config`. The options of the command line take precedence."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    path = getattr(arguments, "config", None)
    return EvaluatorConfig.load_yaml_config(path) if path else {}


def _manager(wanted: str | Sequence[str] | None):
    """Return a function that makes a `Catalogue` for the named tasks, with the signature of lm-eval's task manager."""
    from sdbench.lm_eval.catalogue import Catalogue

    words = [wanted] if isinstance(wanted, str) else list(wanted or [])
    names = [name for word in words for name in str(word).split(",")]

    def manager(include_path: str | None = None, metadata: dict[str, Any] | None = None) -> Catalogue:
        return Catalogue(names, [include_path] if include_path else [], metadata)

    return manager


if __name__ == "__main__":
    sys.exit(main())
