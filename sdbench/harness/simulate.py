"""Simulate the speed of each method on a machine from the recorded outcomes of a run. This decodes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sdbench.errors import InputError
from sdbench.harness.config import choices, config_dir
from sdbench.harness.simulated_cast import as_draft, cast_seconds, draft_role, three_levels
from sdbench.runs.record import Run, load
from sdbench.simulate.events import Latencies, Simulation, first_places, places
from sdbench.simulate.measured import measured
from sdbench.theory.ssd import fan_out_of

LENGTHS = range(1, 13)
BUDGETS = (6, 8, 12, 18, 24)


def simulate(folder: Path, words: Sequence[str], save: Path | None = None) -> dict[str, Any]:
    """Simulate ar, sd, ssd, pearl, amusd and dsi over the outcomes of the run in `folder`.

    words: latency=NAME_OR_FILE and latency.KEY=MILLISECONDS; by default, the latencies that the run measured. draft=ROLE: the
    role whose drafts are simulated (`sdbench.harness.simulated_cast`), by default draft.
    save: write the latencies that the run measured to this latency file.

    Raises:
        InputError: the run sampled, decoded batches, or logged no ranks; a word is wrong; or `save` cannot be written.
    """
    run = load(folder)
    if run.config["sampling"]["temperature"] != 0:
        raise InputError(
            f"{folder} was sampled; simulate needs a greedy run: its ranks are valid for every draft length."
        )
    if run.config["batch_size"] > 1:
        raise InputError(f"{folder} decoded {run.config['batch_size']} prompts at a time; simulate needs batch_size=1.")
    role, words = draft_role(words, run.config)
    whole = _tested(run)
    tables = whole if role == "draft" else as_draft(whole, role)
    arm = _recorded(tables["rounds"])
    recorded = tables["rounds"][tables["rounds"]["arm"] == arm]
    own = measured(tables)
    if save is not None:
        try:
            save.write_text(yaml.safe_dump(_file(own), sort_keys=False))
        except OSError as error:
            raise InputError(f"--save {save} cannot be written ({error.strerror}).") from error
    modelled = None if role == "draft" else cast_seconds(run.config, role, own.verify[1])
    if modelled is not None:
        own = replace(own, name=f"{own.name}, with {role} by its stored bytes", source="modelled", draft=[modelled])
    latencies = _latencies(words, own)
    simulation = Simulation(places(recorded), latencies, first=first_places(recorded))
    methods = _methods(simulation, run.summary["arms"][arm]["ranks"])
    return {
        "simulated": True,
        "run": str(folder),
        "outcomes_of": arm,
        "latencies": {"name": latencies.name, "source": latencies.source, "published": latencies.published},
        "methods": [*methods, *_compared(three_levels(whole, role, simulation.strings, latencies), methods)],
        "against_measured": _against(run, tables, arm) if not words and role == "draft" else {},
    }


def _tested(run: Run) -> dict[str, Any]:
    """Return the tables of the run without the arms for which `_counts` is False."""
    others = [name for name, arm in run.summary["arms"].items() if not _counts(arm)]
    return {key: table if key == "bare" else table[~table["arm"].isin(others)] for key, table in run.tables.items()}


def _counts(arm: Mapping[str, Any]) -> bool:
    """Say whether the simulation can use an arm.

    It cannot use a peer, which records no steps, nor an arm with simulated acceptance, a lossy arm, or one with its own threads.
    """
    apart = arm.get("end_to_end_only") or arm.get("simulated_acceptance") or arm["config"].get("threads") is not None
    return bool(arm["lossless"]) and not apart


def _recorded(rounds: Any) -> str:
    """Return the arm whose outcomes to use: its draft is right below the target, and is the longest. Raises: InputError."""
    drafted = (rounds["proposer"] == "draft") & (rounds["verifier"] == "target")
    ranked = rounds[rounds["rank"].notna() & drafted] if "rank" in rounds else rounds.iloc[:0]
    if ranked.empty:
        raise InputError(
            "No arm of this run logged ranks: simulate needs one with a draft under the target, such as sd."
        )
    return str(ranked.groupby("arm")["proposed"].max().idxmax())


def _methods(simulation: Simulation, logged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every method, length and budget, with tokens per second and the speedup over ar. logged: rank counts."""
    base = simulation.ar()
    rows = [{"method": "ar", "tokens_per_second": base}]
    rows += [{"method": "sd", "draft_length": K, "tokens_per_second": simulation.sd(K)} for K in LENGTHS]
    if simulation.latencies.tree:
        for K in LENGTHS:
            for budget in BUDGETS:
                speed = simulation.ssd(K, fan_out_of(logged, K, budget), budget)
                rows.append({"method": "ssd", "draft_length": K, "budget": budget, "tokens_per_second": speed})
    rows += [{"method": "dsi", "draft_length": k, "tokens_per_second": simulation.dsi(k)} for k in LENGTHS]
    rows += [{"method": "pearl", "draft_length": g, "tokens_per_second": simulation.pearl(g)} for g in LENGTHS]
    rows += [{"method": "amusd", "draft_length": K, "tokens_per_second": simulation.amusd(K)} for K in LENGTHS]
    return [{**row, "speedup": row["tokens_per_second"] / base} for row in rows]


