"""Run a training recipe from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.paths import expanded, refuse_file
from sdbench.runs.lock import held

if TYPE_CHECKING:
    from sdbench.training.job import Job
    from sdbench.training.sources.base import Source

_PLACES = {"recipe": "train@recipe", "data": "data@recipe.data"}


def recipe_words(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `recipe=NAME` and `data=NAME` written as Hydra reads them: members of a group, in a place."""
    parted = [word.partition("=") for word in overrides]
    return [f"{_PLACES.get(key, key)}{sign}{value}" for key, sign, value in parted]


def train(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train what a config of `conf/train.yaml` describes.

    Returns `out`, the folder of the result; `card`, what was measured; and `faults`, one sentence for each requirement that the
    result misses. Raises: InputError, before any work is done, if the config cannot be followed.
    """
    from sdbench.training.identity import claim
    from sdbench.training.job import Recipe
    from sdbench.training.precision import denormals_flushed

    recipe = build(config["recipe"], {}, "recipe")
    if not callable(getattr(recipe, "run", None)):
        raise InputError(
            f"recipe._target_ is {config['recipe'].get('_target_')}, which is no training recipe: it has no run(job)."
        )
    made: Recipe = recipe
    job = job_of(config)
    out = job.out.parent
    identity = {
        "target": config["models"].get("target"),
        "dtype": job.dtype,
        "seed": job.seed,
        "recipe": config["recipe"],
    }
    for knob, place in (("out", out), ("work", job.work)):
        refuse_file(knob, place)
    if config["held_out"] and not getattr(recipe, "measures_sets", False):
        raise InputError(
            f"held_out: {type(recipe).__name__} measures no drafter on sets of texts, so leave held_out out."
        )
    out.mkdir(parents=True, exist_ok=True)
    with held(out):
        claim(out, identity, "out", begun=job.started)
        job.tracker.start(config, config["name"], out)
        try:
            with denormals_flushed():
                card = made.run(job)
        finally:
            job.tracker.close()
    return {"out": str(job.out), "card": card, "faults": list(card.pop("faults", ()))}


def job_of(config: Mapping[str, Any]) -> Job:
    """Return the job that the config of `sdbench train` describes."""
    import torch

    from sdbench.training.job import Job

    hardware = config["hardware"]
    torch.set_num_threads(hardware["threads"])
    out = expanded(config["out"] or f"results/runs/{config['name']}")
    evaluation = config["evaluation"] or []
    return Job(
        config["models"],
        out / "model",
        expanded(config["work"] or out / "work"),
        hardware["device"],
        hardware["dtype"],
        [expanded(one) for one in ([evaluation] if isinstance(evaluation, str) else evaluation)],
        config["seed"],
        config["rows"],
        build(config["tracker"], {}, "tracker"),
        held_out={name: _source(name, one) for name, one in config["held_out"].items()},
    )


def _source(name: str, config: Any) -> Source:
    """Return a source of `held_out`. Raises: InputError if it is none."""
    made = build(config, {}, f"held_out.{name}")
    if not callable(getattr(made, "chunks", None)):
        raise InputError(f"held_out.{name} is no source of sequences: add one with +data@held_out.{name}=NAME.")
    return made
