"""Read the config.json of exit heads (AdaDecode, 2506.03700): which layers of the target they stand behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class ExitConfig:
    """The config of exit heads.

    layers: for each head the number of layers before it, ascending. width: of the target's hidden states.
    """

    layers: tuple[int, ...]
    width: int

    @property
    def document(self) -> dict[str, Any]:
        """The content of config.json. The key exit_layers marks exit heads."""
        return {"architectures": ["ExitHeads"], "exit_layers": list(self.layers), "hidden_size": self.width}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The tensors of the heads and their shapes."""
        return {f"transforms.{place}.weight": (self.width, self.width) for place in range(len(self.layers))}

    def check(self, role: str, target: PreTrainedConfig) -> None:
        """Refuse heads that do not belong to a target. role: of the heads. target: its config. Raises: InputError."""
        text = target.get_text_config()
        depth = text.num_hidden_layers
        if self.width != text.hidden_size:
            raise InputError(
                f"The exit heads {role} read hidden states of width {self.width}, but their target has width {text.hidden_size}: "
                "take the heads that belong to the target."
            )
        if (
            not self.layers
            or list(self.layers) != sorted(set(self.layers))
            or not 0 < self.layers[0] <= self.layers[-1] < depth
        ):
            raise InputError(
                f"The exit heads {role} stand behind the layers {list(self.layers)}; exit_layers of their config.json must be "
                f"ascending numbers from 1 to {depth - 1}, because their target has {depth} layers."
            )


def is_exit_heads(document: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is that of exit heads."""
    return "exit_layers" in document


def read_exit_config(role: str, document: Mapping[str, Any]) -> ExitConfig:
    """Return the config of exit heads. role: for messages. document: their config.json. Raises: InputError."""
    try:
        return ExitConfig(tuple(int(layer) for layer in document["exit_layers"]), int(document["hidden_size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The config.json of models.{role} cannot be read ({error}): it must have exit_layers, a list of whole numbers, and "
            "hidden_size."
        ) from error
