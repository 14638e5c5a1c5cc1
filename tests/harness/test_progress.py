"""While an arm compiles its programs, the user sees how far it is."""

from __future__ import annotations

import time

import pytest

from sdbench.harness.progress import compiling
from sdbench.lm.programs.execution import Execution


def test_the_programs_are_counted(capsys):
    first, second = Execution(), Execution()
    with compiling("sd", [first, second], every=0.01):
        first.made, second.made, second.loaded = 2, 1, 4
        time.sleep(0.1)
    assert "sdbench: sd warms up: 3 programs compiled, 4 loaded, 0 s\n" in capsys.readouterr().err
    time.sleep(0.05)
    assert not capsys.readouterr().err, "it goes on after the warm-up"


def test_an_error_of_the_arm_passes_through():
    with pytest.raises(RuntimeError, match="stopped"), compiling("sd", []):
        raise RuntimeError("stopped")
