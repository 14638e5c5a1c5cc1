"""Heads that predict several tokens in one pass: what Medusa, ParallelSpec, SpecFormer and block diffusion have in common.

A *place* p of a text is a token that the target has read while the next one is decided. There the target has hidden states, and
token p + 1 is known. A head predicts the tokens p + 2, ..., p + 1 + K behind it: K laws, of which none sees a token drawn from
another. So the drafted tokens are independent given the context.

Shapes: B rows, P places of a text, C new places of a step, T queries of a step, E slots, K the depth.
R is the number of proposed tokens, W the head's width, and S3 that of the tapped hidden states together.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from sdbench import validate
from sdbench.errors import InputError
from sdbench.heads.config import HeadConfig
from sdbench.heads.parts import layer_like

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class ParallelConfig(HeadConfig):
    """The config of a head that predicts in one pass.

    kind: its name in `sdbench.heads.kinds`. depth: K. layers: of the target that it reads; None: behind its last norm.
    options: the further arguments of its class.
    """

    kind: str = ""
    depth: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def tapped(self, role: str, depth: int) -> tuple[int, ...]:
        layers = (depth,) if self.layers is None else self.layers
        if list(layers) != sorted(set(layers)) or any(not 0 <= layer <= depth for layer in layers):
            raise InputError(
                f"{role} is a head that reads the hidden states {list(layers)}, but its target has {depth} layers: give ascending "
                f"numbers up to {depth} as target_layers in its config.json."
            )
        return tuple(layers)


class ParallelHead(nn.Module):
    """A head that predicts K tokens in one pass. A subclass writes `states` and `passed`, and may write `initialise`.

    kind: in `sdbench_head` of its config.json. borrows: the weights of the target that it uses and does not store. stateful: it
    reads earlier places too, over a cache. block: queries behind the last place, which stand in the cache during a step.
    causal: a query of the block sees the earlier ones only; else it sees the whole block.
    d2t: [R], what is added to the number of a proposed token to get its id in the target.
    """

    kind: ClassVar[str]
    borrows: ClassVar[tuple[str, ...]] = (HEAD,)
    stateful: ClassVar[bool] = True
    causal: ClassVar[bool] = True
    block: int = 0
    d2t: Tensor

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__()
        self.config: Any = copy.deepcopy(config.layer)
        self.head_config, self.depth = config, validate.whole("depth", config.depth, 1)
        self.embed_tokens: Any = None
        self.lm_head: Any = None
        self.register_buffer("d2t", torch.zeros(config.draft_vocab, dtype=torch.long))
        if EMBEDDING in self.borrows and self.config.hidden_size != config.target_width:
            raise InputError(
                f"A {self.kind} head uses the embedding of its target, so it must have its width, {config.target_width}; its "
                f"config.json says {self.config.hidden_size}."
            )

    @classmethod
    def taps(cls, depth: int) -> tuple[int, ...]:
        """Return the hidden states of a target of `depth` layers that the head reads by default: behind the last norm."""
        return (depth,)

    @classmethod
    def fresh(
        cls,
        target: Any,
        ids: Sequence[int] | None,
        depth: int,
        taps: Sequence[int] | None = None,
        layers: int = 1,
        **options: Any,
    ) -> Self:
        """Return an untrained head in float32: random, or from the target's weights where its paper does so.

        target: the model of `transformers`. ids: of the tokens to propose, ascending; None: all. depth: K. taps: of the target's
        hidden states; None: as in the paper. layers: decoder layers, for the heads that have some. options: of the class.
        """
        text = target.config.get_text_config()
        proposed = torch.arange(text.vocab_size) if ids is None else torch.tensor(ids)
        layer = layer_like(target.config, layers)
        config = ParallelConfig(
            layer,
            len(proposed),
            text.hidden_size,
            cls.taps(text.num_hidden_layers) if taps is None else tuple(taps),
            kind=cls.kind,
            depth=depth,
            options=options,
        )
        config.check(cls.kind, text)
        head = cls(config)
        head.d2t.copy_(proposed - torch.arange(len(proposed)))
        head.to(target.device)
        head.lend(target)
        head.initialise(target)
        return head

    def initialise(self, target: Any) -> None:
        """Set the first values that the paper takes from the target."""
        return None

    def lend(self, target: Any) -> None:
        """Use the target's embedding and the rows of its head that the head proposes, without gradients. Raises: InputError."""
        sides = {EMBEDDING: target.get_input_embeddings(), HEAD: target.get_output_embeddings()}
        for name in self.borrows:
            weight = getattr(sides[name], "weight", None)
            if weight is None or type(weight.data) is not Tensor or weight.shape[1] != self.config.hidden_size:
                raise InputError(
                    f"A {self.kind} head uses the target's {name}, but that is quantised or of another width than "
                    f"{self.config.hidden_size}: take a target that is not quantised, or another head."
                )
            if name == HEAD and self.head_config.draft_vocab < len(weight):
                weight = weight.data[self.proposed.to(weight.device)]
            shared = nn.Parameter(weight.data.to(self.device, self.dtype), requires_grad=False)
            count, width = shared.shape
            if name == HEAD:
                self.lm_head = nn.Linear(width, count, bias=False, device="meta")
                self.lm_head.weight = shared
            else:
                self.embed_tokens = nn.Embedding(count, width, device="meta")
                self.embed_tokens.weight = shared

    @property
    def _own(self) -> nn.Parameter:
        return next(weight for name, weight in self.named_parameters() if name not in (EMBEDDING, HEAD))

    @property
    def dtype(self) -> torch.dtype:
        return self._own.dtype

    @property
    def device(self) -> torch.device:
        return self._own.device

    @property
    def proposed(self) -> Int[Tensor, " R"]:
        """The ids of the tokens that the head proposes, in the target's vocabulary."""
        return torch.arange(len(self.d2t), device=self.d2t.device) + self.d2t

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.lm_head

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        """Return, for all places of a text at once, the states before the head. tokens: those behind the places.

        The training function: everything can be differentiated.
        """
        raise NotImplementedError

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        """Return the states behind the last place of each row. Only the new places are given; `cache` holds the earlier ones.

        positions, mask: of the C places, and of the block of queries behind them (T = C + block).
        """
        raise NotImplementedError

    def logits(self, states: Float[Tensor, "B P W"], step: int) -> Float[Tensor, "B P R"]:
        """Return the logits of one depth, from 0."""
        return self.lm_head(states)

    def all_logits(self, states: Float[Tensor, "B K W"]) -> Float[Tensor, "B K R"]:
        """Return the logits of all depths."""
        return self.lm_head(states)

    def laws(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K R"]:
        """Return the logits of the K tokens behind the last place of each row. The arguments are those of `passed`."""
        return self.all_logits(self.passed(tokens, hidden.to(self.dtype), positions, mask, cache))

    def unrolled(
        self, input_ids: Int[Tensor, "B T"], hidden: Float[Tensor, "B T S3"], steps: int
    ) -> list[Float[Tensor, "B _ R"]]:
        """Return the logits of each depth k < min(steps, K) at all places: [B, T - 1 - k, R], at place p for token p + 2 + k.

        Everything can be differentiated. Rows of different lengths are padded on the right; leave the padding out of the loss.

        input_ids: the text. hidden: the tapped hidden states of the target for each token, side by side.
        """
        count = input_ids.shape[1] - 1
        states = self.states(input_ids[:, 1:], hidden[:, :-1].to(self.dtype))
        return [self.logits(states[:, : count - step, step], step) for step in range(min(steps, self.depth, count))]

    def forward(
        self, input_ids: Int[Tensor, "B T"], past_key_values: Any, use_cache: bool = True, logits_to_keep: int = 0
    ) -> CausalLMOutput:
        """Return the logits [B, K, R] of a pass over zero hidden states, whose T tokens include the block.

        It has the cost of a real pass, so a forward can be timed alone.
        """
        tokens = input_ids[:, : max(input_ids.shape[1] - self.block, 1)]
        count = tokens.shape[1] + self.block
        positions = past_key_values.get_seq_length() + torch.arange(count, device=tokens.device)[None]
        taps = self.head_config.layers
        width = self.head_config.target_width * (1 if taps is None else len(taps))
        hidden = torch.zeros(*tokens.shape, width, dtype=self.dtype, device=tokens.device)
        return CausalLMOutput(logits=self.laws(tokens, hidden, positions, None, past_key_values))

    def write(self, folder: Path, target: str = "") -> None:
        """Write the head as a folder that sdbench reads: model.safetensors and config.json. target: its name or hub id."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        own = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items() if name not in self.borrows}
        save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
        config = self.head_config
        document = {
            "sdbench_head": self.kind,
            "depth": config.depth,
            "draft_vocab_size": config.draft_vocab,
            "target": target,
            "target_hidden_size": config.target_width,
            "target_layers": None if config.layers is None else list(config.layers),
            "layer": {**config.layer.to_diff_dict(), "model_type": config.layer.model_type},
            "options": dict(config.options),
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
