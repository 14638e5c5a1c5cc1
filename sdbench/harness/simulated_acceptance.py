"""Turn the knob `arms.NAME.forced_acceptance` into a rule that simulates acceptance (SIMULATED).

A number is an acceptance rate (`Forced`). `{length: MEAN}` is the mean number of tokens of a verification (`ForcedLength`). A list
gives the rate of each position, if all before it were kept (`ForcedByPosition`). A folder is a finished run, whose arm of the same
name gives accepted lengths in the order of its rounds (`Recorded`). A JSON file is a list of such lengths, or a speculation profile
with rates by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    config["rule"] = _rule(wanted, name, config.get("draft_length"))
    return config


def _rule(wanted: Any, name: str, longest: Any) -> dict[str, Any]:
    """Return the config of the rule. longest: the arm's draft_length."""
    where = f"arms.{name}.{KNOB}"
    if isinstance(wanted, str):
        wanted = _read(wanted, name)
        if wanted and not isinstance(wanted, Mapping):
            return {"_target_": "sdbench.acceptance.Recorded", "lengths": wanted}
        from sdbench.analysis.speculation_profile import read_profile

        wanted = read_profile(wanted, where)
        if isinstance(longest, int) and longest > len(wanted):
            raise InputError(
                f"{where}: the profile has rates for {len(wanted)} drafted tokens, and draft_length is {longest}: take at most as "
                "many."
            )
    if isinstance(wanted, Mapping):
        if set(wanted) != {"length"}:
            raise InputError(f"{where} is {dict(wanted)}; as a mapping it must be {{length: MEAN}}.")
        return {"_target_": "sdbench.acceptance.ForcedLength", "mean": wanted["length"]}
    if isinstance(wanted, Sequence):
        return {"_target_": "sdbench.acceptance.ForcedByPosition", "rates": list(wanted)}
    return {"_target_": "sdbench.acceptance.Forced", "rate": wanted}


def _read(place: str, name: str) -> list[int] | dict[str, Any]:
    """Read accepted lengths from a JSON file or a run folder, or a profile from a JSON file. Raises: InputError."""
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
            f"{where} is '{place}'; it must be a rate, a list of rates, {{length: MEAN}}, a run's folder, or a JSON file with "
            "accepted lengths or a speculation profile."
        ) from error
    if not isinstance(lengths, list | dict):
        raise InputError(f"{where}: {place} holds no list of accepted lengths, and no speculation profile.")
    return lengths
