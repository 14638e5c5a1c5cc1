"""Predict the fastest method and its lengths for a family, a task and a machine.

A short probe run decodes some prompts with one setting of each method. It records the times of the forwards of every model. It also
records the rank of each target token in the order of each smaller model. From these, `sdbench.simulate.events` PREDICTS the speed
of every other setting, round by round. `sdbench.harness.lookup_replay` replays each setting of look-up over the target's answers.
For token trees, the steps over n nodes are timed, and each tree of Sequoia's planner is replayed over the recorded ranks. The
result names the fastest setting and the command that runs it.

It also names the fastest chain of levels. Its levels are all models of the family, early exits and look-up.
`sdbench.harness.level_probe` measures their times and what they pick along the target's answers. From these,
`sdbench.harness.chain_plan` replays each chain and PREDICTS its speed.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from sdbench.drafting.lookup import PromptLookup
from sdbench.errors import InputError
from sdbench.harness.chain_plan import Clock, anchored, host_times, planned, replayed
from sdbench.harness.config import compose
from sdbench.harness.level_probe import command, config_of_all_roles, measure_levels
from sdbench.harness.lookup_replay import drafted_by_round
from sdbench.harness.plan import Plan, load_role, prepare
from sdbench.harness.run import run
from sdbench.harness.tree_plan import (
    DEPTH,
    PROBE_TREES,
    TreeClock,
    host_line,
    measured_acceptance,
    predictor,
    time_in_turn,
)
from sdbench.models.skeleton import is_recurrent
from sdbench.runs.record import Run, load
from sdbench.simulate.chain_replay import ChainReplay
from sdbench.simulate.events import Latencies, Simulation, first_places, places
from sdbench.simulate.measured import measured
from sdbench.simulate.pyramid import InnerStage, pyramid_speed
from sdbench.theory.ssd import fan_out_of

PROMPTS = 16
SHORTEST = 16  # tokens of an answer
LONGEST = 12  # the most drafted tokens of one model
INNER = range(1, 7)  # draft lengths of a pyramid's inner stage, l_D
OUTER = (4, 6, 8, 10, 12, 16)  # draft lengths of its outer stage, l_Q
BUDGETS = (6, 8, 12, 18)
COPIED = (2, 4, 6, 10)  # draft lengths of prompt look-up
MATCHES = (1, 2, 3)  # its shortest match, min_ngram
PER_MATCH = (1, 2, None)  # its drafted tokens per matched token
NODES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # budgets of a token tree
TREE_REPEATS = 7  # timings of each step over a tree
CLOSE = 0.02  # the result lists settings within this fraction of the best prediction

Row = dict[str, Any]


def tune(overrides: Sequence[str], extra: Path | None = None) -> dict[str, Any]:
    """Run the probe, and predict the speed of every setting.

    Args:
        overrides: of models, tasks, hardware, sampling and limit. The probe chooses the arms.
        extra: another folder of configs.

    Returns:
        `best`: the fastest setting. `near`: the settings within 2 % of it. `predicted`: every setting, the fastest first.
        `measured`: for each arm of the probe, the measured and the predicted speed. `prompts`: their number.
        `chain`: the fastest chain of levels. `chains`: every chain, the fastest first. `planned` has a chain's lengths and speed-up
        by the planner. `twice`: the settings that are both a chain and a setting of `predicted`. `seconds`: of the call.

    Raises:
        InputError: the overrides choose arms, sampling or batches.
    """
    begun = perf_counter()
    alone = _alone(overrides, extra)
    _check(prepare(alone))
    config = _probe(alone, overrides, extra)
    with tempfile.TemporaryDirectory(prefix="sdbench-tune-") as scratch:
        config["out"] = str(Path(scratch) / "probe")
        plan = prepare(config)
        out, _, _ = run(plan)
        probe = load(out)
    rows = sorted(_predicted(probe, plan), key=lambda row: -row["tokens_per_second"])
    found = _chains(probe, plan)
    base = next(row["tokens_per_second"] for row in rows if row["arm"] == "ar")
    words = [shlex.quote(word) for word in overrides if not word.startswith("limit=")]
    words += [] if extra is None else ["--config-dir", shlex.quote(str(extra))]
    rows = [
        {**row, "speedup": row["tokens_per_second"] / base, "command": " ".join([row["command"], *words])}
        for row in rows
    ]
    found = [{**chain, "command": " ".join([chain["command"], *words])} for chain in found]
    best = rows[0]
    return {
        "predicted_only": True,
        "best": best,
        "near": [row for row in rows[1:] if row["tokens_per_second"] >= (1 - CLOSE) * best["tokens_per_second"]],
        "predicted": rows,
        "measured": _measured(probe, rows),
        "chain": found[0],
        "chains": found,
        "twice": _twice(found, rows),
        "prompts": probe.summary["prompts"],
        "seconds": round(perf_counter() - begun, 1),
    }


def _alone(overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    """Return the config of a run of the target alone. Raises: InputError, if tune cannot predict from it."""
    for word in overrides:
        if word.lstrip("+~").startswith(("arms", "baseline", "repeats", "out", "tracker", "experiment")):
            raise InputError(
                f"tune chooses its own arms and keeps no run: leave out '{word}' (tune takes models, tasks, hardware, limit)."
            )
    config = compose([f"limit={PROMPTS}", "tracker=none", "arms=[ar]", *overrides], extra)
    if config["sampling"]["temperature"] != 0:
        raise InputError("tune predicts from greedy answers: leave sampling.temperature at 0.")
    if config["batch_size"] != 1:
        raise InputError(f"tune predicts for one sequence at a time; batch_size is {config['batch_size']}.")
    return config


def _probe(alone: Mapping[str, Any], overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    """Return the config of the probe run. alone: that of the target alone. Raises: InputError."""
    roles = alone["models"]
    # This look-up drafts behind every match, as many tokens as match. So the probe times forwards of every length.
    arms, words = ["ar", "lookup"], ["arms.lookup.proposer.min_ngram=1", "arms.lookup.proposer.per_match=1"]
    if "draft" in roles:
        arms, words = [*arms, "sd", "sequoia"], [*words, f"arms.sd.draft_length={LONGEST}", PROBE_TREES]
        if alone["hardware"].get("pin"):
            arms.append("ssd")
    if "qualifier" in roles:
        arms, words = [*arms, "sd_qualifier"], [*words, "arms.sd_qualifier.draft_length=6"]
    if {"draft", "qualifier"} <= roles.keys():
        arms.append("pyramid")
    return compose(
        [f"limit={PROMPTS}", "tracker=none", *overrides, f"arms=[{','.join(arms)}]", "name=tune", *words], extra
    )


def _check(plan: Plan) -> None:
    """Refuse what tune cannot predict. Raises: InputError."""
    if plan.max_new_tokens < SHORTEST:
        raise InputError(
            f"tune predicts from answers of {SHORTEST} tokens or more; max_new_tokens is {plan.max_new_tokens}."
        )
    for role, member in plan.family.members.items():
        if is_recurrent(member.config):
            raise InputError(
                f"{role} has recurrent layers, and tune compares token trees and early exits too: compare arms in a run."
            )


def _predicted(probe: Run, plan: Plan) -> list[Row]:
    """Return every setting of every method of the probe, with its predicted speed."""
    arms, tables = probe.summary["arms"], probe.tables
    rows = _lookups(tables, arms["lookup"]["config"]["proposer"], plan)
    for arm, role in (("sd", "draft"), ("sd_qualifier", "qualifier")):
        if arm in arms:
            own = _as_draft(tables, arm, role)
            simulation = Simulation(places(_of(own["rounds"], arm)), measured(own))
            rows += [_row(arm, {"draft_length": K}, simulation.sd(K)) for K in range(1, LONGEST + 1)]
    if trees := {name: arm["config"]["proposer"] for name, arm in arms.items() if name.startswith("sequoia[")}:
        rows += _trees(tables, trees, plan)
    if "pyramid" in arms:
        rows += _pyramids(tables)
    if "ssd" in arms:
        rows += _ssd(tables, arms["sd"]["ranks"])
    return rows


def _chains(probe: Run, plan: Plan) -> list[Row]:
    """Return every chain of levels with its best lengths, the fastest first."""
    levels = measure_levels(prepare(config_of_all_roles(plan.config)), _texts(probe.tables, plan))
    times = anchored(levels.times, probe.tables["steps"], levels.answers.views)
    clock = Clock(times, host_times(probe.tables, levels.search))
    return [
        {
            "levels": list(chain.levels),
            "lengths": list(chain.lengths),
            "tokens_per_second": 1 / chain.seconds,
            "speedup": chain.speedup,
            "planned": {"lengths": list(first.lengths), "speedup": first.speedup},
            "command": command(chain),
        }
        for chain, first in replayed(planned(levels, clock), ChainReplay(levels.answers), clock)
    ]


def _twice(found: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return the chains of a target and one model that are also a setting of `sd` or `sd_qualifier`, with both predictions."""
    arms = {"draft": "sd", "qualifier": "sd_qualifier"}
    return [
        {
            "chain": f"{' > '.join(chain['levels'])} {chain['lengths']}",
            "arm": row["arm"],
            "chain_speedup": chain["speedup"],
            "speedup": row["speedup"],
        }
        for chain in found
        for row in rows
        if arms.get(chain["levels"][-1]) == row["arm"] and chain["lengths"] == [row["setting"]["draft_length"]]
    ]


