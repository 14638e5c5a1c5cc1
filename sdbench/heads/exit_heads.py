"""Exit heads (AdaDecode, 2506.03700): a learned W x W product between the hidden states behind a layer and the target's head.

The head behind layer i is E T(i), where E is the target's own head. Our notes on the paper do not say where the target's last norm
stands. Here T(i) reads the normed states, so the identity gives the plain early exit (`sdbench.lm.early_exit`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdbench.errors import InputError
from sdbench.heads.exit_config import ExitConfig


class ExitHeads(nn.Module):
    """The products T(i) of all exits, which begin as the identity. config: says where the exits are."""

    def __init__(self, config: ExitConfig) -> None:
        super().__init__()
        self.config = config
        self.transforms = nn.ModuleList(nn.Linear(config.width, config.width, bias=False) for _ in config.layers)
        for weight in self.parameters():
            nn.init.eye_(weight)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def head(self, place: int, own: nn.Module) -> ExitHead:
        """Return the head of an exit, by its place among the exits. own: the target's head."""
        return ExitHead(self.transforms[place], own)


class ExitHead(nn.Module):
    """The head of one exit."""

    def __init__(self, transform: nn.Module, own: nn.Module) -> None:
        super().__init__()
        self.transform, self.own = transform, own

    def forward(self, states: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch V"]:
        return self.own(self.transform(states))


def fill_exits(module: ExitHeads, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy the tensors of a checkpoint into exit heads. name: of the checkpoint, for messages. Raises: InputError."""
    wanted = module.state_dict()
    if tensors.keys() != wanted.keys():
        odd = sorted(tensors.keys() ^ wanted.keys())[0]
        what = "lack the tensor" if odd in wanted else "have a tensor that their config.json does not name,"
        raise InputError(f"The exit heads {name} {what} {odd}: train or fetch them again.")
    for part, tensor in tensors.items():
        if tensor.shape != wanted[part].shape:
            raise InputError(
                f"The exit heads {name} have {part} as {list(tensor.shape)}, but their config.json makes it "
                f"{list(wanted[part].shape)}: take both from the same heads."
            )
    module.load_state_dict(dict(tensors))


def write_exits(folder: Path, module: ExitHeads) -> None:
    """Write exit heads as a folder: model.safetensors and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(module.config.document, indent=2) + "\n", encoding="utf-8")
