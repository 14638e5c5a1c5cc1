"""Make heads of each kind for a target, for the recipe `sdbench.training.recipes.heads`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdbench import validate
from sdbench.heads.config import HeadConfig
from sdbench.heads.eagle3 import Eagle3
from sdbench.heads.files import write_head
from sdbench.heads.kinds import KINDS, kind_of
from sdbench.heads.parallel import ParallelHead


class NewEagle3:
    """Make an EAGLE-3 head (2503.01840) as wide as its target.

    reads: numbers of the three hidden states, as in transformers' `hidden_states`; None: 2, the middle and the last but two.
    own_head: its output head starts from the rows of the target's and is trained; False: it stays the target's, and is not stored.
    Its embedding is the target's.
    """

    def __init__(self, reads: Sequence[int] | None = None, own_head: bool = True) -> None:
        self.reads, self.own_head = None if reads is None else tuple(reads), own_head

    def layers(self, config: Any) -> tuple[int, ...]:
        """Return the numbers of the hidden states that the head reads."""
        return self._config(config, 2).tapped("recipe.head", config.num_hidden_layers)

    def _config(self, text: Any, proposed: int) -> HeadConfig:
        from transformers import LlamaConfig

        layer = LlamaConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            max_position_embeddings=text.max_position_embeddings,
            rms_norm_eps=getattr(text, "rms_norm_eps", 1e-6),
            rope_parameters=getattr(text, "rope_parameters", None),
            tie_word_embeddings=False,
        )
        layer._attn_implementation = "sdpa"
        return HeadConfig(layer, proposed, text.hidden_size, self.reads)

    def fresh(self, target: Any, ids: Sequence[int]) -> Eagle3:
        """Return an untrained head in float32."""
        text = target.config.get_text_config()
        frozen = nn.Parameter(target.get_input_embeddings().weight.detach().float(), requires_grad=False)
        head = Eagle3(self._config(text, len(ids)), frozen)
        with torch.no_grad():
            for part in head.modules():
                if isinstance(part, nn.Linear):
                    part.weight.normal_(std=0.02)
            numbers = torch.tensor(list(ids))
            head.lm_head.weight.copy_(target.get_output_embeddings().weight[numbers])
            head.d2t.copy_(numbers - torch.arange(len(ids)))
            head.t2d.fill_(False)[numbers] = True
        head.own_head = self.own_head
        head.lm_head.requires_grad_(self.own_head)
        return head.train()

    def write(self, folder: Path, head: Eagle3, target: str, layers: tuple[int, ...]) -> None:
        """Write a head in bfloat16, in the format of speculators."""
        write_head(folder, head.to(torch.bfloat16), head.head_config, target, layers)


class NewParallel:
    """Make a head that predicts several tokens in one pass, as wide as its target.

    kind: medusa, parallelspec, specformer, block_diffusion or specdec. depth: the number of tokens. reads: numbers of the hidden
    states, as in transformers' `hidden_states`; None: as in the paper of the kind. decoder_layers: for the kinds that have some.
    options: of the kind, such as blocks of medusa.
    """

    def __init__(
        self,
        kind: str,
        depth: int = 4,
        reads: Sequence[int] | None = None,
        decoder_layers: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        validate.choice("recipe.head.kind", kind, KINDS)
        self.kind, self.depth = kind, validate.whole("recipe.head.depth", depth, 1)
        self.reads = None if reads is None else tuple(reads)
        self.decoder_layers = validate.whole("recipe.head.decoder_layers", decoder_layers, 1)
        self.options = dict(options or {})

    def layers(self, config: Any) -> tuple[int, ...]:
        """Return the numbers of the hidden states that the head reads."""
        return kind_of(self.kind).taps(config.num_hidden_layers) if self.reads is None else self.reads

    def fresh(self, target: Any, ids: Sequence[int]) -> ParallelHead:
        """Return an untrained head in float32."""
        every = len(ids) == target.config.get_text_config().vocab_size
        head = kind_of(self.kind).fresh(
            target, None if every else ids, self.depth, self.reads, self.decoder_layers, **self.options
        )
        return head.train()

    def write(self, folder: Path, head: ParallelHead, target: str, layers: tuple[int, ...]) -> None:
        """Write a head in bfloat16."""
        head.to(torch.bfloat16).write(folder, target)