def _texts(tables: Mapping[str, pd.DataFrame], plan: Plan) -> list[tuple[list[int], Any]]:
    """Return the prompts with the target's greedy answers, in tokens."""
    sequences = _of(tables["sequences"], "ar")
    answers: dict[str, Any] = dict(zip(sequences["prompt_id"], sequences["tokens"], strict=True))
    return [(tokens, answers[prompt.id]) for prompt, tokens in plan.prompts if prompt.id in answers]


def _lookups(tables: Mapping[str, pd.DataFrame], knobs: Mapping[str, Any], plan: Plan) -> list[Row]:
    """Predict `ar`, and `lookup` for every setting whose longest forward was timed. knobs: the look-up of the probe."""
    texts = _texts(tables, plan)
    tokens = sum(len(answer) - 1 for _, answer in texts)
    ar, own = measured(_arms(tables, {"ar"})), _arms(_as_draft(tables, "lookup", "lookup"), {"lookup"})
    verify = measured(_arms(tables, {"ar", "lookup", "sd", "sd_qualifier"})).verify
    known = sorted(verify)
    means = [float(np.mean(verify[n])) for n in known]
    host = float(np.mean(measured(own).host))  # with the search
    rows = [_row("ar", {}, 1 / (float(np.mean(ar.verify[1])) + float(np.mean(ar.host))))]
    for length, least, per_match in product(COPIED, MATCHES, PER_MATCH):
        proposer = PromptLookup(knobs["max_ngram"], least, knobs["match"], per_match)
        drafted = np.array(drafted_by_round(proposer, texts, length))
        if drafted.max(initial=0) >= known[-1]:
            continue
        seconds = float(np.interp(drafted + 1, known, means).sum()) + host * len(drafted)
        setting = {"draft_length": length, "proposer.min_ngram": least, "proposer.per_match": per_match}
        rows.append(_row("lookup", setting, tokens / seconds))
    return rows


