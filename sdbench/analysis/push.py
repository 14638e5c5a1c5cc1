"""Send finished runs to Weights & Biases, each once.

The W&B id of a run names its measurement and lies in its folder, so W&B recognises a run that it gets again. `pushed.json`
in the folder lists where the run was sent. The runs of a sweep have the sweep's name as their group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdbench.analysis.report.write import report
from sdbench.errors import InputError
from sdbench.runs.record import RunFolder, load
from sdbench.runs.status import run_folders
from sdbench.runs.wandb_run import WandbRun, destination, mark_sent, sent

_PROJECT = "sdbench"


def push(
    places: Sequence[Path], mode: str = "online", project: str | None = None, entity: str | None = None
) -> dict[str, Any]:
    """Send every finished run at or below some folders.

    Args:
        places: folders of runs, or folders that hold them.
        mode: `online`, or `offline`: files in the run's folder, for `wandb sync`.
        project, entity: the destination; None: as each run's config says.

    Returns:
        {"sent": [{"out", "id", "destination"}], "skipped": [out], "unfinished": [out], "failed": [{"out", "reason"}]}. A
        run that could not be sent does not stop the others; the next call sends it.
    """
    document: dict[str, Any] = {"sent": [], "skipped": [], "unfinished": [], "failed": []}
    for folder in run_folders(places):
        out = str(folder.path)
        if not folder.finished:
            document["unfinished"].append(out)
            continue
        try:
            gone = _push(folder, mode, project, entity)
        except Exception as error:  # the library may raise anything
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            document["failed"].append({"out": out, "reason": reason})
            continue
        if gone is None:
            document["skipped"].append(out)
        else:
            document["sent"].append({"out": out, **gone})
    return document


def _push(folder: RunFolder, mode: str, project: str | None, entity: str | None) -> dict[str, str] | None:
    """Send one run; None if it is there already."""
    run = load(folder.path)
    named = run.config.get("tracker") or {}
    goes: str = project or named.get("project") or _PROJECT
    entity = entity or named.get("entity")
    where = destination(mode, entity, goes)
    if where in sent(folder.path):
        return None
    figures = sorted((folder.path / "report" / "figures").glob("*.png"))
    if not figures:
        figures = sorted(report([folder.path], png=True).parent.rglob("*.png"))
    mirror = WandbRun(
        mode, goes, entity, named.get("group"), named.get("tags") or (), run.config, folder.path.name, folder.path,
        folder.measurement,
    )  # fmt: skip
    try:
        mirror.send(run.summary, run.sequences, figures)
    except BaseException:
        mirror.close(exit_code=1)
        raise
    mirror.close()
    mark_sent(folder.path, where, folder.measurement)
    return {"id": folder.measurement, "destination": where}
