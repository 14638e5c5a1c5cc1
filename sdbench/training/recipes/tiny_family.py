"""Training a whole family: tokenizer, one process per model, measurements, package."""

import json
import multiprocessing
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench.child_process import die_with_parent
from sdbench.errors import InputError
from sdbench.training.job import Job
from sdbench.training.package import write_checksums, write_log, write_model
from sdbench.training.precision import denormals_flushed
from sdbench.training.tiny.card import model_card
from sdbench.training.tiny.fit import Trainer
from sdbench.training.tiny.ladder import Ladder, measure
from sdbench.training.tiny.recipe import ROLES, TrainRecipe
from sdbench.training.tiny.tokenizer import tokenizer_texts, train_tokenizer


def family_tokenizer(recipe: TrainRecipe) -> PreTrainedTokenizerFast:
    """The tokenizer that the recipe defines; training it takes about a second."""
    texts = tokenizer_texts(recipe.seed, recipe.tokenizer_texts)
    return train_tokenizer(texts, recipe.vocabulary, recipe.positions)


def train_role(recipe: TrainRecipe, role: str, folder: Path) -> Trainer:
    """Train one model on one thread, or take its training up where `folder` has it."""
    torch.set_num_threads(1)
    trainer = Trainer(recipe, role, family_tokenizer(recipe), folder)
    trainer.train()
    return trainer


def _train_in_process(recipe: TrainRecipe, role: str, folder: Path) -> None:
    die_with_parent()
    with denormals_flushed():
        train_role(recipe, role, folder)


def _prepare(recipe: TrainRecipe, work_dir: Path, resume: bool) -> None:
    """Make the working folder that of this recipe, or refuse."""
    wanted = json.dumps(asdict(recipe), sort_keys=True, default=dict)
    written = work_dir / "recipe.json"
    if work_dir.exists() and not resume:
        shutil.rmtree(work_dir)
    if written.exists() and written.read_text() != wanted:
        raise InputError(f"{work_dir} holds the training of another recipe: choose another folder, or start over")
    work_dir.mkdir(parents=True, exist_ok=True)
    written.write_text(wanted)


def package_family(
    recipe: TrainRecipe, trainers: Mapping[str, Trainer], tokenizer: PreTrainedTokenizerFast, out_dir: Path
) -> Ladder:
    """Write the models, measure them as they are opened from there, and write card, logs and checksums."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for role in ROLES:
        write_model(trainers[role].model, tokenizer, out_dir / role)
    opened = {role: LlamaForCausalLM.from_pretrained(out_dir / role) for role in ROLES}
    ladder = measure(opened, tokenizer, recipe.ladder_texts)
    logs: dict[str, Sequence[Mapping[str, Any]]] = {role: trainers[role].log for role in ROLES}
    write_log(logs, out_dir / "training_log.json")
    (out_dir / "ladder.json").write_text(json.dumps(ladder.as_dict(), indent=2) + "\n")
    (out_dir / "README.md").write_text(model_card(recipe, ladder, logs))
    write_checksums(out_dir)
    return ladder


def train_family(recipe: TrainRecipe, work_dir: Path, out_dir: Path, resume: bool = True, processes: int = 2) -> Ladder:
    """Train a family and write it into `out_dir`.

    Args:
        recipe: what to train.
        work_dir: checkpoints; with `resume`, training goes on from those that are there.
        out_dir: where the finished family goes.
        resume: whether to keep what an interrupted training left.
        processes: how many models are trained at a time, each on one thread.

    Returns:
        The measured ladder; its `faults()` says what the family does not hold.

    Raises:
        InputError: if `work_dir` belongs to another recipe.
    """
    _prepare(recipe, work_dir, resume)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(_train_in_process, recipe, role, work_dir / role) for role in ROLES]
        for model in running:
            model.result()
    trainers = {role: train_role(recipe, role, work_dir / role) for role in ROLES}
    return package_family(recipe, trainers, family_tokenizer(recipe), out_dir)


class TinyFamily:
    """Train the tiny family, as a recipe of `sdbench train`. values: the fields of `sdbench.training.tiny.recipe.TrainRecipe`."""

    def __init__(self, **values: Any) -> None:
        self._recipe = TrainRecipe.from_mapping(values)

    def run(self, job: Job) -> dict[str, Any]:
        """Train the family into the job's folder. It needs no target."""
        ladder = train_family(self._recipe, job.work, job.out)
        return {"ladder": ladder.as_dict(), "faults": ladder.faults()}
