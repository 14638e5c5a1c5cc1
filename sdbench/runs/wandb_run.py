"""Send one run to Weights & Biases: open it with the run's id, send the summary, tables and figures, and close it.

W&B reads its environment variables once per process, so this module always passes the mode. It also stops W&B from
collecting host names, user names, the command line and machine statistics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sdbench.runs.files import write_text

COLUMNS = (
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
_PER_PROMPT = ("tokens_per_second", "tokens_per_target_call", "score")


_MARKER = "pushed.json"


def destination(mode: str, entity: str | None, project: str) -> str:
    """Return the name of a destination: mode, entity and project, joined by slashes."""
    return "/".join(part for part in (mode, entity, project) if part)


def sent(folder: Path) -> dict[str, str]:
    """Return the destinations that a run was sent to, each with the run's id there. folder: the run's folder."""
    marker = folder / _MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}


def mark_sent(folder: Path, where: str, identity: str) -> None:
    """Record in a run's folder that the run was sent. where: the destination. identity: the run's id there."""
    write_text(folder / _MARKER, json.dumps({**sent(folder), where: identity}, indent=2) + "\n")


class WandbRun:
    """A W&B run with its files in `folder/wandb`.

    identity: its id. If W&B is online, a second run with the same id continues the first.
    """

    def __init__(
        self,
        mode: str,
        project: str,
        entity: str | None,
        group: str | None,
        tags: Sequence[str],
        config: Mapping[str, Any],
        name: str,
        folder: Path,
        identity: str | None,
    ) -> None:
        import wandb

        # Console capture and statistics are off, because a monitor on the same cores would disturb the measurement.
        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        self.run = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]  # a checked string
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            name=name,
            id=identity,
            resume="allow" if identity and mode == "online" else None,
            dir=str(folder),
            config=dict(config),
            reinit="create_new",
            settings=settings,
        )

    def send(self, summary: Mapping[str, Any], sequences: pd.DataFrame, figures: Sequence[Path]) -> None:
        """Send the summary, one row per sequence, one row per prompt with a column per arm, and the figures."""
        import wandb

        self.run.summary.update(dict(summary))
        rows = sequences.assign(emitted_tokens=sequences["tokens"].map(len))
        tables = {"sequences": rows[list(COLUMNS)], "prompts": per_prompt(rows)}
        pictures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures if path.suffix == ".png"}
        self.run.log({**{name: _table(frame) for name, frame in tables.items()}, **pictures})

    def curve(self, row: Mapping[str, Any]) -> None:
        """Send a row of a training's log."""
        self.run.log(dict(row), step=int(row["step"]))

    def close(self, exit_code: int = 0) -> None:
        """Finish the run. Without this, the next `wandb.init` of the process would continue it."""
        self.run.finish(exit_code=exit_code)


def per_prompt(rows: pd.DataFrame) -> pd.DataFrame:
    """Make a table with one row per prompt.

    rows: the table of sequences, with `emitted_tokens`. One column is the category. Each arm adds three columns, which are means
    over repeats: the speed (tokens per second), the tokens per target call, and the score. A speed uses the prompt's own decode
    time. At batch sizes above one, the other rows of the block decode in the same time.
    """
    decoded = (rows["emitted_tokens"] - 1).clip(lower=0)
    rows = rows.assign(
        tokens_per_second=decoded / rows["decode_seconds"].where(rows["decode_seconds"] > 0),
        tokens_per_target_call=decoded / rows["target_calls"].where(rows["target_calls"] > 0),
    )
    wide = rows.pivot_table(index=["prompt_id", "category"], columns="arm", values=list(_PER_PROMPT), aggfunc="mean")
    wide.columns = [f"{arm} {metric}" for metric, arm in wide.columns]
    return wide.reset_index()


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    # W&B infers the type of a column from its values, so a NaN becomes None.
    plain = frame.astype(object).where(frame.notna(), None)
    return wandb.Table(columns=list(plain.columns), data=plain.to_numpy())
