"""Write the model card of a family from its measurements."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdbench.analysis.report.grid import Column, Grid
from sdbench.training.tiny.ladder import LEAST_AGREEMENT, RUNGS, Ladder
from sdbench.training.tiny.recipe import ROLES, TrainRecipe


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Grid([Column(text) for text in head], rows).markdown()


def _shapes(recipe: TrainRecipe, ladder: Ladder) -> str:
    slowest = ladder.forward_ms["target"]
    return _table(
        ["role", "layers", "width", "heads", "MLP width", "parameters", "one-token forward (ms)", "of the target's"],
        [
            [
                role,
                str(recipe.models[role].layers),
                str(recipe.models[role].width),
                str(recipe.models[role].heads),
                str(recipe.models[role].mlp_width),
                f"{ladder.parameters[role]:,}",
                f"{ladder.forward_ms[role]:.2f}",
                f"{ladder.forward_ms[role] / slowest:.2f}",
            ]
            for role in ROLES
        ],
    )


def _ladder(ladder: Ladder) -> str:
    rows = []
    for role in ROLES:
        rung = RUNGS[role]
        rows.append(
            [
                role,
                f"{ladder.exact['wordproblems'][role]:.3f}",
                f"{rung.least:.2f} to {rung.most:.2f}",
                f"{ladder.exact['records'][role]:.3f}",
            ]
        )
    return _table(["role", "word problems right", "asked", "records right"], rows)


def _agreement(ladder: Ladder) -> str:
    return _table(
        ["kind", "draft", "qualifier", "mean length of the target's answers (tokens)"],
        [
            [kind, f"{agreed['draft']:.3f}", f"{agreed['qualifier']:.3f}", f"{ladder.answer_tokens[kind]:.1f}"]
            for kind, agreed in ladder.agreement_with_target.items()
        ],
    )


def _losses(ladder: Ladder) -> str:
    return _table(
        ["kind", *ROLES],
        [[kind, *(f"{losses[role]:.3f}" for role in ROLES)] for kind, losses in ladder.loss.items()],
    )


def _training(recipe: TrainRecipe, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    return _table(
        ["role", "steps", "tokens", "minutes", "final loss on word problems"],
        [
            [
                role,
                f"{recipe.models[role].steps:,}",
                f"{logs[role][-1]['tokens']:,}",
                f"{logs[role][-1]['seconds'] / 60:.1f}",
                f"{logs[role][-1]['wordproblems_loss']:.3f}",
            ]
            for role in ROLES
        ],
    )


def _verdict(ladder: Ladder) -> str:
    faults = ladder.faults()
    if not faults:
        return "The family holds everything that is asked of it."
    return "What the family does not hold:\n\n" + "\n".join(f"- {fault}" for fault in faults)


def model_card(recipe: TrainRecipe, ladder: Ladder, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write the card in Markdown. Every number comes from the recipe, the training logs or the measured ladder.

    logs: the rows of the training log, by role.
    """
    grown = recipe.models["target"]
    growth = (
        f"The target starts with {grown.first_layers} layers and gets the other {grown.layers - grown.first_layers}, "
        f"on top and adding nothing at first, at step {grown.grow_at:,}."
        if grown.layers > grown.first_layers
        else ""
    )
    return f"""---
license: apache-2.0
library_name: transformers
---

# The tiny family

Three small Llama models with one tokenizer, for comparing methods of speculative decoding on a CPU. They write worked
solutions of arithmetic word problems, copies and summaries of records, and short stories; nothing else. `make models`
trains them again from texts that a seeded generator writes. This card is written by the program that trains them.

## Models

{_shapes(recipe, ladder)}

Tokens: {recipe.vocabulary:,}; positions: {recipe.positions:,}, of which training used {recipe.block_tokens:,}. Weights
are stored in float16 and open as float32. Forwards were timed eager, on one thread, after other tokens were cached.

## The ladder

On {ladder.texts} held-out texts of each kind, greedy until the end of sequence. The generator decides by a hash of its
contents whether a text is held out, so none of these was trained on.

{_ladder(ladder)}

Share of the tokens of the target's own greedy answers that the other models find most likely (asked of the draft on
word problems: at least {LEAST_AGREEMENT:.2f}):

{_agreement(ladder)}

Loss in nats per completion token:

{_losses(ladder)}

{_verdict(ladder)}

## Training

{_training(recipe, logs)}

One process per model, products in bfloat16. {growth} The log is in `training_log.json`, the
measured values in `ladder.json`, checksums in `SHA256SUMS`.

## Limits

The models know only the wordings of their generators. The draft and the qualifier are meant to be wrong often: a method
that accepts too much of what they write loses answers.
"""
