"""With what a run was made: versions, revision, machine. Never a host name, a user name or a path."""

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
    """What `environment.json` holds. Imports torch."""
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
    """The installed version of each package that can change a number; None where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def git_state(package: Path) -> dict[str, Any] | None:
    """Revision of the checkout that the package at `package` is tracked in, and whether it has changes.

    None if there is none: installed from a wheel (also into an environment that lies within some other checkout), or
    git is not there, or nothing has been committed yet.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    sha = _git(package, "rev-parse", "HEAD")
    status = _git(package, "status", "--porcelain")
    return None if sha is None or status is None else {"sha": sha, "dirty": bool(status)}


def cpu_model() -> str:
    """The processor's name as the system states it."""
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
    """Cores that this process might use before it pinned itself to some of them, where the system says so."""
    return len(usable()) or os.cpu_count()


def ram_bytes() -> int | None:
    """Physical memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def gpus() -> list[dict[str, Any]]:
    """Name and memory in bytes of each CUDA device."""
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
    """What a command prints; None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
