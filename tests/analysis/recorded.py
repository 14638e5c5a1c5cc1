"""Write run folders as a real run does, with prompts and texts of tokens: simulated rows, and hostile texts on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdbench.analysis.metrics.summary import summarise
from sdbench.runs.record import Run, claim
from sdbench.runs.tables import frames
from tests.runs.made import Arm, meta, rows

HOSTILE = "</script><script>document.title='owned'</script><!-- <b>&amp;\u2028 \" ' {{ 7*7 }}"
CATEGORIES = ("sums", "lists & <b>tables</b>")
WORDS = [
    "",
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "it",
    "was",
    "for",
    "on",
    "are",
    "with",
    "his",
    "they",
    "at",
    "be",
]


PARENTS = [0, 0, 1, 3]  # of the tree of `with_trees`
UNSEEN = 999_999  # an id that no sequence emitted


def record(
    path: Path, arms: Sequence[Arm], run_id: str = "0123456789ab", prompts: int = 4, tokens: int = 30, hostile: str = ""
) -> Path:
    """Write a finished run of simulated rows. Every third token of a lossy arm is its own; the other arms share one text."""
    made = rows(arms, prompts=prompts, tokens=tokens)
    lossless = {arm.name: arm.lossless for arm in arms}
    for row in made["sequences"]:
        row["category"] = CATEGORIES[row["block"] % len(CATEGORIES)]
        generator = np.random.default_rng((row["block"], 0))
        pieces = [f" {WORDS[i]}" for i in generator.integers(0, len(WORDS), tokens)]
        if not lossless[row["arm"]]:
            own = np.random.default_rng((row["block"], sum(map(ord, row["arm"]))))
            for place in range(2, tokens, 3):
                pieces[place] = f" {WORDS[own.integers(0, len(WORDS))]}{own.integers(0, 10)}"
        pieces[-1] += hostile
        row |= {"pieces": pieces, "text": "".join(pieces)}
    folder = claim(path, run_id)
    tables = frames(made)
    folder.describe(
        {"seed": 0, "note": hostile},
        {
            "cpu": {"model": "abacus"},
            "git": {"sha": "f" * 40, "dirty": False},
            "weights": {"target": "sha256:" + "ab" * 32},
        },
    )
    folder.ask(
        {
            f"p{block}": {
                "text": f"Question {block}: how many? {hostile}\n" + "Some context. " * 40,
                "reference": str(block),
            }
            for block in range(prompts)
        }
    )
    folder.finish(tables, summarise(tables, arms[0].name, meta(arms)))
    return folder.path


def with_trees(run: Run, arm: str) -> Run:
    """Give the target's rounds of one arm token trees: of four nodes, whose kept path ends at the round's number modulo 5."""
    rounds, sequences = run.rounds, run.sequences
    emitted = {row.prompt_id: list(row.tokens) for row in sequences[sequences["arm"] == arm].itertuples()}
    own = (rounds["arm"] == arm) & (rounds["verifier"] == "target")
    rounds["nodes"] = np.where(own, len(PARENTS), np.nan)
    rounds["end"] = np.where(own, rounds["round"] % (len(PARENTS) + 1), np.nan)
    rounds["parents"] = [PARENTS if its else None for its in own]
    drafted = [[UNSEEN, *emitted[prompt][: len(PARENTS) - 1]] for prompt in rounds["prompt_id"]]
    rounds["drafted"] = [tokens if its else None for tokens, its in zip(drafted, own, strict=True)]
    return run
