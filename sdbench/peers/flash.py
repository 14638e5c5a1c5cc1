"""Wrap flashspec (PyPI, optional extra `peers`), another library of lossless speculative decoding, on the same modules.

flashspec stops at end-of-sequence tokens, but supports no stop strings. Its only sampling parameter is the temperature. The
peer refuses a run that needs stop strings, top_k or top_p. It gets all tokens at the end, so `first_token_seconds` equals the total
time.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch

from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.keyed_random import stream
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge, Trace
from sdbench.peers.base import Growing, Peer
from sdbench.peers.generation import module_of
from sdbench.sampling import Sampling
from sdbench.stopping import Stop

STRATEGIES = ("auto", "bandit")


class FlashSpec(Peer):
    """Decode with flashspec.

    draft_length: flashspec's gamma. strategy: bandit (only the draft model drafts) or auto (flashspec's default: it
    tries prompt look-up first). Errors: InputError.
    """

    one_row = True
    one_width = True

    def __init__(
        self, verifier: LanguageModel, model: LanguageModel, draft_length: int = 4, strategy: str = "bandit"
    ) -> None:
        super().__init__([verifier, model])
        if importlib.util.find_spec("flashspec") is None:
            raise InputError("flashspec is not installed; pip install 'sdbench[peers]' brings it.")
        if isinstance(draft_length, bool) or not isinstance(draft_length, int) or draft_length < 1:
            raise InputError(f"draft_length is {draft_length!r}; it must be a whole number of at least 1.")
        if strategy not in STRATEGIES:
            raise InputError(f"strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}.")
        self.draft_length, self.strategy = draft_length, strategy
        self.edge = Edge(model.name, verifier.name)
        self._engines: dict[Sampling, Any] = {}

    @property
    def title(self) -> str:
        return "flashspec"

    def max_lookahead(self) -> int:
        return self.draft_length + 1

    def check(self, rows: int, sampling: Sampling, stop_strings: Sequence[str]) -> None:
        super().check(rows, sampling, stop_strings)
        if stop_strings:
            raise InputError("flashspec knows no stop strings; leave it out, or set ignore_eos=true.")
        if sampling.top_k or sampling.top_p < 1:
            raise InputError("flashspec samples by temperature only; set sampling.top_k=0 and sampling.top_p=1.")

    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        (request,) = group
        engine = self._engine(sampling)
        if not sampling.greedy:
            torch.manual_seed(stream(seed, request.name, request.repeat))
        growing = Growing(request, stop.start(), max_new_tokens)
        ids = torch.tensor([request.tokens], device=self.models[0].device)
        with torch.inference_mode():
            result = engine.generate(ids, max_new_tokens, sorted(getattr(stop, "eos", ())))
        growing.push(result.output_ids[0, : result.n_tokens_generated].tolist())
        growing.pieces = [step.emitted for step in result.arm_steps]
        return [growing.recorded(0, self.edge, trace, [step.proposed for step in result.arm_steps])]

    def _engine(self, sampling: Sampling) -> Any:
        """Return the cached engine for this sampling. It has no seed, so it draws from torch's generator."""
        if sampling not in self._engines:
            logging.getLogger("flashspec").setLevel(logging.ERROR)  # it warns that the bandit has one drafter only
            self._engines[sampling] = self._made(sampling)
        return self._engines[sampling]

    def _made(self, sampling: Sampling) -> Any:
        from flashspec import FlashSpecConfig, SamplingConfig, SpeculativeEngine
        from flashspec.engine.hf_drafter import HuggingFaceDrafter
        from flashspec.engine.verifier import TargetModel

        verifier, draft = self.models
        drawn = SamplingConfig(
            gamma=self.draft_length,
            temperature=sampling.temperature,
            variant="greedy" if sampling.greedy else "rejection",
        )
        config = FlashSpecConfig(
            device=str(verifier.device),
            drafter_strategy="auto" if self.strategy == "auto" else "bandit",
            bandit={"n_arms": 1},  # pyright: ignore
            sampling=drawn,
        )
        drafter = HuggingFaceDrafter(
            draft.name, draft.device, draft.dtype, sampling.temperature, model=module_of(draft)
        )
        target = TargetModel(verifier.name, verifier.device, verifier.dtype, model=module_of(verifier))
        return SpeculativeEngine(config, [drafter], target)
