"""The two questions put to the front, answered from its rows, whichever way the answer falls.

1. Is some lossy arm faster than the best lossless arm, with non-inferior quality?
2. Is a pyramid (either PyramidSD variant) faster than fuzzy speculative decoding at equal quality? For each threshold of `fsd`: the
   fastest PyramidSD arm whose quality is non-inferior to that `fsd` arm's.

Speeds are compared prompt by prompt (geometric mean of the paired ratios, bootstrap 95 % interval over prompts); the fastest of
several arms is chosen on one half of the prompts and read on the other, both ways. Quality is non-inferior when the lower end of
the paired difference lies above minus the margin; each such test stands at its own level, however many there are.

python -m experiments.pyramidsd.verdict RUN_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.cells import NotRun
from experiments.found import best, of_logs
from experiments.script import script
from sdbench.analysis.compare import speed_verdict
from sdbench.analysis.results import Results, read
from sdbench.analysis.statistics import non_inferiority

MODEL_TOLERANCE = 0.10


def compare(run: Results, arms: list[str], others: list[str]) -> dict[str, Any]:
    """The fastest of some arms against the fastest of others, and the verdict: faster, slower or indistinguishable."""
    try:
        (ours, name), (theirs, other) = best(run.logs, arms), best(run.logs, others)
    except NotRun:
        return {"arm": None, "against": None, "ratio": None, "ci95": None, "verdict": "undecided"}
    found = of_logs(ours - theirs)
    return {
        "arm": name,
        "against": other,
        "ratio": found.value,
        "ci95": found.ci95,
        "verdict": speed_verdict(found.ci95, found.n, None),
    }


def not_worse(run: Results, name: str, other: str) -> bool:
    """Whether an arm's quality is non-inferior to another's."""
    return non_inferiority(run.scores[name], run.scores[other], margin=run.config["margin"]).non_inferior


def verdicts(run: Results) -> dict[str, Any]:
    """Both answers, and how far the throughput model is off for each arm."""
    arms = {name: arm for name, arm in run.summary["arms"].items() if not arm.get("void")}
    lossless = [name for name, arm in arms.items() if arm["lossless"]]
    sound = [name for name, arm in arms.items() if not arm["lossless"] and arm["non_inferior"]]
    pyramids = [name for name in arms if name.startswith("psd_")]
    matches = {}
    for fuzzy in (name for name in arms if name.startswith("fsd")):
        matches[fuzzy] = compare(run, [name for name in pyramids if not_worse(run, name, fuzzy)], [fuzzy])
    speeds = {name: (arm["predicted_tokens_per_second"], arm["tokens_per_second"]) for name, arm in arms.items()}
    model = {name: said / measured - 1 for name, (said, measured) in speeds.items() if said and measured}
    return {
        "margin": run.config["margin"],
        "non_inferior": sound,
        "lossy_against_lossless": compare(run, sound, lossless),
        "pyramid_against_fsd": matches,
        "any_pyramid_against_lossless": compare(run, pyramids, lossless),
        "model_error": model,
        "model_worst": max(model.items(), key=lambda item: abs(item[1])),
        "model_tolerance": MODEL_TOLERANCE,
    }


def sentence(answer: dict[str, Any]) -> str:
    if answer["ratio"] is None:
        return "undecided, none was shown to be."
    low, high = answer["ci95"]
    return (
        f"`{answer['arm']}` is **{answer['verdict']}** than `{answer['against']}`: {answer['ratio']:.2f}x "
        f"[{low:.2f}, {high:.2f}]."
    ).replace("indistinguishable** than", "indistinguishable** in speed from")


def text(found: dict[str, Any], prompts: int) -> str:
    """The verdict in Markdown."""
    worst, error = found["model_worst"]
    within = sum(abs(value) <= MODEL_TOLERANCE for value in found["model_error"].values())
    return "\n".join(
        [
            f"On {prompts} prompts, with a margin of {100 * found['margin']:.0f} points:",
            "",
            f"- Fastest lossy arm of non-inferior quality against the fastest lossless arm: "
            f"{sentence(found['lossy_against_lossless'])}",
            *(
                f"- Fastest PyramidSD arm of a quality non-inferior to `{fuzzy}`: {sentence(match)}"
                for fuzzy, match in found["pyramid_against_fsd"].items()
            ),
            f"- Fastest PyramidSD arm, whatever its quality, against the fastest lossless arm: "
            f"{sentence(found['any_pyramid_against_lossless'])}",
            f"- Shown to be non-inferior: {', '.join(f'`{name}`' for name in found['non_inferior']) or 'none'}.",
            f"- The throughput model is within {100 * MODEL_TOLERANCE:.0f} % of the measured speed for {within} of "
            f"{len(found['model_error'])} arms; furthest off: `{worst}`, {100 * error:+.1f} %.",
            "",
        ]
    )


def main(run_folder: str, out_folder: str) -> None:
    out = Path(out_folder)
    run = read(run_folder)
    found = verdicts(run)
    (out / "verdict.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "verdict.md").write_text(text(found, run.summary["prompts"]))


if __name__ == "__main__":
    script(main, __doc__, 2)
