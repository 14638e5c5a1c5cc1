"""A small random-weight family on disk, and a run of it, made once."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from sdbench.analysis.figures.draw import FIGURES, draw
from sdbench.analysis.report import write
from sdbench.cli import main
from tests.family import overrides, save_family


@dataclass
class Bench:
    """Runs the command line in this process on the family."""

    paths: dict[str, Path]
    prompts: Path

    def words(self, out: Path, *more: str) -> list[str]:
        return [*overrides(self.paths, self.prompts, out), *more]

    def call(self, verb: str, out: Path, *more: str, figures: Collection[str] = ("speedup",)) -> int:
        """Return the exit status. figures: those that a report draws, because drawing takes longer than such a run."""
        with pytest.raises(SystemExit) as stop, patch.object(write, "draw", partial(draw, only=figures)):
            main([verb, *self.words(out, *more)])
        return int(stop.value.code or 0)


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("family")
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"number {i} and again number {i}: " * (1 + i % 2)} for i in range(8)]
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    return Bench(save_family(folder), prompts)


@pytest.fixture(scope="session")
def finished(bench, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert bench.call("run", out, "arms=[ar,sd,psd_fuzzy]", figures=FIGURES) == 0
    return out
