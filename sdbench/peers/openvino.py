"""Wrap OpenVINO GenAI (optional extra `openvino`), an engine that decodes in this process.

Token ids go in and come out, so the engine needs no tokenizer.

All three ways of decoding run in the engine's paged pipeline. The engine hands over the tokens of each round together, so the
number of accepted tokens of each round is known. A first piece of one token is the forward over the prompt, and has no drafts.
With look-up the engine does not report how many tokens it drafted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Trace
from sdbench.models.quiet import reason_of
from sdbench.peers.base import Growing
from sdbench.peers.generation import float32_module, weights_key
from sdbench.peers.in_process import InProcess, exported
from sdbench.peers.openvino_export import FILE, FORMAT, export
from sdbench.sampling import Sampling
from sdbench.stopping import Stop

PACKAGE = "openvino-genai"
_BLOCK = 32  # tokens of a block of the engine's cache on a CPU


class OpenVino(InProcess):
    """Decode with OpenVINO GenAI. ngram: the engine matches the last `ngram` tokens, or fewer. See `InProcess`."""

    full_attention = True
    package, module, extra = PACKAGE, "openvino_genai", "openvino"

    _slots = 0
    _engine: Any = None

    @property
    def title(self) -> str:
        return "OpenVINO GenAI"

    def open(self, rows: int, slots: int) -> None:
        """Write the weights, unless the cache holds them, and load the engine. Errors: InputError."""
        if self._engine is not None and slots <= self._slots:
            return
        self.close()
        kept = [_exported(model) for model in self.models]
        og: Any = importlib.import_module("openvino_genai")
        scheduler = og.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.max_num_seqs = False, 1
        # One forward reads the whole prompt, and each model has a cache for one sequence.
        scheduler.max_num_batched_tokens = max(_BLOCK, slots)
        scheduler.cache_size, scheduler.num_kv_blocks = 0, math.ceil(slots / _BLOCK) + 2
        # Without the hint, the engine chooses bfloat16 where the processor has it.
        exact = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        more: dict[str, Any] = {"scheduler_config": scheduler}
        if len(kept) > 1:
            more["draft_model"] = og.draft_model(str(kept[1]), "CPU", **exact)
        elif self.ngram is not None:
            more["prompt_lookup"] = True
        try:
            self._engine, self._slots = og.LLMPipeline(str(kept[0]), "CPU", **more, **exact), slots
        except RuntimeError as error:
            raise InputError(f"{self.title} cannot load {self.models[0].name}: {reason_of(error)}.") from error

    def close(self) -> None:
        self._engine = None

    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        import openvino

        og: Any = importlib.import_module("openvino_genai")
        (request,) = group
        self.open(1, len(request.tokens) + max_new_tokens + self.max_lookahead())
        config = og.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.num_return_sequences = max_new_tokens, False, 1
        ends = set(getattr(stop, "eos", ()))
        config.ignore_eos, config.stop_token_ids = not ends, ends
        if ends:
            config.set_eos_token_id(min(ends))  # else the engine takes the end of its stand-in tokenizer
        if self.draft_length is not None:
            config.num_assistant_tokens = self.draft_length
        if self.ngram is not None:
            config.max_ngram_size = self.ngram
        growing = Growing(request, stop.start(), max_new_tokens)
        self._engine.generate(openvino.Tensor(np.array([request.tokens], np.int64)), config, _streamer(og, growing))
        if not growing.done:
            # No RunError: this arm alone is void, and the others go on.
            raise ValueError(
                f"{self.title} ended the answer to {request.name} after {len(growing.finished.tokens)} tokens, and no rule of the "
                "run ends it there; leave the arm out"
            )
        if self.ngram is not None or self.draft_length is None:
            return [growing.recorded(0, self.edge, trace)]
        # The engine drafts K tokens, or those that the limit leaves beside the target's own.
        before = np.cumsum([0, *growing.pieces])[:-1]
        drafted = [0, *np.minimum(self.draft_length, max_new_tokens - before[1:] - 1).tolist()]
        return [growing.recorded(0, self.edge, trace, drafted)]


def _streamer(og: Any, growing: Growing) -> Any:
    """Return the engine's receiver of tokens: it hands each piece to the stop rule."""

    class Streamer(og.StreamerBase):
        def write(self, tokens: Any) -> Any:
            ended = growing.push([tokens] if isinstance(tokens, int) else list(tokens))
            return og.StreamingStatus.STOP if ended else og.StreamingStatus.RUNNING

        def end(self) -> None:
            return None

    return Streamer()


def _exported(model: LanguageModel) -> Path:
    """Return the folder of a model's weights in the engine's format. Errors: InputError."""
    title = "OpenVINO GenAI"
    module = float32_module(title, model)

    def write(made: Path) -> None:
        try:
            export(module, made)
        except Exception as error:  # the tracer and the converter raise errors of many kinds
            reason = reason_of(error)
            raise InputError(f"{title} cannot convert {model.name} ({type(module).__name__}): {reason}.") from error

    key = weights_key(module, FORMAT, importlib.metadata.version("openvino"))
    return exported("openvino", key, FILE, write)
