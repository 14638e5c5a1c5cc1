"""The two questions put to the front, answered from its rows, whichever way the answer falls.

1. Is some lossy arm faster than the best lossless arm, with non-inferior quality?
2. Is a pyramid (either PyramidSD variant) faster than fuzzy speculative decoding at equal quality? For each threshold of `fsd`: the
   fastest PyramidSD arm whose quality is non-inferior to that `fsd` arm's.

Speeds are compared prompt by prompt (geometric mean of the paired ratios, bootstrap 95 % interval over prompts). Quality is
non-inferior when the lower end of the paired difference to the target's own answers lies above minus the margin.

python experiments/pyramidsd/verdict.py RUN_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sdbench.analysis.metrics import prompt_scores
from sdbench.analysis.rows import of_arm
from sdbench.analysis.statistics import non_inferiority, speedup
from sdbench.runs.record import Run, load

MODEL_TOLERANCE = 0.10


def fastest(run: Run, arms: list[str]) -> str | None:
    """The arm of the highest speed-up, None if there are no arms."""
    return max(arms, key=lambda name: run.summary["arms"][name]["speedup"], default=None)


def compare(run: Run, name: str | None, other: str | None) -> dict[str, Any]:
    """The paired speed ratio of two arms, and the verdict: faster, slower or indistinguishable."""
    if name is None or other is None:
        return {"arm": name, "against": other, "ratio": None, "ci95": None, "verdict": "undecided"}
    found = speedup(*(of_arm(run.tables, arm)["sequences"] for arm in (name, other)))
    assert found.ci95 is not None
    low, high = found.ci95
    verdict = "faster" if low > 1 else "slower" if high < 1 else "indistinguishable"
    return {"arm": name, "against": other, "ratio": found.value, "ci95": [low, high], "verdict": verdict}


def not_worse(run: Run, name: str, other: str) -> bool:
    """Whether an arm's quality is non-inferior to another's."""
    scores = (prompt_scores(of_arm(run.tables, arm)["sequences"]) for arm in (name, other))
    return non_inferiority(*scores, margin=run.config["margin"]).non_inferior


def verdicts(run: Run) -> dict[str, Any]:
    """Both answers, and how far the throughput model is off for each arm."""
    arms = run.summary["arms"]
    lossless = [name for name, arm in arms.items() if arm["lossless"]]
    sound = [name for name, arm in arms.items() if not arm["lossless"] and arm["non_inferior"]]
    pyramids = [name for name in arms if name.startswith("psd_")]
    matches = []
    for fuzzy in (name for name in arms if name.startswith("fsd")):
        equal = [name for name in pyramids if not_worse(run, name, fuzzy)]
        matches.append(compare(run, fastest(run, equal), fuzzy))
    model = {name: arm["predicted_tokens_per_second"] / arm["tokens_per_second"] - 1 for name, arm in arms.items()}
    return {
        "margin": run.config["margin"],
        "non_inferior": sound,
        "lossy_against_lossless": compare(run, fastest(run, sound), fastest(run, lossless)),
        "pyramid_against_fsd": matches,
        "any_pyramid_against_lossless": compare(run, fastest(run, pyramids), fastest(run, lossless)),
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
                f"- Fastest PyramidSD arm of a quality non-inferior to `{match['against']}`: {sentence(match)}"
                for match in found["pyramid_against_fsd"]
            ),
            f"- Fastest PyramidSD arm, whatever its quality, against the fastest lossless arm: "
            f"{sentence(found['any_pyramid_against_lossless'])}",
            f"- Shown to be non-inferior: {', '.join(f'`{name}`' for name in found['non_inferior']) or 'none'}.",
            f"- The throughput model is within {100 * MODEL_TOLERANCE:.0f} % of the measured speed for {within} of "
            f"{len(found['model_error'])} arms; furthest off: `{worst}`, {100 * error:+.1f} %.",
            "",
        ]
    )


def main(run_folder: Path, out: Path) -> None:
    run = load(run_folder)
    found = verdicts(run)
    (out / "verdict.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "verdict.md").write_text(text(found, run.summary["prompts"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
