"""What a recipe works with: the target and its tokenizer, the corpus, folders, the tracker, and the card at the end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.lm.transformer import Transformer
from sdbench.models.family import Family, check_family
from sdbench.models.identity import model_identity
from sdbench.models.spec import ModelSpec, family_specs
from sdbench.models.weights import load_weights
from sdbench.paths import expanded
from sdbench.runs.trackers import NoTracker, Tracker
from sdbench.training.corpus import Corpus
from sdbench.training.leaks import Leaks
from sdbench.training.package import write_checksums
from sdbench.training.sources.base import Source
from sdbench.training.teacher import Teacher
from sdbench.training.writer import ROWS, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

HELD_OUT_EVERY = 32  # one sequence in so many is held out from training


class Recipe(Protocol):
    """Train something. A file in `sdbench/training/recipes/` and one in `conf/train/` make a new recipe."""

    def run(self, job: Job) -> dict[str, Any]:
        """Train, or go on where a killed training stopped, and write the result into `job.out`. Returns what was measured."""
        ...


class Job:
    """One training.

    models: the entries of a family, as in `conf/models/`. device, dtype: of the target. out: folder of the result. work: folder of
    the corpus, the laws and the checkpoints; trainings with the same data may share it. evaluation: files and folders of texts that
    no training sequence may hold. seed: of all random choices. rows: answers that are written at a time.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Any]],
        out: Path,
        work: Path,
        device: str = "cpu",
        dtype: str = "float32",
        evaluation: Sequence[Path] = (),
        seed: int = 0,
        rows: int = ROWS,
        tracker: Tracker | None = None,
    ) -> None:
        self.specs = family_specs(models)
        self.out, self.work, self.device, self.dtype, self.seed = out, work, device, dtype, seed
        self._evaluation, self._rows = list(evaluation), rows
        self.tracker: Tracker = tracker or NoTracker()
        self.begun = perf_counter()
        self.facts: dict[str, Any] = {}  # for the card: what the data are, and what was checked
        torch.set_flush_denormal(True)  # rarely seen tokens leave denormal moments, on which a CPU is slow

    @cached_property
    def family(self) -> Family:
        """Return the checked family. Only the target is needed."""
        return check_family({"target": self._spec})

    @property
    def _spec(self) -> ModelSpec:
        if "target" not in self.specs:
            raise InputError("The family of a training needs a target: choose models=NAME.")
        return self.specs["target"]

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.family.tokenizer

    @cached_property
    def target(self) -> PreTrainedModel:
        """Return the target with its weights, without gradients."""
        self.facts["target"] = model_identity(self._spec)
        return load_weights(self._spec, self.dtype, self.device)

    @cached_property
    def writer(self) -> Writer:
        """Return what lets the target write."""
        return Writer(Transformer("target", self.target), self.tokenizer, self.family.eos, self._rows)

    def corpus(self, source: Source, tokens: int) -> Corpus:
        """Return sequences of a source with at least `tokens` tokens in their answers, or all that the source gives.

        Sequences that hold evaluation data are left out.
        """
        kept, refused = Corpus(self.work / "corpus.jsonl"), Corpus(self.work / "refused.jsonl")
        leaks = Leaks(self._evaluation)
        if kept.answer_tokens < tokens:
            have = sorted([*kept.samples, *refused.samples], key=lambda sample: sample.source)
            for chunk in source.chunks(self.writer, have, self.seed):
                held = [leaks.leaks(str(self.tokenizer.decode(one.tokens, skip_special_tokens=True))) for one in chunk]
                refused.add(one for one, leaked in zip(chunk, held, strict=True) if leaked)
                kept.add(one for one, leaked in zip(chunk, held, strict=True) if not leaked)
                self.say(f"corpus: {kept.answer_tokens:,} of {tokens:,} answer tokens")
                if kept.answer_tokens >= tokens:
                    break
        if not len(kept):
            raise InputError("The source of the training data gave no sequence: name another one under recipe.data.")
        self.facts["data"] = {
            "sha256": kept.sha256,
            "sequences": len(kept),
            "answer_tokens": kept.answer_tokens,
            "evaluation_texts": leaks.texts,
            "sequences_left_out": len(refused),
        }
        return kept

    def teacher(self, corpus: Corpus, top: int) -> Teacher:
        """Return what the target says about a corpus. It reads what it has not read."""
        teacher = Teacher(self.target, corpus, top, self.work / "laws")
        teacher.read_all(lambda done: self.say(f"the target reads the corpus: {done:.0%}"))
        return teacher

    def split(self, corpus: Corpus) -> tuple[list[int], list[int]]:
        """Return the numbers of the sequences to train on, and of those that are held out."""
        every = range(len(corpus))
        return [n for n in every if n % HELD_OUT_EVERY], [n for n in every if n % HELD_OUT_EVERY == 0]

    def say(self, text: str) -> None:
        """Show a line on standard error."""
        print(f"sdbench: {text}", file=sys.stderr, flush=True)

    def finish(
        self, title: str, recipe: Mapping[str, Any], measured: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Write the card, the log and the checksums beside the weights. Returns what the card says.

        title: one line. recipe: the settings. measured: the last held-out numbers. log: the rows of the training.
        """
        card = {
            "title": title,
            "recipe": dict(recipe),
            **self.facts,
            "measured": dict(measured),
            "trained_tokens": log[-1]["tokens"] if log else 0,
            "training_minutes": round(log[-1]["seconds"] / 60, 2) if log else 0.0,
            "minutes_of_this_call": round((perf_counter() - self.begun) / 60, 2),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "training_log.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in log) + "\n]\n")
        (self.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
        (self.out / "README.md").write_text(_page(card))
        write_checksums(self.out)
        return card


def job_of(config: Mapping[str, Any]) -> Job:
    """Return the job that the config of `sdbench train` describes."""
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
    )


def _page(card: Mapping[str, Any]) -> str:
    """Return the card as a page."""
    lines = [
        f"# {card['title']}",
        "",
        "`sdbench train` wrote this page. `training_log.json` has the log, `SHA256SUMS` the checksums.",
        "",
    ]
    for key, value in card.items():
        if key == "title":
            continue
        lines += [f"## {key.replace('_', ' ').capitalize()}", ""]
        rows = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [f"- {name}: {_short(one)}" if name else f"{_short(one)}" for name, one in rows] + [""]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def fresh(folder: Path) -> Path:
    """Return an empty folder in the place of this one."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
