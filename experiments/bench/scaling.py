"""Scaling curves of a family's steps: time against new tokens, batch and context; a draft's steps, and its fan-out; memory.

python -m experiments.bench.scaling OUT [overrides of `sdbench run`: models=, hardware=, ...]

Shapes are timed in turn, `ROUNDS` times over, so that what slows the machine slows all of them; the medians are kept. Beyond the
context that the weights were trained for the model is one of the same shape with RANDOM WEIGHTS, and says so in its column.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from experiments.script import script
from sdbench.analysis.style import figure, save
from sdbench.device import synchronise
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.lm.kv_cache import KVCache
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.transformer import Transformer
from sdbench.models.memory import count

ROUNDS = 15
TOKENS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BATCHES = (1, 2, 4, 8, 16, 32)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
WIDTHS = (1, 6, 12, 18, 24, 36)
BASE = 128  # tokens of context where it is not what varies


@dataclass(frozen=True)
class Shape:
    """A step to be timed. curve: which curve it is a point of; wide: branches of a fan-out, not a chain."""

    curve: str
    role: str
    rows: int
    tokens: int
    context: int
    random: bool = False
    wide: bool = False


def shapes(target: LanguageModel, draft: LanguageModel | None) -> list[Shape]:
    found = [Shape("tokens", "target", 1, n, BASE) for n in TOKENS]
    found += [Shape("batch", "target", rows, n, BASE) for rows in BATCHES for n in (1, 5)]
    found += [
        Shape("context", "target", 1, n, context, random=context + n > target.max_positions)
        for context in CONTEXTS
        for n in (1, 5)
    ]
    if draft is not None:
        found += [Shape("batch", "draft", rows, 1, BASE) for rows in BATCHES]
        found += [Shape("fan-out", "draft", 1, width, BASE, wide=True) for width in WIDTHS]
    return found


class Stepper:
    """Times one shape on a pool of its own."""

    def __init__(self, model: Transformer, shape: Shape) -> None:
        self.model, self.shape = copy.copy(model), shape
        self.model.pool, self.model.execution = KVCache(0, 0, model.device), execution_of(model.execution.name)
        self.model.allocate(shape.rows, shape.context + shape.tokens)
        device = model.device
        self.tokens = torch.ones(shape.rows, shape.tokens, dtype=torch.long, device=device)
        at = torch.arange(shape.context, shape.context + shape.tokens, device=device).expand(shape.rows, -1)
        self.positions = torch.full_like(at, shape.context) if shape.wide else at
        self.mask = None
        if shape.wide:
            seen = torch.ones(shape.tokens, shape.context, dtype=torch.bool, device=device)
            own = torch.eye(shape.tokens, dtype=torch.bool, device=device)
            self.mask = torch.cat([seen, own], 1)[None]
        self.seconds: list[float] = []

    def step(self) -> None:
        extent = self.shape.context + self.shape.tokens
        begun = perf_counter()
        self.model.step(self.tokens, self.positions, None, self.mask, num_logits=self.shape.tokens, attend_len=extent)
        synchronise(self.model.device)
        self.seconds.append(perf_counter() - begun)


@torch.inference_mode()
def measure(models: dict[str, Transformer]) -> pd.DataFrame:
    """One row for each shape."""
    target = models["target"]
    wanted = shapes(target, models.get("draft"))
    if any(shape.random for shape in wanted):
        models = {**models, "random": randomised(target)}
    steppers = [Stepper(models["random" if shape.random else shape.role], shape) for shape in wanted]
    for stepper in steppers:
        stepper.step()
        stepper.seconds.clear()
    for _ in range(ROUNDS):
        for stepper in steppers:
            stepper.step()
    return pd.DataFrame([row(stepper) for stepper in steppers])


def row(stepper: Stepper) -> dict[str, Any]:
    shape, model, low_high = stepper.shape, stepper.model, np.percentile(stepper.seconds, (25, 75))
    values = count(model.config).cache_values * model.dtype.itemsize
    return {
        **vars(shape),
        "seconds": float(np.median(stepper.seconds)),
        "seconds_p25": float(low_high[0]),
        "seconds_p75": float(low_high[1]),
        "pool_bytes": model.pool.bytes,
        "predicted_pool_bytes": values * shape.rows * (model.pool.slots + 1),
    }


def randomised(model: Transformer) -> Transformer:
    """A model of the same shape with random weights that reads as many tokens as the longest context asks for."""
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = max(CONTEXTS) + max(TOKENS)
    with model.device:
        made: Any = type(model.model)._from_config(config, dtype=model.dtype, attn_implementation="sdpa")
    made.eval().requires_grad_(False)
    return Transformer(f"{model.name}, random weights", made, model.vocab, execution_of(model.execution.name))


def latency_file(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """What `sdbench simulate` reads: medians in milliseconds; the draft's time per token from its single-token step."""
    chain = rows[(rows["curve"] == "tokens") & (rows["role"] == "target")]
    single = rows[(rows["role"] == "draft") & (rows["curve"] == "batch") & (rows["rows"] == 1)]
    wide = rows[rows["curve"] == "fan-out"]
    file: dict[str, Any] = {
        "name": name,
        "source": "measured, experiments/bench/scaling.py (steps alone: no host, no exchange)",
        "published": False,
        "verify": {int(n): round(1e3 * s, 4) for n, s in chain[["tokens", "seconds"]].itertuples(index=False)},
        "draft": round(1e3 * float(single["seconds"].iloc[0]), 4) if len(single) else 0.0,
    }
    if len(wide):
        first = wide.drop_duplicates("tokens").sort_values("tokens")[["tokens", "seconds"]]
        file["tree"] = {int(n): round(1e3 * s, 4) for n, s in first.itertuples(index=False)}
        file["glue"] = file["draft"]
    return file


