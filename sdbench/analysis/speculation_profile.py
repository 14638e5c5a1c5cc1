"""Write what a run measured about a drafter as a `speculation_profile.json`.

The format is that of NVIDIA's specdec_bench (github NVIDIA/Model-Optimizer, examples/specdec_bench/specdec_bench/
speculation_profile.py, schema 1.0). Engines that simulate acceptance read it. An accept length counts the tokens of one
verification, with the target's own token, so it is `accepted + 1` here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.figures import style
from sdbench.analysis.metrics.acceptance import acceptance_by_position
from sdbench.analysis.tables import target_rounds, usable
from sdbench.errors import InputError
from sdbench.runs.record import Run, load

SCHEMA = "1.0"
TOLERANCE = 0.02  # of the format's own check of the mean
FOLDER = "profiles"


def write_profiles(folder: Path, arms: Sequence[str] = ()) -> list[Path]:
    """Write `profiles/ARM.json` into a finished run's folder for some arms. Return the files. Signs become hyphens in their names.

    arms: by default, each arm that drafts and accepts by its own rule.

    Errors: InputError if the run is not finished, has no such arm, or has no arm that drafts.
    """
    run = load(folder)
    known = [name for name, arm in run.summary["arms"].items() if drafts(run, name) and not arm["simulated_acceptance"]]
    for name in arms:
        if name not in known:
            raise InputError(
                f"{folder} has no arm '{name}' with a measured acceptance; it has: {', '.join(known) or 'none'}."
            )
    if not known:
        raise InputError(f"{folder} has no arm with a measured acceptance: run one that drafts, such as sd.")
    files = []
    for name in arms or known:
        file = run.path / FOLDER / f"{re.sub('[^A-Za-z0-9_.]+', '-', name).strip('-')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(profile(run, name), indent=2) + "\n", encoding="utf-8")
        files.append(file)
    return files


def drafts(run: Run, arm: str) -> bool:
    """Say whether an arm's target verified drafted tokens."""
    return bool(_rounds(run, arm)["proposed"].any())


def profile(run: Run, arm: str) -> dict[str, Any]:
    """Return the profile of an arm: the rounds of its target, over all prompts and repeats."""
    rounds = _rounds(run, arm)
    lengths, requests = rounds["accepted"] + 1, [rounds["prompt_id"], rounds["repeat"]]
    K = int(rounds["proposed"].max())
    marginal = acceptance_by_position(rounds)
    before = [1.0, *marginal[:-1]]
    conditional = [rate / base if base else 0.0 for rate, base in zip(marginal, before, strict=True)]
    mean = float(lengths.mean())
    method, chain = _method(run, arm), "nodes" not in rounds or rounds["nodes"].isna().all()
    implied, last = 1 + sum(marginal), [1.0, *marginal]
    return {
        "schema_version": SCHEMA,
        "measured": True,
        "method": method,
        "draft_checkpoint": _checkpoint(run, _drafter(run, arm)),
        "target_model": _checkpoint(run, "target"),
        "num_speculative_tokens": K,
        "block_size": None,
        "max_supported_k": K,
        "verification_method": "longest_prefix",
        "conditional_accept_rates": [round(rate, 6) for rate in conditional],
        "marginal_accept_rates": [round(rate, 6) for rate in marginal],
        "mean_accept_length": round(mean, 6),
        "mean_accept_length_per_request": round(float(lengths.groupby(requests).mean().mean()), 6),
        # A chain of n tokens begins like a chain of n + 1, if its length does not depend on what is drafted.
        "accept_length_model": "chain_analytic" if chain and rounds["proposed"].nunique() == 1 else "measured_per_k",
        "accept_length_by_k": _by_length(run, arm),
        "acceptance_length_histogram": {str(n): int(count) for n, count in sorted(lengths.value_counts().items())},
        "per_category": _categories(run, rounds),
        "measurement_conditions": _conditions(run, arm, rounds),
        "validation": {
            "mean_consistency": {
                "implied_mean_accept_length": round(implied, 6),
                "reported_mean_accept_length": round(mean, 6),
                "abs_delta": round(abs(implied - mean), 6),
                "tolerance": TOLERANCE,
                "passed": abs(implied - mean) <= TOLERANCE,
            },
            "marginal_monotonicity": {"passed": bool((np.diff(last) <= 1e-9).all()), "violations": []},
        },
    }


