"""Trackers mirror a run elsewhere. The run's own files stay the source of truth: a tracker that fails warns, no more.

tracker.start(config, name, folder)
try:
    ...
    tracker.finish(summary, sequences, figures)
finally:
    tracker.close()
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

import pandas as pd

from sdbench.errors import InputError

if TYPE_CHECKING:
    import wandb

P = ParamSpec("P")

MODES = ("offline", "online", "disabled")
_TABLE_COLUMNS = (
    "arm",
    "prompt_id",
    "repeat",
    "category",
    "prompt_tokens",
    "emitted_tokens",
    "target_calls",
    "decode_seconds",
    "score",
    "finish_reason",
    "text",
)


class Tracker(Protocol):
    """Where a run is mirrored to."""

    def start(self, config: Mapping[str, Any], name: str, folder: Path) -> None:
        """Open the mirror of a run: its resolved config, its name, and its folder, under which all files go."""
        ...

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send the summary, one row per sequence, and the pictures (PNG)."""
        ...

    def close(self) -> None:
        """Let go, whatever happened before. May be called at any time, and more than once."""
        ...


class NoTracker:
    """Mirrors nothing."""

    def start(self, config: Mapping[str, Any], name: str, folder: Path) -> None:
        """Nothing to open."""

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Nothing to send."""

    def close(self) -> None:
        """Nothing to close."""


def _never_fatal(method: Callable[P, None]) -> Callable[P, None]:
    """A tracker's failure costs the mirror, not the run."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # the library may raise anything
            warnings.warn(f"W&B failed ({error}); the run's own files are complete without it", stacklevel=2)

    return guarded


class WandbTracker:
    """Weights & Biases: the summary, a table with one row per sequence, and the figures.

    mode: offline (files under the run's folder, for `wandb sync`), online, or disabled. W&B reads its environment once
    per process, so the mode is always passed. Host and user names, the command line and machine statistics stay out.

    Raises:
        InputError: an unknown mode.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "sdbench",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if mode not in MODES:
            raise InputError(f"tracker.mode={mode} is unknown; choose one of {', '.join(MODES)}")
        self._mode, self._project, self._entity, self._group, self._tags = mode, project, entity, group, list(tags)
        self._run: wandb.Run | None = None

    @_never_fatal
    def start(self, config: Mapping[str, Any], name: str, folder: Path) -> None:
        """Open a W&B run whose files lie in `folder/wandb`."""
        import wandb

        # console and stats off: a benchmark must not share its cores with a monitor.
        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        self._run = wandb.init(
            mode=self._mode,  # pyright: ignore[reportArgumentType]  # a checked string
            project=self._project,
            entity=self._entity,
            group=self._group,
            tags=self._tags,
            name=name,
            dir=str(folder),
            config=dict(config),
            reinit="create_new",
            settings=settings,
        )

    @_never_fatal
    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send everything."""
        if self._run is None:
            return
        import wandb

        self._run.summary.update(dict(summary))
        rows = sequences.assign(emitted_tokens=sequences["tokens"].map(len))[list(_TABLE_COLUMNS)]
        # A NaN becomes None: W&B's columns are typed by what is in them.
        rows = rows.astype(object).where(rows.notna(), None)
        self._run.log({"sequences": wandb.Table(columns=list(_TABLE_COLUMNS), data=rows.to_numpy())})
        self._run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures if path.suffix == ".png"})

    @_never_fatal
    def close(self) -> None:
        """Finish the W&B run. Without this the process's next `wandb.init` would go on with this one."""
        if self._run is not None:
            run, self._run = self._run, None
            run.finish()
