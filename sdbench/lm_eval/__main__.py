"""lm-eval's own command line, with every arm as a model and this package's tasks beside lm-eval's.

    python -m sdbench.lm_eval run --model sdbench --model_args arm=sd,models=tiny --tasks tiny_wordproblems --limit 8

The other words of --model_args are overrides of `sdbench run`. Everything else is lm-eval's: its verbs, options and files.
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
    """Run lm-eval's command line. Exit status: 0; 1 if something that was started failed; 2 if the input was refused."""
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
        # A ValueError is how lm-eval refuses what it is given.
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
        arguments.device = PROFILE  # lm-eval's own default is a GPU, be there one or not
    if not running and "include_path" in arguments and arguments.include_path is None:
        arguments.include_path = str(OWN)  # what runs has it anyway
    wanted = getattr(arguments, "tasks", None) or file.get("tasks")
    # lm-eval makes its task manager by this name, and takes none from outside.
    original: Any = lm_eval.tasks.TaskManager
    lm_eval.tasks.TaskManager = _manager(wanted) if running else original
    try:
        commands.execute(arguments)
    finally:
        lm_eval.tasks.TaskManager = original


def _file(arguments: Any) -> dict[str, Any]:
    """What lm-eval's own `--config FILE` says; the command line comes before it."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    path = getattr(arguments, "config", None)
    return EvaluatorConfig.load_yaml_config(path) if path else {}


def _manager(wanted: str | Sequence[str] | None):
    """What takes the place of lm-eval's task manager: ours, over the folders that hold the tasks that were named."""
    from sdbench.lm_eval.catalogue import Catalogue

    words = [wanted] if isinstance(wanted, str) else list(wanted or [])
    names = [name for word in words for name in str(word).split(",")]

    def manager(include_path: str | None = None, metadata: dict[str, Any] | None = None) -> Catalogue:
        return Catalogue(names, [include_path] if include_path else [], metadata)

    return manager


if __name__ == "__main__":
    sys.exit(main())
