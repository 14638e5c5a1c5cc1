"""Make kept runs with known speeds and scores, so that the truth of each verdict is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

ENVIRONMENT: dict[str, Any] = {"cpu": {"model": "a made-up machine"}, "gpus": [], "torch": {"threads": 1}}
CONFIG = {
    "models": {"target": {"path": "tiny/target"}},
    "hardware": {"device": "cpu", "dtype": "float32"},
    "tasks": {"_target_": "sdbench.tasks.tiny.WordProblems"},
}


def sd(length: int) -> dict[str, Any]:
    return {"draft_length": length}


def fuzzy(tau_q: float, tau_t: float, l_q: int = 10, l_d: int = 4) -> dict[str, Any]:
    inner = {"draft_length": l_d, "rule": {"threshold": tau_q}}
    return {"draft_length": l_q, "rule": {"threshold": tau_t}, "proposer": inner}


def kept_run(
    folder: Path,
    name: str,
    arms: Mapping[str, tuple[float, dict[str, Any]]],
    prompts: int = 60,
    noise: float = 0.1,
    right: Mapping[str, float] | None = None,
    hit: Mapping[str, float] | None = None,
    repeats: int = 1,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Write a kept run.

    Args:
        folder: of the paper's results.
        name: of the run.
        arms: (speed, config) by name.
        prompts: how many.
        noise: standard deviation of a prompt's log speed.
        right: share of right answers by arm.
        hit: share of outcomes that hit, by arm with a cache.
        repeats: of each prompt.
        config: keys of the run's config.
        environment: keys of the run's environment.
    """
    generator = np.random.default_rng(0)
    path = folder / name
    path.mkdir(parents=True)
    rows, counts = [], []
    for prompt in range(prompts):
        hardness = generator.random()
        for repeat in range(repeats):
            for arm, (speed, _) in arms.items():
                keys = {"arm": arm, "block": prompt, "repeat": repeat, "prompt_id": f"p{prompt}"}
                seconds = 0.5 / speed * np.exp(generator.normal(0, noise))
                rows.append(
                    {
                        **keys,
                        "tokens": [7] * 51,
                        "text": "",
                        "finish_reason": "eos",
                        "score": float(hardness < (right or {}).get(arm, 0.8)),
                        "category": "",
                        "prefill_seconds": 0.01,
                        "decode_seconds": seconds,
                        "block_decode_seconds": seconds,
                        "target_calls": 20,
                    }
                )
                hits = int(generator.binomial(20, (hit or {}).get(arm, 0.0)))
                counts.append(
                    {**keys, "proposed": 80, "accepted": 60, "outcomes": 20, "hits": hits, "forwards_target": 20.0}
                )
    summary = {
        "baseline": next(iter(arms)),
        "prompts": prompts,
        "repeats": repeats,
        "arms": {arm: _metrics(speed, knobs, (right or {}).get(arm, 0.8)) for arm, (speed, knobs) in arms.items()},
    }
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "environment.json").write_text(json.dumps({**ENVIRONMENT, **(environment or {})}))
    (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **(config or {})}))
    pd.DataFrame(rows).to_parquet(path / "sequences.parquet")
    pd.DataFrame(counts).to_parquet(path / "counts.parquet")
    return path


def _metrics(speed: float, knobs: dict[str, Any], quality: float) -> dict[str, Any]:
    return {
        "config": knobs,
        "tokens_per_second": 100 * speed,
        "predicted_tokens_per_second": 103 * speed,
        "seconds_per_token": {"mean": 0.01 / speed},
        "speedup": speed,
        "speedup_ci95": [0.98 * speed, 1.02 * speed],
        "quality": quality,
        "quality_ci95": [quality - 0.05, quality + 0.05],
        "edges": {"draft>target": {"acceptance_rate": 0.75}},
        "lossless": True,
        "speculation": None,
        "degenerate": False,
        "non_inferior": True,
    }