def read_profile(document: Mapping[str, Any], where: str) -> list[float]:
    """Return the conditional rates of a profile: the probability that each position is accepted if all before it are.

    where: names the profile in messages. Errors: InputError if it is not measured, or has no rates in [0, 1].
    """
    rates = document.get("conditional_accept_rates")
    if document.get("measured") is False:
        raise InputError(f"{where}: the profile says that it was not measured: take one with measured rates.")
    if not isinstance(rates, list) or not rates or not all(_is_rate(rate) for rate in rates):
        raise InputError(f"{where}: the profile has no conditional_accept_rates between 0 and 1.")
    return [float(rate) for rate in rates]


def _is_rate(rate: Any) -> bool:
    return isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate <= 1


def _rounds(run: Run, arm: str) -> pd.DataFrame:
    rounds = target_rounds(usable(run.tables)["rounds"])
    return rounds[rounds["arm"] == arm]


def _by_length(run: Run, arm: str) -> dict[str, float]:
    """Return the mean accept length of each point of the arm's grid, by its longest draft."""
    found = {}
    for name in run.summary["arms"]:
        if style.family(name) == style.family(arm):
            rounds = _rounds(run, name)
            found[str(int(rounds["proposed"].max()))] = round(float(rounds["accepted"].mean()) + 1, 6)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _categories(run: Run, rounds: pd.DataFrame) -> dict[str, Any] | None:
    sequences = run.tables["sequences"]
    of_prompt = sequences.drop_duplicates("prompt_id").set_index("prompt_id")["category"]
    parts = rounds.assign(category=rounds["prompt_id"].map(of_prompt))
    if not parts["category"].fillna("").any():
        return None
    return {
        str(name): {"mean_accept_length": round(float(part["accepted"].mean()) + 1, 6), "steps": len(part)}
        for name, part in parts.groupby("category")
    }


def _conditions(run: Run, arm: str, rounds: pd.DataFrame) -> dict[str, Any]:
    config, hardware = run.config, run.config["hardware"]
    return {
        "engine": f"sdbench {run.environment['packages'].get('sdbench') or ''}".strip(),
        "run_id": run.run_id,
        "arm": arm,
        "dataset": (config.get("tasks") or {}).get("task") or (config.get("tasks") or {}).get("name"),
        "requests": int(rounds.drop_duplicates(["prompt_id", "repeat"]).shape[0]),
        "concurrency": config["batch_size"],
        "temperature": config["sampling"]["temperature"],
        "lossless": run.summary["arms"][arm]["lossless"],
        "dtype": hardware["dtype"],
        "device": hardware["device"],
        "proposed_per_step": round(float(rounds["proposed"].mean()), 6),
    }


def _drafter(run: Run, arm: str) -> str | None:
    """Return the role that drafts for an arm's target; None if no model of the family does."""
    names = set(_rounds(run, arm)["proposer"]) & set(run.config["models"])
    return min(names) if names else None


def _method(run: Run, arm: str) -> str:
    role = _drafter(run, arm)
    head = role is not None and run.config["models"][role].get("head_of") is not None
    return style.family(arm) if head or role is None else "draft_model"


def _checkpoint(run: Run, role: str | None) -> dict[str, Any] | None:
    """Describe a model without the paths of this machine: the last two parts of its path, and the identity of its weights."""
    if role is None:
        return None
    entry = run.config["models"][role]
    path = str(entry.get("path") or (entry.get("derive") or {}).get("weights") or role)
    identity = (run.environment.get("weights") or {}).get(role)
    return {"id": "/".join(part for part in path.split("/")[-2:] if part), "identity": identity}
