"""`--max-skips`, in one process and under xdist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TWO_SKIPS = """
import pytest

@pytest.mark.skip
def test_one(): pass

@pytest.mark.parametrize("number", [1, 2])
def test_two(number):
    if number == 2:
        pytest.skip("the second")
"""


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]], ids=["alone", "xdist"])
def test_more_skips_than_allowed_fail(workers, tmp_path):
    (tmp_path / "test_made.py").write_text(TWO_SKIPS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", *workers]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def tried(bound: int) -> subprocess.CompletedProcess[str]:
        words = [*command, "--max-skips", str(bound)]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    allowed, refused = tried(2), tried(1)
    assert allowed.returncode == 0, allowed.stdout
    assert "1 passed, 2 skipped" in allowed.stdout
    assert refused.returncode == 1, refused.stdout
    assert "2 tests were skipped; --max-skips allows 1." in refused.stdout
