"""What is asked of drafting beside the target, answered from the rows of a run, whichever way the answer falls.

- SSD at its best length against synchronous speculative decoding at the same length, at that one's own best length, and against
  autoregressive decoding; the same for PEARL; all against the baselines given both cores.
- Measured speed against theorem 7 (PEARL: against its published form), on the arm's own measured times.
- Live hit rates against those that the ranks of a synchronous run of the same length predict.
- The simulator against the measured speeds.

python -m experiments.ssd.verdict RUN_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.script import script
from sdbench.analysis.rows import of_arm
from sdbench.analysis.speculation_plots import budget_of
from sdbench.analysis.statistics import speedup
from sdbench.harness.simulate import simulate
from sdbench.runs.record import Run, load

RANKED = {"Uniform": "uniform", "Geometric": "geometric"}  # fan-outs for which the ranks of a run predict a hit rate


def compare(run: Run, name: str, other: str) -> dict[str, Any]:
    """The paired speed ratio of two arms."""
    ours, theirs = (of_arm(run.tables, arm)["sequences"] for arm in (name, other))
    found = speedup(ours, theirs)
    return {"arm": name, "against": other, "ratio": found.value, "ci95": found.ci95}


def verdicts(run: Run) -> dict[str, Any]:
    """Every answer that the run's arms allow."""
    arms = run.summary["arms"]
    caches = {name: arm for name, arm in arms.items() if arm["speculation"]}
    plain = {name: arm for name, arm in arms.items() if name.split("[")[0] == "sd"}
    by_length = {arm["config"]["draft_length"]: name for name, arm in plain.items()}
    best_sd = max(plain, key=lambda name: plain[name]["speedup"])
    greedy = run.config["sampling"]["temperature"] == 0
    compared = []
    for name, arm in [*caches.items(), *((name, arm) for name, arm in arms.items() if arm["overlapped"])]:
        same = by_length.get(arm["config"]["draft_length"])
        others = [*([same] if same else []), best_sd, "ar", *[other for other in arms if "two_cores" in other]]
        compared += [compare(run, name, other) for other in dict.fromkeys(others) if other in arms]
    return {
        "compared": compared,
        "predicted": {
            name: arm["predicted_tokens_per_second"] / arm["tokens_per_second"] - 1
            for name, arm in arms.items()
            if (arm["speculation"] or arm["overlapped"]) and arm["predicted_tokens_per_second"]
        },
        "corollary_9": {name: arm["speculation"].get("corollary_9") for name, arm in caches.items()},
        "hit_rates": {name: _hits(arm, arms, by_length, greedy) for name, arm in caches.items()},
        "simulated": _simulated(run) if greedy else {},
    }


def _hits(arm: Any, arms: Any, by_length: dict[int, str], greedy: bool) -> dict[str, Any]:
    same = by_length.get(arm["config"]["draft_length"])
    budget = budget_of(arm)
    found = {"branches": budget, "live": arm["speculation"]["outcome_hit_rate"], "all_rounds": arm["hit_rate"]}
    proposer = arm["config"]["proposer"]
    kind = RANKED.get(proposer["fan_out"]["_target_"].rpartition(".")[2])
    # Behind a back-up that is not the draft's the rounds are others than those that the ranks were logged in.
    neural = proposer["backup"]["_target_"].endswith(".Neural")
    if kind and neural and same and greedy and str(budget) in arms[same]["ranks"]["hit_rate"]:
        found["by_ranks"] = arms[same]["ranks"]["hit_rate"][str(budget)][kind]
    return found


def _simulated(run: Run) -> dict[str, Any]:
    return {name: row["off"] for name, row in simulate(run.path, [])["against_measured"].items()}


def text(found: dict[str, Any], arms: Any) -> str:
    """The answers in Markdown."""
    lines = []
    for row in found["compared"]:
        low, high = row["ci95"]
        lines.append(f"| `{row['arm']}` | `{row['against']}` | {row['ratio']:.2f}x [{low:.2f}, {high:.2f}] |")
    parts = ["| arm | against | speed, paired over prompts [95 %] |\n| --- | --- | ---: |\n" + "\n".join(lines)]
    rows = []
    for name, hits in found["hit_rates"].items():
        predicted = f"{hits['by_ranks']:.3f}" if "by_ranks" in hits else "–"
        seconds = arms[name]["speculation"]["seconds"]
        rows.append(
            f"| `{name}` | {hits['branches'] or '–'} | {hits['live']:.3f} | {predicted} | {arms[name]['acceptance_rate']:.3f} "
            f"| {arms[name]['speculation']['tokens_per_round_on_hit']:.2f} / "
            f"{arms[name]['speculation']['tokens_per_round_on_miss']:.2f} | "
            + " / ".join(f"{1e3 * seconds[key]:.1f}" for key in ("verify", "build", "backup", "wait_on_hit"))
            + " |"
        )
    head = (
        "| arm | branches | hit rate of outcomes, live | by the ranks | acceptance | tokens on hit / miss | T_v / T_p / T_b / "
        "wait on hit (ms) |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    if rows:
        parts.append(head + "\n".join(rows))
    off = "; ".join(f"`{name}` {value:+.1%}" for name, value in found["predicted"].items())
    parts.append(f"Predicted against measured speed (theorem 7; PEARL's form), on each arm's own times: {off}.")
    between = "; ".join(
        f"`{name}` over `{row['over']}` {row['low']:.2f}x to {row['high']:.2f}x, measured {row['measured']:.2f}x"
        for name, row in found["corollary_9"].items()
        if row
    )
    if between:
        parts.append(f"Corollary 9 (ratios of totals): {between}.")
    if found["simulated"]:
        off = "; ".join(f"`{name}` {value:+.1%}" for name, value in found["simulated"].items())
        parts.append(f"Simulated against measured speed: {off}.")
    return "\n\n".join(parts) + "\n"


def main(run_folder: str, out_folder: str) -> None:
    folder, out = Path(run_folder), Path(out_folder)
    run = load(folder)
    found = verdicts(run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "verdict.md").write_text(text(found, run.summary["arms"]))


if __name__ == "__main__":
    script(main, __doc__, 2)
