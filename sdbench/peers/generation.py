"""transformers' own `generate`: plain (dynamic cache; static cache, compiled), assisted by a draft model, and by prompt look-up.

The peer works on the very modules that our arms step. They are loaded under `sdpa`, transformers' own default, and the slot pool
is passed to them call by call: nothing in them is changed, so `generate` is as fast on them as on a copy. What is the peer's alone
is the outermost object: a shallow copy with a generation config of its own, so that no default of a checkpoint gets in.

Assisted generation takes its knobs from the assistant's generation config only, and tunes a confidence threshold while it runs
where scikit-learn is installed. Both are pinned there: K tokens, a constant schedule, threshold 0. `generate` tells nothing of
acceptance; the drafts are counted where it fetches its candidates. Of a draft that the length or an end cuts off, the target's own
token may be lacking: its accepted tokens then count short by one.
"""

from __future__ import annotations

import copy
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
    """Autoregressive `generate`. cache: dynamic (its default) or static, with the decoding step compiled (torch.compile)."""

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
        """A static cache is made once, for the longest sequence to come: another size would be compiled anew."""
        if self.cache == "static" and (slots > self._slots or self._static is None):
            from transformers import StaticCache

            self._slots = slots
            self._static = StaticCache(config=self.view.config, max_cache_len=slots)

    @property
    def view(self) -> Any:
        """The target's module with a generation config of its own."""
        if self._view is None:
            self._view = _view(self.models[0])
        return self._view

    def options(self) -> dict[str, Any]:
        """What else `generate` is asked."""
        if self._static is None:
            return {}
        self._static.reset()
        return {"past_key_values": self._static}

    def config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        """Our sampling in its words. Ends are left to our stop rule, so that both sides stop alike."""
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
    """What both ways of drafting have in common: one row, and candidates that are counted."""

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
    """Assisted generation: a draft model of the same family, K tokens in every round."""

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
    """Assisted generation by prompt look-up. max_ngram: the longest n-gram that is looked for."""

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
    """The target's rules as a logits processor: none if it has no rules."""
    if target.rules is None:
        return []
    started = [target.rules.start(request.tokens, max_new_tokens) for request in group]
    return [_Ruled(started, pad)]


class _Ruled:
    """A logits processor that gives each row its own rules, and does not count the padding on its left."""

    def __init__(self, rules: list[SequenceRules], pad: list[int]) -> None:
        self.rules, self.pad = rules, pad

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = zip(self.rules, self.pad, input_ids.tolist(), scores, strict=True)
        return torch.stack([rules(ids[pad:], logits) for rules, pad, ids, logits in rows])


def module_of(model: LanguageModel) -> Any:
    """The transformers module of a model."""
    module = getattr(model, "model", None)
    if module is None:
        raise InputError(f"{model.name} is no transformers model: a peer cannot decode with it.")
    return module


def _view(model: LanguageModel, **knobs: Any) -> Any:
    """A shallow copy of a model's module, all weights shared, with a generation config that says `knobs` and nothing else."""
    from transformers import GenerationConfig

    view = copy.copy(module_of(model))
    view.generation_config = GenerationConfig(pad_token_id=0, **knobs)
    return view


def _counting(generator: Any, drafted: list[int]) -> Any:
    """A candidate generator that notes how many tokens each round drafts."""
    made = generator.get_candidates

    def counted(input_ids: torch.Tensor, **inputs: Any) -> Any:
        candidates = made(input_ids, **inputs)
        drafted.append(candidates[0].shape[1] - input_ids.shape[1])
        return candidates

    generator.get_candidates = counted
    return generator


class _Watch:
    """A stopping criterion that gives each row's new tokens to our stop rule."""

    def __init__(self, seen: int, grown: list[Growing]) -> None:
        self.seen, self.grown = seen, grown

    def __call__(self, input_ids: torch.Tensor, scores: Any = None, **others: Any) -> torch.Tensor:
        new = input_ids[:, self.seen :].tolist()
        self.seen = input_ids.shape[1]
        ended = [sequence.push(tokens) for sequence, tokens in zip(self.grown, new, strict=True)]
        return torch.tensor(ended, device=input_ids.device)