def fit_line(rows: pd.DataFrame, over: str) -> tuple[float, float]:
    """(seconds at 0, seconds per unit) of a curve, by least squares."""
    slope, at_zero = np.polyfit(rows[over].to_numpy(float), rows["seconds"].to_numpy(float), 1)
    return float(at_zero), float(slope)


def draw(rows: pd.DataFrame, out: Path) -> None:
    """One panel for each curve."""
    panels = (("tokens", "tokens", "new tokens"), ("batch", "rows", "sequences"), ("context", "context", "context (tokens)"),
              ("fan-out", "tokens", "branches"))  # fmt: skip
    fig = figure(7.2, 4.6)
    for index, (curve, over, label) in enumerate(panels):
        axes = fig.add_subplot(2, 2, index + 1)
        part = rows[rows["curve"] == curve]
        groups = ["role"] if curve in ("tokens", "fan-out") else ["role", "tokens"]
        for key, line in part.groupby(groups):
            said = str(key[0]) if len(key) == 1 else f"{key[0]}, {key[1]} new tokens"
            axes.plot(line[over], 1e3 * line["seconds"], marker="o", markersize=3, linewidth=1, label=said)
            made_up = line[line["random"]]
            axes.plot(made_up[over], 1e3 * made_up["seconds"], "o", markersize=6, fillstyle="none", color="#888888")
        axes.set_xlabel(label)
        axes.set_ylabel("step (ms)")
        axes.set_ylim(bottom=0)
        if curve in ("context", "batch"):
            axes.set_xscale("log", base=2)
        axes.legend()
    save(fig, out, "scaling")


def main(out_folder: str, *overrides: str) -> None:
    out = Path(out_folder)
    plan = prepare(compose(["arms=[ar,sd]", "limit=1", "tracker=none", *overrides]))
    plan.take_cores()
    rows = measure(load(plan))
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "scaling.csv", index=False, float_format="%.6g")
    lines = {curve: fit_line(rows[(rows["curve"] == curve) & (rows["role"] == "target")], over)
             for curve, over in (("tokens", "tokens"), ("batch", "rows"), ("context", "context"))}  # fmt: skip
    fits = {curve: {"milliseconds_at_0": 1e3 * a, "milliseconds_per_unit": 1e3 * b} for curve, (a, b) in lines.items()}
    latency = latency_file(rows, out.name)
    (out / "latency.yaml").write_text(yaml.safe_dump({**latency}, sort_keys=False))
    (out / "fits.yaml").write_text(yaml.safe_dump(fits, sort_keys=False))
    draw(rows, out / "figures")
    print(rows[["curve", "role", "rows", "tokens", "context", "random", "seconds"]].to_string(index=False))


if __name__ == "__main__":
    script(main, __doc__, 1, more=True)
