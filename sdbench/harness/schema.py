"""Define the schema of a config: every key, its type, and whether it may be null.

`sdbench.validate.conforms` compares a config with the schema before any work. An arm, a task or a tracker holds `_target_` and the
arguments of that class. `sdbench.harness.build` checks these arguments in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sdbench.validate import Count, Range, Whole

Open = Annotated[float, Range(0, 1, "()")]
Execution = Literal["eager", "compile", "cudagraph"]


@dataclass
class Reduced:
    """Describe a reduced vocabulary: its number of tokens, and the text file or run folder whose tokens are counted."""

    size: Annotated[int, Range(2)]
    text: str


@dataclass
class Listed:
    """Describe a reduced vocabulary by the folder of a trained draft, which holds the list of its ids."""

    ids: str


@dataclass
class Model:
    """Describe the model of one role, with the fields of `sdbench.models.spec.ModelSpec`."""

    path: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    vocabulary: Literal["intersection", "reencode"] | Reduced | Listed | None = None
    parameters: Count | None = None
    cache_values: Count | None = None
    derive: Mapping[str, Any] | None = None
    head_of: str | None = None


@dataclass
class Hardware:
    """Describe the hardware profile: devices, dtype, threads and execution mode."""

    device: str
    dtype: str
    threads: Count
    execution: Execution
    memory_bytes: Count | Mapping[str, Count] | None = None
    pin: bool = False
    prepack: bool = True
    tensor_parallel: bool = False


@dataclass
class Sampling:
    """Describe how the run draws tokens."""

    temperature: Annotated[float, Range(0)]
    top_k: Whole
    top_p: Annotated[float, Range(0, 1, "(]")]


@dataclass
class Verify:
    """Hold the tolerances of the comparison of greedy tokens and of `sdbench verify`."""

    epsilon: Annotated[float, Range(0)] | None
    alpha: Open


@dataclass
class Comparison:
    """Describe the config that `conf/config.yaml` composes."""

    models: Mapping[str, Model]
    arms: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Any]
    hardware: Hardware
    tracker: Mapping[str, Any]
    name: str
    baseline: str | None
    limit: Count | None
    repeats: Count
    warmup: Whole
    seed: Whole
    batch_size: Count
    max_new_tokens: Count | None
    ignore_eos: bool
    chat: bool | None
    margin: Open
    sampling: Sampling
    verify: Verify
    out: str | None


@dataclass
class Training:
    """Describe the config that `conf/train.yaml` composes. The recipe's own class checks the recipe."""

    models: Mapping[str, Model]
    hardware: Hardware
    tracker: Mapping[str, Any]
    recipe: Mapping[str, Any]
    name: str
    out: str | None
    work: str | None
    evaluation: str | list[str] | None
    held_out: Mapping[str, Mapping[str, Any]]
    seed: Whole
    rows: Count
