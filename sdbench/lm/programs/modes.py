"""The execution modes by name."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from sdbench.errors import InputError
from sdbench.lm.programs.compiled import Compiled
from sdbench.lm.programs.cudagraph import CudaGraph
from sdbench.lm.programs.execution import Execution

MODES: dict[str, type[Execution]] = {mode.name: mode for mode in (Execution, Compiled, CudaGraph)}
COMPILERS = ("g++", "clang++")


def execution_of(mode: str) -> Execution:
    """Return a new execution in the mode of this name: eager, compile or cudagraph."""
    return MODES[mode]()


def check_execution(role: str, mode: str, device: str, quantization: str | None = None) -> None:
    """Refuse an unknown mode, or a mode that cannot run on the device of the role or with its quantisation.

    Raises:
        InputError: with the reason and what to choose instead.
    """
    kind = torch.device(device).type
    if mode not in MODES:
        raise InputError(f"hardware.execution is '{mode}'; it must be one of {', '.join(MODES)}.")
    if mode == "compile" and quantization is not None:
        raise InputError(
            f"hardware.execution is compile, but {role} has quantization={quantization}, which compiled programs "
            "do not support: choose eager."
        )
    if mode == "cudagraph" and kind != "cuda":
        raise InputError(
            f"hardware.execution is cudagraph, but {role} is on {device}: choose a CUDA device, or compile."
        )
    if mode == "compile" and kind == "mps":
        raise InputError(
            f"hardware.execution is compile, but {role} is on mps, where nothing can be compiled: choose eager."
        )
    if mode == "compile" and kind == "cuda":
        raise InputError(
            f"hardware.execution is compile, but {role} is on {device}, where a compiled program ended the process when it "
            "was loaded: choose cudagraph."
        )
    if mode == "compile" and kind == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(
            f"hardware.execution is compile, which needs a C++ compiler ({' or '.join(COMPILERS)}): install one."
        )


def programs_of(executions: list[Execution]) -> dict[str, Any]:
    """Return what a run records of its programs: the seconds spent on making them, and how many were made and loaded."""
    return {
        "seconds": round(sum(one.seconds for one in executions), 3),
        "made": sum(one.made for one in executions),
        "loaded": sum(one.loaded for one in executions),
    }
