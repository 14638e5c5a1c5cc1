"""What a recipe works with: the target and its tokenizer, the corpus, folders, the tracker, and the card at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import torch
from filelock import FileLock, Timeout

from sdbench.errors import InputError
from sdbench.lm.prepacked import prepack
from sdbench.lm.recurrent import language_model
from sdbench.models.family import Family, check_family
from sdbench.models.identity import model_identity
from sdbench.models.skeleton import is_recurrent
from sdbench.models.spec import ModelSpec, family_specs, resolve
from sdbench.models.weights import load_weights
from sdbench.runs.environment import cpu_model, git_state
from sdbench.runs.trackers import NoTracker, Tracker
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.identity import IDENTITY_FILE, claim
from sdbench.training.leaks import Leaks
from sdbench.training.network_calls import hidden_behind
from sdbench.training.package import write_checksums
from sdbench.training.sources.base import Source
from sdbench.training.teacher import Teacher
from sdbench.training.writer import ROWS, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

HELD_OUT_EVERY = 32  # one sequence in so many is held out from training
SET_TOKENS = 20_000  # answer tokens of a set of `held_out`, at most


class Recipe(Protocol):
    """Train something. A file in `sdbench/training/recipes/` and one in `conf/train/` make a new recipe."""

    def run(self, job: Job) -> dict[str, Any]:
        """Train, or go on where a killed training stopped, and write the result into `job.out`. Returns what was measured."""
        ...


class Job:
    """One training.

    models: the entries of a family, as in `conf/models/`; derived roles are passed over, since a training may be what makes them.
    device, dtype: of the target. out: folder of the weights. work: folder of the corpus and the laws; trainings with the same
    target, data and seed may share it, also at the same time. evaluation: files and folders of texts that no training sequence may
    hold. seed: of all random choices. rows: answers that are written at a time. state: folder of the checkpoints; by default
    `checkpoints` beside `out`. held_out: sources by name; a drafter is measured on what each of them gives, up to `SET_TOKENS`.
    sets: their sequences, once the corpus is there.
    facts: what the card says besides the settings and the measured numbers. depends: what the weights depend on, besides the
    settings, the target and the corpus.
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
        state: Path | None = None,
        held_out: Mapping[str, Source] | None = None,
    ) -> None:
        self.specs = family_specs({role: entry for role, entry in models.items() if entry.get("derive") is None})
        self.out, self.work, self.state = out, work, state or out.parent / "checkpoints"
        self.device, self.dtype, self.seed, self.rows = device, dtype, seed, rows
        self._evaluation, self._held_out = list(evaluation), dict(held_out or {})
        self.tracker: Tracker = tracker or NoTracker()
        self.begun = perf_counter()
        self.facts: dict[str, Any] = {}
        self.depends: dict[str, str] = {}
        self.sets: dict[str, Corpus] = {}

    @property
    def started(self) -> bool:
        """Return whether an earlier call has left a result or a checkpoint."""
        return self.out.exists() or any(one.name != IDENTITY_FILE for one in self.state.glob("*"))

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
        """Return the target with its weights, without gradients. Errors: InputError if its head does not give its logits."""
        self.facts["target"] = self.identity
        model = load_weights(self._spec, self.dtype, self.device)
        _check_head(model)
        prepack(model)
        return model

    @property
    def target_name(self) -> str:
        """Return the target's hub id, or the name of its file or folder without the path, which belongs to this machine."""
        path = self._spec.path
        return path if resolve(self._spec).kind == "hub" else Path(path).name

    @cached_property
    def identity(self) -> str:
        """Return the identity of the target's weights."""
        return model_identity(self._spec)

    @cached_property
    def writer(self) -> Writer:
        """Return what lets the target write."""
        return Writer(language_model("target", self.target), self.tokenizer, self.family.eos, self.rows)

    def corpus(self, source: Source, tokens: int) -> Corpus:
        """Return the first sequences of a source with at least `tokens` tokens in their answers, or all that the source gives.

        Sequences that hold evaluation data are left out.
        Errors: InputError if `work` holds other data, or the source gives too little.
        """
        leaks = Leaks(self._evaluation)
        if not leaks.texts:
            self.say("no evaluation texts are named (evaluation=FOLDER), so the training data may hold some")
        data = {"target": self.identity, "dtype": self.dtype, "seed": self.seed, "evaluation": leaks.sha256}
        with self._alone():
            whole = Corpus(self.work / "corpus.jsonl")
            claim(self.work, {**data, "recipe": {"data": source.identity}}, "work", begun=bool(whole.every))
            if whole.answer_tokens < tokens:
                for chunk in source.chunks(self.writer, whole.every, self.seed):
                    whole.add([self._checked(sample, leaks) for sample in chunk])
                    self.say(f"corpus: {whole.answer_tokens:,} of {tokens:,} answer tokens")
                    if whole.answer_tokens >= tokens:
                        break
            self.sets = {name: self._set(name, source) for name, source in self._held_out.items()}
        corpus = whole.upto(tokens)
        if len(corpus) < 2:
            raise InputError(
                f"The source of the training data gave {len(corpus)} sequences without evaluation texts, and a training needs 2: "
                "name another source, or raise recipe.data_tokens."
            )
        made_of = {"target": self.identity, "corpus": corpus.sha256, **self.depends}
        claim(self.state, made_of, "out", begun=self.started)
        self.facts |= self.depends
        self.facts["data"] = {
            **source.identity,
            "sha256": corpus.sha256,
            "sequences": len(corpus),
            "answer_tokens": corpus.answer_tokens,
            "evaluation_texts": leaks.texts,
            "sequences_left_out": len(corpus.every) - len(corpus),
        }
        return corpus

    def _set(self, name: str, source: Source) -> Corpus:
        """Return the sequences of a source of `held_out`, up to `SET_TOKENS`."""
        whole = Corpus(self.work / "held_out" / name / "corpus.jsonl")
        identity = {"target": self.identity, "dtype": self.dtype, "seed": self.seed, "data": source.identity}
        claim(whole.folder, identity, "work", begun=bool(whole.every))
        if whole.answer_tokens < SET_TOKENS:
            for chunk in source.chunks(self.writer, whole.every, self.seed):
                whole.add([self._checked(sample, Leaks(()), f"held_out.{name}") for sample in chunk])
                self.say(f"held_out.{name}: {whole.answer_tokens:,} answer tokens")
                if whole.answer_tokens >= SET_TOKENS:
                    break
        if not whole.answer_tokens:
            raise InputError(f"held_out.{name}: its source gives no answer; name another one.")
        return whole.upto(SET_TOKENS)

    def measure_sets(self, measure: Callable[[Corpus], Mapping[str, Any]]) -> None:
        """Put on the card what `measure` finds on each set of `held_out`."""
        for name, corpus in self.sets.items():
            self.say(f"measuring on {name}")
            size = {"sequences": len(corpus), "answer_tokens": corpus.answer_tokens}
            self.facts.setdefault("held_out", {})[name] = {**size, **measure(corpus)}

    def _checked(self, sample: Sample, leaks: Leaks, knob: str = "recipe.data") -> Sample:
        """Return a sequence, marked if it holds evaluation data. Errors: InputError if it is too long for the target.

        knob: names the source, for the message.
        """
        context = self.family.context
        if context is not None and len(sample.tokens) > context:
            raise InputError(
                f"The sequence {sample.source} of {knob} has {len(sample.tokens)} tokens, and the target reads at most "
                f"{context}: lower {knob}.longest_answer, or {knob}.longest of a text file."
            )
        text = str(self.tokenizer.decode(sample.tokens, skip_special_tokens=True))
        return replace(sample, left_out=leaks.leaks(text))

    def refuse_recurrent(self, what: str) -> None:
        """Refuse a target with recurrent layers. what: cannot be used with it. Errors: InputError."""
        if is_recurrent(self.family.main.config):
            raise InputError(
                f"The target has recurrent layers, which cannot run {what}: take recipe=distill, or another target."
            )

    def check_top(self, top: int) -> None:
        """Refuse a law of more tokens than the target has. Errors: InputError."""
        if top > self.family.vocab:
            raise InputError(
                f"recipe.top is {top}, but the target has {self.family.vocab} tokens: take at most so many."
            )

    def teacher(self, corpus: Corpus, top: int, layers: Sequence[int] = ()) -> Teacher:
        """Return what the target says about a corpus. It reads what it has not read. layers: the hidden states to keep."""
        teacher = Teacher(self.target, corpus, top, corpus.folder / "target", layers)
        with self._alone():
            teacher.read_all(lambda done: self.say(f"the target reads the corpus: {done:.0%}"))
        return teacher

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other trainings out of `work`. This one waits until they have written there."""
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.say(f"another training writes in {self.work}; this one waits for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

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
            "made_with": self._made_with(),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "training_log.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in log) + "\n]\n")
        (self.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
        (self.out / "README.md").write_text(_page(card))
        write_checksums(self.out)
        return card

    def _made_with(self) -> dict[str, Any]:
        """Return the machine and the versions, which the minutes and the rounding depend on."""
        git = git_state(Path(__file__).parents[1])
        return {
            "processor": cpu_model(),
            "device": self.device,
            "dtype": self.dtype,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "revision": git and git["sha"],
        }


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


@torch.inference_mode()
def _check_head(model: Any) -> None:
    """Refuse a model that changes its logits behind the head, such as by a soft cap: a training reads the head alone."""
    tokens = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    wanted = model(input_ids=tokens, use_cache=False).logits
    found = model.get_output_embeddings()(hidden_behind(model, tokens))
    if not torch.allclose(wanted.float(), found.float(), rtol=0.02, atol=0.02 * float(wanted.abs().max())):
        raise InputError(
            f"models.target: {type(model).__name__} scales or caps the logits of its head, which a training cannot follow: choose "
            "another target."
        )