def _ssd(tables: Mapping[str, pd.DataFrame], logged: Mapping[str, Any]) -> list[Row]:
    """Predict ssd for every length and budget. logged: the rank counts of `sd`."""
    its = _arms(tables, {"ar", "sd", "ssd"})
    rounds = _of(tables["rounds"], "sd")
    simulation = Simulation(places(rounds), measured(its), first=first_places(rounds))
    return [
        _row(
            "ssd",
            {"draft_length": K, "proposer.fan_out.budget": budget},
            simulation.ssd(K, fan_out_of(logged, K, budget), budget),
        )
        for K in range(1, LONGEST + 1)
        for budget in BUDGETS
    ]


def _trees(tables: Mapping[str, pd.DataFrame], probed: Mapping[str, Mapping[str, Any]], plan: Plan) -> list[Row]:
    """Predict the trees of Sequoia's planner for every budget and depth, and those of the probe. probed: their knobs, by arm."""
    strings = [string.tolist() for string in places(_of(tables["rounds"], "sd"))]
    sequences = _of(tables["sequences"], "ar")
    context = int((sequences["prompt_tokens"] + sequences["tokens"].map(len) // 2).median())
    plan.take_cores()
    clocks = {
        role: TreeClock(model, min(context, model.max_positions - NODES[-1]), NODES[-1], levels=role == "draft")
        for role in ("target", "draft")
        for model in [load_role(plan, role)]
    }
    curves = time_in_turn(clocks, dict.fromkeys(clocks, (0, *NODES)), TREE_REPEATS)
    predict = predictor(strings, curves["draft"], curves["target"], host_line(tables, list(probed)))
    acceptance = measured_acceptance(strings)
    settings = [predict(list(knobs["acceptance"]), knobs["budget"], knobs["depth"]) for knobs in probed.values()]
    settings += [
        predict(acceptance, budget, depth)
        for budget in (NODES if acceptance else ())
        for depth in range(1, min(budget, DEPTH) + 1)
    ]
    return [_row("sequoia", setting.knobs, setting.tokens_per_second) for setting in settings]


def _pyramids(tables: Mapping[str, pd.DataFrame]) -> list[Row]:
    """Predict pyramids for every inner and outer length.

    The ranks of the target's tokens come from `sd_qualifier`. The acceptance of the draft comes from the pyramid's inner rounds.
    """
    inner = _of(tables["rounds"], "pyramid")
    inner = inner[(inner["proposer"] == "draft") & (inner["verifier"] == "qualifier")]
    refused = int((inner["accepted"] < inner["proposed"]).sum())
    passed = float(inner["accepted"].sum()) / max(float(inner["accepted"].sum()) + refused, 1.0)
    draft = measured(_arms(tables, {"ar", "sd"}))
    stage = InnerStage(passed, draft.draft, _qualifier(tables), draft.host)
    own = _as_draft(tables, "sd_qualifier", "qualifier")
    strings = places(_of(own["rounds"], "sd_qualifier"))
    verify = measured(_arms(tables, {"ar", "sd", "sd_qualifier", "pyramid"})).verify
    target = Latencies("", "measured", verify=verify, draft=(0.0,), host=draft.host)
    return [
        _row(
            "pyramid",
            {"draft_length": outer, "proposer.draft_length": length},
            pyramid_speed(strings, target, stage, length, outer),
        )
        for length in INNER
        for outer in OUTER
        if length <= outer
    ]


def _qualifier(tables: Mapping[str, pd.DataFrame]) -> dict[int, Sequence[float]]:
    """Return the seconds of the qualifier's forwards, by their number of new tokens."""
    steps = tables["steps"]
    own = steps[(steps["role"] == "qualifier") & (steps["kind"] != "prefill")]
    return {int(n): part["seconds"].tolist() for n, part in own.groupby("tokens")}  # pyright: ignore


def _measured(probe: Run, rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Return the measured and the predicted speed of each arm of the probe. Predicted is None if no setting fits the arm."""
    found: dict[str, dict[str, float | None]] = {}
    for name, arm in probe.summary["arms"].items():
        same = [row for row in rows if row["arm"] == name.partition("[")[0] and _is(arm["config"], row["setting"])]
        found[name] = {
            "measured": arm["tokens_per_second"],
            "predicted": same[0]["tokens_per_second"] if same else None,
        }
    return found


def _is(config: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Say whether an arm's config has this setting. setting: values by dotted path."""
    for knob, value in setting.items():
        node: Any = config
        for key in knob.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node != value:
            return False
    return True


def _row(arm: str, setting: Mapping[str, Any], speed: float) -> Row:
    """Return a prediction with the command that runs its setting. speed: in tokens per second."""
    words = [f"arms.{arm}.{knob}={_written(value)}" for knob, value in setting.items()]
    command = " ".join(["sdbench run", f"arms=[ar,{arm}]" if arm != "ar" else "arms=[ar]", *words])
    return {"arm": arm, "setting": dict(setting), "tokens_per_second": float(speed), "command": command}


def _written(value: Any) -> str:
    """Write a value as an override holds it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def _of(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[table["arm"] == arm]


def _arms(tables: Mapping[str, pd.DataFrame], names: set[str]) -> dict[str, pd.DataFrame]:
    return {key: table if key == "bare" else table[table["arm"].isin(names)] for key, table in tables.items()}


def _as_draft(tables: Mapping[str, pd.DataFrame], arm: str, role: str) -> dict[str, pd.DataFrame]:
    """Return the tables of `ar` and one arm, with the arm's drafting model renamed to `draft`, as the simulation of `sd` needs."""
    its = _arms(tables, {"ar", arm})
    if role == "draft":
        return its
    return {
        **its,
        "steps": its["steps"].assign(role=its["steps"]["role"].replace(role, "draft")),
        "rounds": its["rounds"].assign(proposer=its["rounds"]["proposer"].replace(role, "draft")),
    }


def table(document: Mapping[str, Any]) -> str:
    """Return, as text, the best setting of each arm, the measured and predicted arms of the probe, and the fastest command."""
    lines = [f"PREDICTED from {document['prompts']} prompts in {document['seconds']:.0f} s"]
    for arm in dict.fromkeys(row["arm"] for row in document["predicted"]):
        best = next(row for row in document["predicted"] if row["arm"] == arm)
        setting = " ".join(f"{knob}={_written(value)}" for knob, value in best["setting"].items())
        lines.append(f"  {arm:13s} {best['speedup']:5.2f}x  {best['tokens_per_second']:8.1f} tok/s  {setting}")
    lines.append("the probe's own settings, measured and predicted (tok/s):")
    for arm, row in document["measured"].items():
        predicted = "–" if row["predicted"] is None else f"{row['predicted']:8.1f}"
        lines.append(f"  {arm:13s} {row['measured']:8.1f}  {predicted}")
    if document["near"]:
        lines.append(f"{len(document['near'])} further settings have a prediction within {CLOSE:.0%} of the best.")
    chain = document["chain"]
    lines.append(
        f"best chain of {len(document['chains'])}: {' > '.join(chain['levels'])}, lengths {chain['lengths']}, "
        f"{chain['speedup']:.2f}x predicted: {chain['command']}"
    )
    lines += [
        f"  {same['chain']} is {same['chain_speedup']:.2f}x as a chain, and {same['speedup']:.2f}x as a setting of {same['arm']}"
        for same in document["twice"]
    ]
    lines.append(f"fastest: {document['best']['command']}")
    return "\n".join(lines)
