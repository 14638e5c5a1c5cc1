"""Steps compiled ahead of time by `torch.export` and AOTInductor, and kept in the user's cache folder.

A program holds no weights: it uses those of the loaded model. So the cache folder stays small, and the weights are in memory once.
The number of slots that attention reads is free; everything else is fixed. Loading a program takes some milliseconds. Making one
takes some ten seconds of the C++ compiler, once for each machine. This mode is for CPUs. On a GPU the process ended when it loaded
such a program (torch 2.11, on an H200), so there steps are captured (`sdbench.lm.programs.cudagraph`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdbench.errors import RunError
from sdbench.lm.prepacked import locate, prepacked_parts
from sdbench.lm.programs.execution import Program, Programs
from sdbench.lm.programs.traced import Inputs, Traceable, flat, parted
from sdbench.models.cache import writable_cache
from sdbench.models.quiet import quiet, reason_of
from sdbench.models.weight_files import sha256_of

# The modules of this package that programs are traced from. Their text is part of a program's identity.
_TRACED = (
    "forward",
    "early_exit",
    "kv_cache",
    "masks",
    "prepacked",
    "programs.traced",
    "programs.chain",
    "programs.tree",
    "programs.compiled",
)
_EXAMPLE = {"attend_len": 97, "room": 89}  # sizes in the traced example, unlikely to equal any other size


class Compiled(Programs):
    """Programs made by AOTInductor."""

    name = "compile"

    def make(self, lm: Traceable, inputs: Inputs) -> Program:
        step = inputs.module(lm)
        file = writable_cache("compiled") / f"{self._identity(lm, inputs)}.pt2"
        if not file.is_file():
            try:
                _compile(lm, step, inputs, file)
            except Exception as error:  # tracer, code generator and compiler raise many kinds
                raise RunError(
                    f"{lm.name} could not be compiled ({reason_of(error)}); hardware.execution=eager runs without."
                ) from error
            self.made += 1
        else:
            self.loaded += 1
        return _load(step, file)

    def _identity(self, lm: Traceable, inputs: Inputs) -> str:
        """Hash everything that the code of a program depends on."""
        config = lm.config.to_dict()
        for name in ("_name_or_path", "transformers_version"):
            config.pop(name, None)
        weights = [(name, list(weight.shape), str(weight.dtype)) for name, weight in lm.model.named_parameters()]
        what = {
            "code": [_text_of(f"sdbench.lm.{name}") for name in _TRACED]
            + [_text_of(f"sdbench.{name}") for name in ("sampling", "keyed_random", "models.token_map")]
            + [_text_of(type(lm.model).__module__)],
            "versions": [torch.__version__, version("transformers")],
            "machine": ["cpu", _processor(), torch.get_num_threads(), torch.get_float32_matmul_precision()],
            "model": [type(lm.model).__name__, config, lm.config._attn_implementation, str(lm.dtype), weights],
            "prepacked": sorted(prepacked_parts(lm.model)),
            "ids": lm.ids.record,
            "cache": [lm.pool.slots, lm.cached],
            "masks": [lm.mask_form.kinds, lm.mask_form.window, lm.mask_form.hides_first],
            "shape": [type(inputs).__name__, inputs.shape],
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def _text_of(module: str) -> str:
    """The SHA-256 of a module's source file."""
    file = sys.modules[module].__file__ if module in sys.modules else None
    return sha256_of(Path(file)) if file else module


def _compile(lm: Traceable, step: nn.Module, inputs: Inputs, file: Path) -> None:
    """Make a program. The file appears complete or not at all."""
    with torch.inference_mode(False), torch.no_grad(), quiet(), warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # about one part of torch, from another
            warnings.simplefilter("ignore", kind)
        example = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in flat(lm, inputs)]
        for at, names in enumerate(inputs.free):
            shape = [_EXAMPLE[names[dim]] if dim in names else size for dim, size in enumerate(example[at].shape)]
            example[at] = example[at].new_zeros(shape)
        own, over, pools = parted(lm, inputs, example)
        sizes = {name: torch.export.Dim(name, min=2, max=lm.pool.slots + 1) for name in _EXAMPLE}
        free = [{dim: sizes[name] for dim, name in names.items()} for names in inputs.free]
        dynamic = {
            "own": free[: len(own)],
            "over": free[len(own) :],
            "pools": [[None] * len(layers) for layers in pools],
        }
        exported = torch.export.export(
            step,
            (own, over, pools),
            dynamic_shapes=dynamic,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".compiling-") as scratch:
            made = os.path.join(scratch, "made.pt2")
            options = {"aot_inductor.package_constants_in_so": False}
            torch._inductor.aoti_compile_and_package(exported, package_path=made, inductor_configs=options)
            held = _tensors(step)
            extra = {name: t for name, t in {**exported.state_dict, **exported.constants}.items() if name not in held}
            torch.save(extra, os.path.join(scratch, "extra.pt"))
            os.replace(os.path.join(scratch, "extra.pt"), file.with_suffix(".extra.pt"))
            os.replace(made, file)


def _load(step: nn.Module, file: Path) -> Program:
    """Load a program and give it the addresses of the weights, which must stay where they are."""
    loaded = torch._inductor.aoti_load_package(str(file), run_single_threaded=True)
    extra = torch.load(file.with_suffix(".extra.pt"), weights_only=True)
    held = {**extra, **_tensors(step)}
    constants = {name: held[name] for name in loaded.get_constant_fqns()}
    return _Loaded(loaded, constants, next(tensor for name, tensor in constants.items() if name not in extra), step)


class _Loaded:
    """A loaded program.

    It knows only the addresses of its constants, so this object keeps them alive. The weights move when the model is given to
    another process, to shared memory. Then the program gets the new addresses.
    """

    def __init__(self, program: Any, constants: dict[str, Tensor], witness: Tensor, step: nn.Module) -> None:
        self._program, self._constants, self._step = program, constants, step
        self._run, self._witness = program.loader.boxed_run, witness  # any weight shows whether the weights have moved
        self._set_addresses()

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        if self._witness.data_ptr() != self._at:
            self._set_addresses()
        return self._run(inputs)

    def _set_addresses(self) -> None:
        self._program.load_constants(self._constants, check_full_update=True, user_managed=True)
        locate(self._step)
        self._at = self._witness.data_ptr()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _processor() -> str:
    """Return the processor's instruction sets, which compiled code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        import platform

        return f"{platform.machine()} {platform.processor()}"
