"""Wrap transformers' own `generate` as peers: plain (dynamic or static cache), assisted by a draft model, and prompt look-up.

A peer runs on the same modules as the other arms. The loader sets `sdpa`, the default of transformers. The other arms
pass their KV cache in each call and change nothing in the modules. So `generate` is as fast on them as on a copy.
The peer makes a shallow copy of the outermost module only. The copy has its own generation config,
which excludes the defaults of the checkpoint.

Assisted generation reads its settings from the generation config of the assistant only. With scikit-learn installed, it also
adapts a confidence threshold during the run. The peer fixes these settings: K tokens, a constant schedule, threshold 0.
`generate` does not report acceptance. So the peer counts the drafts where `generate` fetches its candidates. If the length limit
or a stop cuts a draft, the target's own token may be missing. The count of accepted tokens is then too small by one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.keyed_random import stream
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge, Trace
from sdbench.models.generation import SequenceRules
from sdbench.models.quiet import quiet
from sdbench.peers.base import Growing, Peer
from sdbench.sampling import Sampling
from sdbench.stopping import Stop

if TYPE_CHECKING:
    from transformers import GenerationConfig

CACHES = ("dynamic", "static")


class Generate(Peer):
    """Decode autoregressively with `generate`.

    cache: dynamic (the default of transformers), or static with a compiled decoding step (torch.compile).
    Errors: InputError.
    """

    applies_rules = True

    def __init__(self, verifier: LanguageModel, cache: str = "dynamic") -> None:
        super().__init__([verifier])
        if cache not in CACHES:
            raise InputError(f"cache is {cache!r}; it must be one of {', '.join(CACHES)}.")
        self.cache = cache
        self.edge = Edge("", verifier.name)
        self._view: Any = None
        self._configs: dict[tuple[Sampling, int], GenerationConfig] = {}
        self._static: Any = None
        self._slots = 0
        self._drafted: list[int] = []

    @property
    def title(self) -> str:
        return "transformers' generate"

    def open(self, rows: int, slots: int) -> None:
        """Make the static cache once, for the longest sequence. Another size would need another compilation."""
        if self.cache == "static" and (slots > self._slots or self._static is None):
            from transformers import StaticCache

            self._slots = slots
            self._static = StaticCache(config=self.view.config, max_cache_len=slots)

    @property
    def view(self) -> Any:
        """Return the target's module with a separate generation config."""
        if self._view is None:
            self._view = _view(self.models[0])
        return self._view

    def options(self) -> dict[str, Any]:
        """Return further arguments of `generate`."""
        if self._static is None:
            return {}
        self._static.reset()
        return {"past_key_values": self._static}

    def config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        """Translate the sampling into a generation config. The stop rule of sdbench ends sequences, as in every other arm."""
        if (sampling, max_new_tokens) not in self._configs:
            from transformers import CompileConfig, GenerationConfig

            drawn: dict[str, Any] = {"do_sample": False}
            if not sampling.greedy:
                drawn = {"do_sample": True, "temperature": sampling.temperature}
                drawn |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
            made = GenerationConfig(max_new_tokens=max_new_tokens, pad_token_id=0, **drawn)
            if self.cache == "static":
                made.compile_config = CompileConfig(
                    mode="default" if self.models[0].device.type == "cpu" else "reduce-overhead"
                )
                made.compile_config._compile_all_devices = True  # pyright: ignore (on a CPU too)
            self._configs[sampling, max_new_tokens] = made
        return self._configs[sampling, max_new_tokens]

    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        target = self.models[0]
        width = max(len(request.tokens) for request in group)
        if self.cache == "static" and (self._static is None or width + max_new_tokens > self._slots):
            self.open(len(group), width + max_new_tokens)
        config, view = self.config(sampling, max_new_tokens), self.view
        if not sampling.greedy:
            torch.manual_seed(stream(seed, group[0].name, group[0].repeat))
        self._drafted.clear()
        grown = [Growing(request, stop.start(), max_new_tokens) for request in group]
        pad = [width - len(request.tokens) for request in group]
        ids = torch.tensor([[0] * n + r.tokens for n, r in zip(pad, group, strict=True)], device=target.device)
        seen = torch.tensor([[0] * n + [1] * (width - n) for n in pad], device=target.device)
        with quiet():
            view.generate(
                input_ids=ids,
                attention_mask=seen,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_Watch(width, grown)]),
                logits_processor=LogitsProcessorList(_rules(target, group, pad, max_new_tokens)),
                **self.options(),
            )
        drafted = self._drafted if self._drafted else None
        return [sequence.recorded(row, self.edge, trace, drafted) for row, sequence in enumerate(grown)]


class _Drafting(Generate):
    """Share what both drafting peers need: one row, and a count of the candidates. draft_length: K tokens a round."""

    one_row = True

    def __init__(self, verifier: LanguageModel, draft_length: int) -> None:
        super().__init__(verifier)
        if isinstance(draft_length, bool) or not isinstance(draft_length, int) or draft_length < 1:
            raise InputError(f"draft_length is {draft_length!r}; it must be a whole number of at least 1.")
        self.draft_length = draft_length

    def max_lookahead(self) -> int:
        return self.draft_length + 1

    @property
    def view(self) -> Any:
        if self._view is None:
            view = _view(self.models[0])
            made = view._get_candidate_generator
            view._get_candidate_generator = lambda **inputs: _counting(made(**inputs), self._drafted)
            self._view = view
        return self._view


