"""Mirror a run to another service. The run's own files remain complete, so a tracker that fails only warns.

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
from typing import Any, ParamSpec, Protocol

import pandas as pd

from sdbench.errors import InputError
from sdbench.runs.wandb_run import WandbRun, destination, mark_sent

P = ParamSpec("P")

MODES = ("offline", "online", "disabled")


class Tracker(Protocol):
    """Mirrors a run. wants_png: whether `finish` needs the figures as PNG."""

    wants_png: bool

    def start(self, config: Mapping[str, Any], name: str, folder: Path, identity: str | None = None) -> None:
        """Open the mirror of a run.

        config: the resolved config. name: the run's name. folder: the run's folder; the tracker writes its files there.
        identity: the run's id in the mirror (None: the service chooses one).
        """
        ...

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send the summary, one row per sequence, and the figures (PNG files)."""
        ...

    def curve(self, row: Mapping[str, Any]) -> None:
        """Send a row of a training's log."""
        ...

    def close(self) -> None:
        """Close the mirror. A caller may call this at any time, and more than once."""
        ...


class NoTracker:
    """Mirrors nothing."""

    wants_png = False

    def start(self, config: Mapping[str, Any], name: str, folder: Path, identity: str | None = None) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Do nothing."""

    def curve(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _never_fatal(method: Callable[P, None]) -> Callable[P, None]:
    """Turn an exception of a tracker into a warning, so that the run continues."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # the library may raise any exception
            warnings.warn(f"W&B failed ({error}); the run's own files are complete without it", stacklevel=2)

    return guarded


class WandbTracker:
    """Mirrors a run to Weights & Biases: the summary, a table with one row per sequence, and the figures.

    mode: offline (files under the run's folder, for `wandb sync` or `sdbench push`), online, or disabled.

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
        self.wants_png = mode != "disabled"
        self._mode, self._project, self._entity, self._group, self._tags = mode, project, entity, group, list(tags)
        self._run: WandbRun | None = None
        self._identity, self._folder = "", Path()
        self._sent = False

    @_never_fatal
    def start(self, config: Mapping[str, Any], name: str, folder: Path, identity: str | None = None) -> None:
        """Open a W&B run with its files in `folder/wandb`."""
        self._identity, self._folder, self._sent = identity or "", folder, False
        self._run = WandbRun(
            self._mode, self._project, self._entity, self._group, self._tags, config, name, folder, identity
        )

    @_never_fatal
    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send the summary, the sequences and the figures."""
        if self._run is not None:
            self._run.send(summary, sequences, figures)
            self._sent = True

    @_never_fatal
    def curve(self, row: Mapping[str, Any]) -> None:
        """Send a row of a training's log; its `step` is the step of the curve."""
        if self._run is not None:
            self._run.curve(row)

    @_never_fatal
    def close(self) -> None:
        """Finish the W&B run."""
        if self._run is not None:
            run, self._run = self._run, None
            run.close()
            if self._sent and self._identity and self._mode == "online":
                # `sdbench push` then does not send the run again.
                mark_sent(self._folder, destination(self._mode, self._entity, self._project), self._identity)