def _compared(rows: list[dict[str, Any]], methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with their speedup over ar. methods: begin with ar."""
    return [{**row, "speedup": row["tokens_per_second"] / methods[0]["tokens_per_second"]} for row in rows]


def _against(run: Run, tables: Mapping[str, Any], arm: str) -> dict[str, dict[str, float]]:
    """Return the simulated and the measured tokens per second of the run's own arms.

    The simulation of an arm uses the times of this arm, of `ar` and of the arm whose outcomes it uses. `off` is the relative error.
    """
    found = {}
    arms = run.summary["arms"]
    plain = {name for name, entry in arms.items() if _kind(entry["config"]) == "ar"} | {arm}
    recorded = tables["rounds"][tables["rounds"]["arm"] == arm]
    strings, first = places(recorded), first_places(recorded)
    for name, entry in arms.items():
        kind, config = _kind(entry["config"]), entry["config"]
        if kind is None or not _counts(entry):
            continue
        its = {
            key: table if key == "bare" else table[table["arm"].isin(plain | {name})] for key, table in tables.items()
        }
        simulation = Simulation(strings, measured(its), first=first)
        length = int(config.get("draft_length") or (entry["overlapped"] or {}).get("window") or 1)
        if kind == "ar":
            speed = simulation.ar()
        elif kind == "sd":
            speed = simulation.sd(length)
        elif kind == "pearl":
            speed = simulation.pearl(length)
        elif kind == "amusd":
            speed = simulation.amusd(length, config["proposer"].get("least", 2))
        else:
            fan_out = config["proposer"].get("fan_out") or {}
            if "per_length" in fan_out:
                counts, first_fan_out = (fan_out["per_length"],) * (length + 1), fan_out["per_length"]
            elif "budget" in fan_out:
                counts = fan_out_of(run.summary["arms"][arm]["ranks"], length, fan_out["budget"])
                first_fan_out = fan_out["budget"]
            else:
                continue
            speed = simulation.ssd(length, counts, first_fan_out)
        actual = entry["tokens_per_second"]
        found[name] = {"simulated": speed, "measured": actual, "off": speed / actual - 1}
    return found


def _kind(config: Mapping[str, Any]) -> str | None:
    """Return the simulated method that an arm runs; None if no simulated method fits."""
    proposer = config.get("proposer") or {}
    drafts = str(proposer.get("_target_", ""))
    lengths = str((config.get("lengths") or {}).get("_target_", "Fixed"))
    if config.get("threads") is not None or not lengths.endswith("Fixed"):
        return None
    if str(config["_target_"]).endswith(".Pearl"):
        return "pearl" if config.get("pre_verify", True) and config.get("post_verify", True) else None
    if not proposer:
        return "ar"
    if drafts.endswith(".ModelDrafter"):
        return "sd" if proposer["model"] == "draft" else None
    if drafts.endswith(".AMUSDDrafter"):
        return "amusd"
    if drafts.endswith(".SSDDrafter"):
        return "ssd" if str((proposer.get("backup") or {}).get("_target_", "Neural")).endswith("Neural") else None
    return None


def _latencies(words: Sequence[str], own: Latencies) -> Latencies:
    """Return the latencies of the run or of a latency file, with the values of the command line. Raises: InputError."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not (key == "latency" or key.startswith("latency.")):
            raise InputError(f"simulate takes latency=NAME_OR_FILE and latency.KEY=MILLISECONDS, not '{word}'.")
        if key == "latency":
            values = {**_read(value), **values}
        else:
            try:
                values[key.removeprefix("latency.")] = float(value)
            except ValueError as error:
                raise InputError(f"{key} is '{value}'; it must be a number of milliseconds.") from error
    if not words:
        return own
    # Single values replace latencies of the run. A file replaces all of them.
    return Latencies.of(values if any(word.startswith("latency=") for word in words) else {**_file(own), **values})


def _read(name: str) -> dict[str, Any]:
    """Read a latency file by its name in `conf/latency`, or by its path. Raises: InputError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else config_dir() / "latency" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"There is no latency file '{name}'; there are: {', '.join(choices('latency'))}, or give a path."
        )
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no latency file: it must map names to milliseconds.")
    return values


def _file(latencies: Latencies) -> dict[str, Any]:
    """Return the content of a latency file: medians, in milliseconds."""

    def middle(times: Iterable[float]) -> float:
        return round(1e3 * float(np.median(list(times))), 4)

    values: dict[str, Any] = {"name": latencies.name, "source": "measured by a run (medians)", "published": False}
    for name in ("verify", "verify_concurrent", "tree"):
        table = getattr(latencies, name)
        if table:
            values[name] = {n: middle(times) for n, times in sorted(table.items())}
    if latencies.tree:
        values["leaves"] = latencies.leaves
    for name in ("draft", "draft_concurrent", "host", "host_concurrent", "glue", "comm", "answer"):
        if times := getattr(latencies, name):
            values[name] = middle(times)
    return values


def table(document: Mapping[str, Any]) -> str:
    """Return, as text, the best setting of each method, and then the run's own arms."""
    latencies = document["latencies"]
    marked = " (published figures)" if latencies["published"] else ""
    lines = [f"SIMULATED on the latencies of {latencies['name']}{marked}, outcomes of {document['outcomes_of']}"]
    for method in ("ar", "sd", "ssd", "pearl", "amusd", "dsi", "pyramid"):
        rows = [row for row in document["methods"] if row["method"] == method]
        if rows:
            best = max(rows, key=lambda row: row["tokens_per_second"])
            setting = "".join(
                f" {key}={best[key]}" for key in ("draft_length", "budget", "inner_length") if key in best
            )
            lines.append(f"  {method:7s} {best['speedup']:5.2f}x  {best['tokens_per_second']:9.1f} tok/s {setting}")
    if document["against_measured"]:
        lines.append("the run's own arms, simulated against measured (tok/s):")
        for name, row in document["against_measured"].items():
            lines.append(f"  {name:40s} {row['simulated']:8.1f} {row['measured']:8.1f}  {row['off']:+.1%}")
    return "\n".join(lines)
