"""Trackers mirror a run elsewhere. The run's own files stay the source of truth: a tracker that fails only warns.

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
    """Where a run is mirrored to. wants_png: whether `finish` needs the figures as PNG."""

    wants_png: bool

    def start(self, config: Mapping[str, Any], name: str, folder: Path, identity: str | None = None) -> None:
        """Open the mirror of a run: its resolved config, its name, its folder, under which all files go, and its id."""
        ...

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send the summary, one row per sequence, and the figures (PNG files)."""
        ...

    def close(self) -> None:
        """Close the mirror. A caller may do this at any time, and more than once."""
        ...


class NoTracker:
    """Mirrors nothing."""

    wants_png = False

    def start(self, config: Mapping[str, Any], name: str, folder: Path, identity: str | None = None) -> None:
        """Nothing to open."""

    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Nothing to send."""

    def close(self) -> None:
        """Nothing to close."""


def _never_fatal(method: Callable[P, None]) -> Callable[P, None]:
    """Turn a tracker's failure into a warning: it costs the mirror, not the run."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # the library may raise anything
            warnings.warn(f"W&B failed ({error}); the run's own files are complete without it", stacklevel=2)

    return guarded


class WandbTracker:
    """Weights & Biases: the summary, a table with one row per sequence, and the figures.

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
        """Open a W&B run whose files lie in `folder/wandb`."""
        self._identity, self._folder, self._sent = identity or "", folder, False
        self._run = WandbRun(
            self._mode, self._project, self._entity, self._group, self._tags, config, name, folder, identity
        )

    @_never_fatal
    def finish(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send everything."""
        if self._run is not None:
            self._run.send(summary, sequences, figures)
            self._sent = True

    @_never_fatal
    def close(self) -> None:
        """Finish the W&B run."""
        if self._run is not None:
            run, self._run = self._run, None
            run.close()
            if self._sent and self._identity and self._mode == "online":
                # `sdbench push` need not send it again.
                mark_sent(self._folder, destination(self._mode, self._entity, self._project), self._identity)
