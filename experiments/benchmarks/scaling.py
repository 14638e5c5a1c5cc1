"""Time a family's steps against new tokens, batch size, context and fan-out, and measure the memory of the key-value
cache.

    python -m experiments.benchmarks.scaling OUT [overrides of `sdbench run`: models=, hardware=, ...]

The shapes are timed in turn, `ROUNDS` times, so a slow phase of the machine affects all of them. The table holds
medians. Beyond the context that the weights were trained for, a model of the same shape with RANDOM WEIGHTS is timed;
the column `random` says so. OUT gets `scaling.csv`, which the docs show, and `latency.yaml`, which `sdbench simulate`
reads.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from sdbench.device import synchronise
from sdbench.errors import InputError
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
    """A step to time. curve: the curve that it is a point of; wide: the tokens are branches of a fan-out, not a chain."""

    curve: str
    role: str
    rows: int
    tokens: int
    context: int
    random: bool = False
    wide: bool = False


def shapes(target: LanguageModel, draft: LanguageModel | None) -> list[Shape]:
    """List the points of all curves."""
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
    """Times one shape on a key-value cache of its own."""

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
        """Make one step and note its seconds."""
        extent = self.shape.context + self.shape.tokens
        begun = perf_counter()
        self.model.step(self.tokens, self.positions, None, self.mask, num_logits=self.shape.tokens, attend_len=extent)
        synchronise(self.model.device)
        self.seconds.append(perf_counter() - begun)


@torch.inference_mode()
def measure(models: dict[str, Transformer]) -> pd.DataFrame:
    """Return a row for each shape."""
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
    """Return the shape, the quartiles of its seconds, and the bytes of its cache, measured and predicted."""
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
    """Make a model of the same shape with random weights that accepts the longest context."""
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = max(CONTEXTS) + max(TOKENS)
    with model.device:
        made: Any = type(model.model)._from_config(config, dtype=model.dtype, attn_implementation="sdpa")
    made.eval().requires_grad_(False)
    return Transformer(f"{model.name}, random weights", made, model.vocab, execution_of(model.execution.name))


def latency_file(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the latency file of `sdbench simulate`: medians in milliseconds; the draft's time per token is that of one step."""
    chain = rows[(rows["curve"] == "tokens") & (rows["role"] == "target")]
    single = rows[(rows["role"] == "draft") & (rows["curve"] == "batch") & (rows["rows"] == 1)]
    wide = rows[rows["curve"] == "fan-out"]
    file: dict[str, Any] = {
        "name": name,
        "source": "measured, experiments/benchmarks/scaling.py (steps alone: no host, no exchange)",
        "published": False,
        "verify": {int(n): round(1e3 * s, 4) for n, s in chain[["tokens", "seconds"]].itertuples(index=False)},
        "draft": round(1e3 * float(single["seconds"].iloc[0]), 4) if len(single) else 0.0,
    }
    if len(wide):
        first = wide.drop_duplicates("tokens").sort_values("tokens")[["tokens", "seconds"]]
        file["tree"] = {int(n): round(1e3 * s, 4) for n, s in first.itertuples(index=False)}
        file["glue"] = file["draft"]
    return file


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options, overrides = parser.parse_known_args(argv)
    try:
        plan = prepare(compose(["arms=[ar,sd]", "limit=1", "tracker=none", *overrides]))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    plan.take_cores()
    rows = measure(load(plan))
    options.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out / "scaling.csv", index=False, float_format="%.6g")
    latency = latency_file(rows, options.out.name)
    (options.out / "latency.yaml").write_text(yaml.safe_dump(latency, sort_keys=False), encoding="utf-8")
    print(rows[["curve", "role", "rows", "tokens", "context", "random", "seconds"]].to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
