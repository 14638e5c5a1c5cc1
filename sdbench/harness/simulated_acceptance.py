"""Turn `arms.NAME.forced_acceptance=RATE|FILE|RUN_FOLDER` into a rule that simulates acceptance (SIMULATED).

A number is an acceptance rate (`Forced`). A path is a recording of accepted lengths (`Recorded`). The file holds them as a JSON
list. A run folder gives the lengths of the arm with the same name, in the order of its rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdbench.errors import InputError

KNOB = "forced_acceptance"


def forced(arm: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the arm's config with the knob replaced by its rule. name: of the arm, for messages. Raises: InputError."""
    config = dict(arm)
    wanted = config.pop(KNOB, None)
    if wanted is None:
        return config
    if not config.get("proposer"):
        raise InputError(f"arms.{name}.{KNOB}: the arm drafts nothing, so there is nothing to accept.")
    if isinstance(wanted, str):
        config["rule"] = {"_target_": "sdbench.acceptance.Recorded", "lengths": _recorded(wanted, name)}
    else:
        config["rule"] = {"_target_": "sdbench.acceptance.Forced", "rate": wanted}
    return config


def _recorded(place: str, name: str) -> list[int]:
    """Read the accepted lengths from a JSON file or a run folder. Raises: InputError."""
    path = Path(place)
    where = f"arms.{name}.{KNOB}"
    if path.is_dir():
        from sdbench.analysis.tables import target_rounds
        from sdbench.runs.tables import read_parquet

        rounds = target_rounds(read_parquet(path, "rounds"))
        rounds = rounds[rounds["arm"] == name].sort_values(["repeat", "block", "round"], kind="stable")
        if rounds.empty:
            raise InputError(f"{where}: the run {place} has no verification rounds of an arm '{name}'.")
        return [int(length) for length in rounds["accepted"]]
    try:
        lengths = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where} is '{place}'; it must be a rate, a JSON file with a list of accepted lengths, or a run's folder."
        ) from error
    if not isinstance(lengths, list):
        raise InputError(f"{where}: {place} holds no list of accepted lengths.")
    return lengths
