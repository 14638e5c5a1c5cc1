"""Published sets as a few rows in an SDBENCH_DATA folder; the baseline of the tiny family, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lm_eval.rows import ROWS, write


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the rows of every set, named by SDBENCH_DATA."""
    for name, rows in ROWS.items():
        write(tmp_path, name, rows)
    monkeypatch.setenv("SDBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_ar():
    from sdbench.lm_eval.model import ArmLM

    return ArmLM("ar")