class Assisted(_Drafting):
    """Decode by assisted generation: a draft model of the same family drafts K tokens in every round."""

    one_width = True

    def __init__(self, verifier: LanguageModel, model: LanguageModel, draft_length: int = 4) -> None:
        super().__init__(verifier, draft_length)
        self.models = [verifier, model]
        self.edge = Edge(model.name, verifier.name)
        self._assistant: Any = None

    @property
    def title(self) -> str:
        return "transformers' assisted generation"

    def options(self) -> dict[str, Any]:
        if self._assistant is None:
            self._assistant = _view(
                self.models[1],
                num_assistant_tokens=self.draft_length,
                num_assistant_tokens_schedule="constant",
                assistant_confidence_threshold=0.0,
            )
        return {"assistant_model": self._assistant}


class Lookup(_Drafting):
    """Decode by assisted generation with prompt look-up. max_ngram: the longest n-gram that the search uses, in tokens."""

    def __init__(self, verifier: LanguageModel, draft_length: int = 10, max_ngram: int = 3) -> None:
        super().__init__(verifier, draft_length)
        self.max_ngram = max_ngram
        self.edge = Edge("lookup", verifier.name)

    @property
    def title(self) -> str:
        return "transformers' prompt look-up"

    def options(self) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": self.draft_length, "max_matching_ngram_size": self.max_ngram}


def _rules(target: LanguageModel, group: list[Request], pad: list[int], max_new_tokens: int) -> list[Any]:
    """Return the target's rules as a list with one logits processor; [] if the target has no rules."""
    if target.rules is None:
        return []
    started = [target.rules.start(request.tokens, max_new_tokens) for request in group]
    return [_Ruled(started, pad)]


class _Ruled:
    """Apply the rules of each row to its logits, as a logits processor. pad: left padding of each row, in tokens."""

    def __init__(self, rules: list[SequenceRules], pad: list[int]) -> None:
        self.rules, self.pad = rules, pad

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = zip(self.rules, self.pad, input_ids.tolist(), scores, strict=True)
        return torch.stack([rules(ids[pad:], logits) for rules, pad, ids, logits in rows])


def module_of(model: LanguageModel) -> Any:
    """Return the transformers module of a model. Errors: InputError if the model has none."""
    module = getattr(model, "model", None)
    if module is None:
        raise InputError(f"{model.name} is no transformers model: a peer cannot decode with it.")
    return module


def float32_module(title: str, model: LanguageModel) -> Any:
    """Return the module of a model in float32 on the CPU. title: of the peer that asks. Errors: InputError."""
    module = module_of(model)
    check_float32(title, model.name, str(module.dtype).removeprefix("torch."), module.device.type)
    return module


def check_float32(title: str, name: str, dtype: str, device: str) -> None:
    """Refuse a model for a peer that runs float32 on the CPU. title: of the peer. name: of the model. Errors: InputError."""
    if dtype != "float32" or device != "cpu":
        raise InputError(
            f"{title} runs float32 on the CPU here, and {name} is {dtype} on {device}: set hardware.dtype=float32 and "
            "hardware=cpu, or leave the arm out."
        )


def weights_key(module: Any, *more: str) -> str:
    """Return the name of a file that is made of a module: the SHA-256 of its config, its weights and `more`."""
    found = hashlib.sha256(json.dumps([module.config.to_dict(), more], sort_keys=True, default=str).encode())
    for name, weight in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().contiguous().numpy().data)
    return found.hexdigest()[:32]


def _view(model: LanguageModel, **knobs: Any) -> Any:
    """Return a shallow copy of a model's module that shares all weights. Its generation config contains only `knobs`."""
    from transformers import GenerationConfig

    view = copy.copy(module_of(model))
    view.generation_config = GenerationConfig(pad_token_id=0, **knobs)
    return view


def _counting(generator: Any, drafted: list[int]) -> Any:
    """Make a candidate generator append the number of drafted tokens of each round to `drafted`, and return it."""
    made = generator.get_candidates

    def counted(input_ids: torch.Tensor, **inputs: Any) -> Any:
        candidates = made(input_ids, **inputs)
        drafted.append(candidates[0].shape[1] - input_ids.shape[1])
        return candidates

    generator.get_candidates = counted
    return generator


class _Watch:
    """Pass the new tokens of each row to the stop rule of sdbench, as a stopping criterion. seen: tokens read so far."""

    def __init__(self, seen: int, grown: list[Growing]) -> None:
        self.seen, self.grown = seen, grown

    def __call__(self, input_ids: torch.Tensor, scores: Any = None, **others: Any) -> torch.Tensor:
        new = input_ids[:, self.seen :].tolist()
        self.seen = input_ids.shape[1]
        ended = [sequence.push(tokens) for sequence, tokens in zip(self.grown, new, strict=True)]
        return torch.tensor(ended, device=input_ids.device)
