"""A small random-weight family on disk, and a run of it, made once."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdbench.cli import main
from tests.family import overrides, save_family


@dataclass
class Bench:
    """Runs the command line in this process on the family."""

    paths: dict[str, Path]
    prompts: Path

    def words(self, out: Path, *more: str) -> list[str]:
        return [*overrides(self.paths, self.prompts, out), *more]

    def call(self, verb: str, out: Path, *more: str) -> int:
        with pytest.raises(SystemExit) as stop:
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
    assert bench.call("run", out, "arms=[ar,sd,psd_fuzzy]") == 0
    return out
