"""Each of our arms against the peer that does the same, from the rows of one run: paired over prompts, end to end on both sides.

python -m experiments.bench.verdict RUN_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from experiments.script import script
from sdbench.analysis.rows import of_arm
from sdbench.analysis.statistics import FewPrompts, speedup
from sdbench.runs.record import Run, load

# Which peers do what an arm of ours does; those that draft are compared at the same length.
SAME = {
    "ar": ("hf_generate", "hf_generate_static"),
    "sd": ("hf_assisted", "flashspec", "hf_generate"),
    "lookup": ("hf_lookup", "hf_generate"),
    "ssd": ("sd", "hf_assisted", "flashspec", "hf_generate"),
}


def kind(name: str) -> str:
    """The arm that a member of a grid was expanded from."""
    return name.split("[")[0]


def verdicts(run: Run) -> list[dict[str, Any]]:
    """Every comparison that the run's arms allow; one with a void arm says so and has no ratio."""
    arms, found = run.summary["arms"], []
    for name, arm in arms.items():
        length = arm["config"].get("draft_length")
        for peer in (other for wanted in SAME.get(kind(name), ()) for other in arms if kind(other) == wanted):
            if arms[peer]["config"].get("draft_length") not in (None, length):
                continue
            void = [each for each in (name, peer) if arms[each]["void"]]
            gain = speedup(*(of_arm(run.tables, each)["sequences"] for each in (name, peer)), whole=True)
            ratio = {"ratio": None, "ci95": None} if void else {"ratio": gain.value, "ci95": gain.ci95}
            found.append({"arm": name, "against": peer, **ratio, "void": void})
    return found


def text(run: Run, found: list[dict[str, Any]]) -> str:
    """The comparisons in Markdown, and what of our arms' time the bare forwards take."""
    lines = [
        "| arm | against | speed end to end, paired over prompts [95 %] | model time of ours |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in found:
        share = run.summary["arms"][row["arm"]]["model_time_fraction"]
        between = "" if row["ci95"] is None else f" [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}]"
        ratio = f"void: {', '.join(row['void'])}" if row["ratio"] is None else f"{row['ratio']:.2f}x{between}"
        model = "–" if share is None else f"{100 * share:.1f} %"
        lines.append(f"| `{row['arm']}` | `{row['against']}` | {ratio} | {model} |")
    execution = run.config["hardware"]["execution"]
    drawn = (
        "greedy"
        if run.config["sampling"]["temperature"] == 0
        else f"temperature {run.config['sampling']['temperature']}"
    )
    servers = "vLLM and SGLang (`arms=[vllm_sd,sglang_sd]`) are not measured: no such server was at hand."
    return f"Ours {execution}, {drawn}.\n\n" + "\n".join(lines) + f"\n\n{servers}\n"


def main(run_folder: str, out_folder: str) -> None:
    folder, out = Path(run_folder), Path(out_folder)
    run = load(folder)
    warnings.simplefilter("ignore", FewPrompts)  # the table says it under its flags
    found = verdicts(run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "verdict.md").write_text(text(run, found))


if __name__ == "__main__":
    script(main, __doc__, 2)
