"""Compare the speed of two checkouts of sdbench: BEFORE and AFTER a change.

    python -m experiments.benchmarks.change BEFORE AFTER NAME [--blocks N] [--prompts FILE] [overrides of `sdbench run`]

Each block runs `sdbench run` in both checkouts, one after the other, in an order that alternates from block to block. So both sides
see the same prompts and the same load of the machine. The result is the ratio of decode tokens per second, after / before, of each
arm: the geometric mean over blocks, with its bootstrap 95 % interval. It goes to results/change/NAME.json, which the docs show, and
is printed. Paths in overrides must be absolute, since each side runs in its own checkout.

`{block}` in an override stands for the number of the block, so that each block gets prompts of its own:

    python -m experiments.benchmarks.change ../before . tiny --blocks 20 'arms=[ar,sd,pyramid]' limit=2 'tasks.seed={block}'

With --prompts, a file of JSON lines with a field `prompt`, block N gets the N-th line of the file through `tasks=jsonl`:

    python -m experiments.benchmarks.change ../before . smollm2 --blocks 12 --prompts questions.jsonl \\
        experiment=smollm2 models.target.path=/FOLDER 'arms=[ar,early_exit]' max_new_tokens=48
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from sdbench.analysis.metrics.speed import log_ratios
from sdbench.errors import InputError
from sdbench.papers.benchmark_tables import change_table
from sdbench.papers.estimate import of_logs

SIDES = ("before", "after")
_FAR = 10_000  # more blocks than one run has


def run_block(checkout: Path, words: list[str], out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run `sdbench run` from a checkout in a process of its own.

    Returns:
        The sequences, and the environment.

    Raises:
        InputError: the run did not finish. The message ends with the last line of its standard error.
    """
    command = [sys.executable, "-m", "sdbench", "run", *words, "tracker=none", f"out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{checkout}: {' '.join(command[1:])} ended with {done.returncode}: {_last(done.stderr)}")
    return pd.read_parquet(out / "sequences.parquet"), json.loads((out / "environment.json").read_text())


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def measure(checkouts: dict[str, Path], blocks: int, words: list[str], prompts: list[str] | None) -> dict[str, Any]:
    """Run all blocks on both sides, and compare.

    Args:
        checkouts: by side (`SIDES`) the folder of a checkout.
        blocks: how many.
        words: overrides; `{block}` is replaced.
        prompts: lines of JSON, one for each block; None to use the task that the overrides name.
    """
    tables: dict[str, list[pd.DataFrame]] = {side: [] for side in SIDES}
    environments: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="sdbench-change-") as scratch:
        for block in range(blocks):
            given = [word.replace("{block}", str(block)) for word in words]
            if prompts is not None:
                file = Path(scratch) / f"{block}.jsonl"
                file.write_text(prompts[block] + "\n", encoding="utf-8")
                given += ["tasks=jsonl", f"tasks.path={file}"]
            for side in SIDES if block % 2 == 0 else SIDES[::-1]:
                table, environments[side] = run_block(checkouts[side], given, Path(scratch) / f"{side}-{block}")
                prompt = table["prompt_id"].map(lambda name, block=block: f"{block}/{name}")
                tables[side].append(table.assign(prompt_id=prompt, block=table["block"] + block * _FAR, run=block))
            print(f"block {block + 1}/{blocks}", flush=True)
    return compare(*(pd.concat(tables[side], ignore_index=True) for side in SIDES)) | {
        "overrides": [re.sub(r"=/\S*/", "=", word) for word in words],  # without folders of this machine
        "blocks": blocks,
        "machine": environments["after"]["cpu"]["model"],
        "packages": {name: environments["after"]["packages"][name] for name in ("torch", "transformers")},
        "revisions": {side: (environments[side].get("git") or {}).get("sha") for side in SIDES},
    }


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Return by arm the ratio of tokens per second after / before, and how many answers have the same tokens.

    before, after: sequences, with the same `prompt_id`, `block` and `repeat` on both sides; `run` numbers the run that each belongs
    to. The runs are the units.
    """
    arms = {}
    keys = ["prompt_id", "repeat"]
    for arm in dict.fromkeys(after["arm"]):
        ours, theirs = (table[table["arm"] == arm] for table in (after, before))
        if theirs.empty:
            continue
        ratios = log_ratios(ours, theirs)  # by prompt, or by block of prompts that were decoded together
        of_block = dict(zip(ours[ratios.index.name], ours["run"], strict=True))
        ratio = of_logs(ratios.groupby(of_block).mean())
        both = ours.merge(theirs, on=keys, suffixes=("", "_before"))
        same = [list(new) == list(old) for new, old in zip(both["tokens"], both["tokens_before"], strict=True)]
        arms[arm] = {
            "ratio": ratio.value,
            "ci95": ratio.ci95,
            "blocks": ratio.n,
            "answers": len(same),
            "same": sum(same),
        }
    return {"arms": arms}


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("name")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--prompts", type=Path, help="a file of JSON lines, as `tasks=jsonl` reads it")
    parser.add_argument("--out", type=Path, default=Path("results/change"))
    options, words = parser.parse_known_args(argv)
    try:
        return _main(options, words)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def _main(options: argparse.Namespace, words: list[str]) -> int:
    checkouts = {side: getattr(options, side).resolve() for side in SIDES}
    for checkout in checkouts.values():
        if not (checkout / "sdbench" / "__init__.py").is_file():
            raise InputError(f"{checkout} is no checkout of sdbench: it has no sdbench/__init__.py.")
    prompts = None
    if options.prompts is not None:
        prompts = [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(prompts) < options.blocks:
            raise InputError(f"{options.prompts} has {len(prompts)} lines; {options.blocks} blocks need one each.")
    found = measure(checkouts, options.blocks, words, prompts)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(change_table(found).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
