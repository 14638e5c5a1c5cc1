"""Make an arm an lm-eval model.

`generate_until` uses the arm's decoder. `loglikelihood` and `loglikelihood_rolling` are those of lm-eval's `hf` model with the
target. A likelihood involves no decoding, so tasks that ask for one do not depend on the arm, and the record names them.
The library lm-eval tokenises, applies chat templates and cuts at stop strings. So the arm `ar` gives the same texts as `hf`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from sdbench.decoding.base import Request, slots_needed
from sdbench.errors import InputError
from sdbench.harness.arms import make
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.lm_eval.cache import keep_apart
from sdbench.lm_eval.generation import DEFAULT_MAX_NEW_TOKENS, Generation, generation
from sdbench.runs.run_id import canonical
from sdbench.tasks.stops import StopChecker

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CacheHook

PROFILE = "hardware"  # the device of the hardware profile

log = logging.getLogger(__name__)

# A plan needs a prompt to check. lm-eval supplies the prompts of the measurement.
_PLANNED = ("tasks=stories", "limit=1", "max_new_tokens=1")
# Settings of `sdbench run` that an lm-eval model does not use, and what lm-eval has instead.
_NOT_USED = {
    "arms": "--model_args arm=NAME",
    "tasks": "--tasks",
    "limit": "--limit",
    "max_new_tokens": "--gen_kwargs max_gen_toks=N",
    "sampling": "--gen_kwargs do_sample=true,temperature=T,top_k=K,top_p=P",
    "chat": "--apply_chat_template",
    "batch_size": "--batch_size",
    "device": "--device",
    "out": "--output_path",
    "tracker": "--wandb_args",
    "repeats": "the field 'repeats' of a task's YAML",
    **dict.fromkeys(("name", "baseline", "warmup", "ignore_eos", "margin", "verify", "experiment")),
}

_HF: Any = HFLM  # its decorator hides its type


class ArmLM(_HF):
    """One arm of the bench with one family of models.

    arm: the arm's name. batch_size: the number of rows that decode together. device: replaces the device of the hardware profile.
    overrides: the models, the hardware, the seed and the arm's knobs, as for `sdbench run`: for example models="smollm2" or
    **{"arms.sd.draft_length": 6}. Errors: InputError; also for a setting that lm-eval has an option for.
    """

    def __init__(
        self,
        arm: str = "ar",
        batch_size: int | str = 1,
        device: str = PROFILE,
        max_batch_size: int | None = None,
        **overrides: Any,
    ) -> None:
        if max_batch_size is not None or not str(batch_size).isdigit() or int(batch_size) < 1:
            raise InputError(
                f"batch_size is {batch_size}; an arm decodes a fixed number of rows: give a whole number, no 'auto'."
            )
        for name in overrides:
            _check_used(name)
        words = [f"{name}={_word(value)}" for name, value in overrides.items()]
        if device != PROFILE:
            words.append(f"hardware.device={device}")
        self.plan = prepare(compose([f"arms=[{arm}]", *_PLANNED, *words]))
        if len(self.plan.arm_configs) != 1:
            raise InputError(
                f"'{arm}' gives {len(self.plan.arm_configs)} arms; an lm-eval model is one arm, without a grid."
            )
        self.plan.take_cores()
        self.models = load(self.plan)
        (self.arm,) = make(self.plan.arm_configs, self.models, self.plan.encode)
        self.rows = int(batch_size)
        if self.arm.peer:
            self.arm.peer.check(self.rows, self.plan.sampling, ())
            self.arm.peer.open(self.rows, self.plan.family.context or self.plan.slots)
        self.unseen: set[str] = set()
        self.counts: Counter[str] = Counter()
        tokenizer = self.plan.family.tokenizer
        super().__init__(self.models["target"].model, backend="causal", tokenizer=tokenizer, batch_size=self.rows)
        self.pretrained = self.plan.specs["target"].path

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> ArmLM:
        """Make the model from the text of --model_args. Errors: InputError."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> ArmLM:
        """Make the model from --model_args and from lm-eval's own options. Errors: InputError, for a word in both."""
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        for name in arg_dict.keys() & options.keys():
            _check_used(name)
        return cls(**arg_dict, **options)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode the arm's answers, and cut each before its stop string. Errors: InputError, before any decoding."""
        asked: dict[Generation, list[int]] = {}
        for index, request in enumerate(requests):
            asked.setdefault(generation(request.arguments[1], f"The task {request.task_name}"), []).append(index)
        encoded = [self._encoded(request, requests, index) for index, request in enumerate(requests)]
        for options, members in asked.items():
            self._check_length(options, [encoded[index] for index in members])
        self.arm.decoder.begin_pass()
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc=f"decoding with {self.arm.name}") as progress:
            for options, members in asked.items():
                for index, text in self._decoded(options, {index: encoded[index] for index in members}):
                    texts[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    progress.update()
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Compute log-likelihoods with the target alone."""
        self._note(requests)
        return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Compute rolling log-likelihoods with the target alone."""
        self._note(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Use lm-eval's cache of answers. Errors: InputError if the cache belongs to another arm."""
        keep_apart(cache_hook, self.arm.name, self.identity)
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Describe the arm for lm-eval's record: its config, models and counts, and the tasks that did not use it."""
        calls = self.counts["target_calls"]
        return {
            "arm": self.arm.name,
            "arm_config": self.arm.config,
            "lossless": self.arm.decoder.lossless,
            "weights": self._weights,
            "model_dtype": str(self.model.dtype),
            "sequences": self.counts["sequences"],
            "generated_tokens": self.counts["tokens"],
            "tokens_per_target_call": (self.counts["tokens"] - self.counts["sequences"]) / calls if calls else None,
            "tasks_that_do_not_see_the_arm": sorted(self.unseen),
        }

    @property
    def identity(self) -> str:
        """A SHA-256 over all inputs that can change an answer: the arm, the weights, the hardware profile and the seed."""
        config = self.plan.config
        parts = {name: config[name] for name in ("models", "hardware", "seed", "ignore_eos")}
        document = canonical({**parts, "arm": self.arm.config, "weights": self._weights})
        return hashlib.sha256(document.encode()).hexdigest()

    @property
    def tokenizer_name(self) -> str:
        return self.plan.specs["target"].path.replace("/", "__")

    @property
    def max_gen_toks(self) -> int:
        return DEFAULT_MAX_NEW_TOKENS

    def close(self) -> None:
        """End the arm's processes."""
        self.arm.decoder.close()

    @property
    def _weights(self) -> dict[str, str]:
        return self.plan.identities

    def _encoded(self, request: Instance, requests: list[Instance], index: int) -> Request:
        tokens = self.tok_batch_encode([request.arguments[0]])[0][0].tolist()
        if not tokens:
            raise InputError(
                f"A prompt of the task {request.task_name} has no tokens; a prompt must have at least one."
            )
        # For several answers to a prompt, lm-eval repeats the request. The repeats follow each other.
        repeat = 0
        while index - repeat > 0 and requests[index - repeat - 1] is request:
            repeat += 1
        return Request(tokens, f"{request.task_name}/{request.doc_id}/{request.idx}", repeat)

    def _check_length(self, options: Generation, prompts: list[Request]) -> None:
        longest = max(len(prompt.tokens) for prompt in prompts)
        slots, context = slots_needed(self.arm.decoder, longest, options.max_new_tokens), self.plan.family.context
        if context is not None and slots > context:
            raise InputError(
                f"A prompt of {longest} tokens, max_gen_toks={options.max_new_tokens} and the arm '{self.arm.name}' need {slots} "
                f"positions, but the models read {context}: lower max_gen_toks (--gen_kwargs) or num_fewshot."
            )

    def _decoded(self, options: Generation, prompts: dict[int, Request]) -> Iterator[tuple[int, str]]:
        """Decode the prompts, and yield (index of the request, text) for each finished answer."""
        plan = self.plan
        stop = StopChecker(plan.family.eos, options.until, plan.family.tokenizer)
        until = handle_stop_sequences(
            list(options.until), self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        )
        index_of = {id(request): index for index, request in prompts.items()}
        rows = min(self.rows, len(prompts))
        plan.take_cores(self.arm.threads)
        for item in self.arm.decoder.generate(
            prompts.values(), options.sampling, stop, options.max_new_tokens, plan.seed, rows
        ):
            self.counts.update(sequences=1, tokens=len(item.tokens), target_calls=item.target_calls)
            yield index_of[id(item.request)], postprocess_generated_text(self.tok_decode(item.tokens), until, None)

    def _note(self, requests: list[Instance]) -> None:
        """Warn, once for each task, that its likelihoods are the target's."""
        new = {str(request.task_name) for request in requests} - self.unseen
        if new:
            self.unseen |= new
            names = ", ".join(sorted(new))
            log.warning("%s: likelihoods are the target's; such tasks do not see the arm '%s'", names, self.arm.name)


def _check_used(name: str) -> None:
    """Refuse a word of --model_args that has no effect on an lm-eval model. Errors: InputError."""
    key = name.lstrip("+~")
    word = key if key in _NOT_USED else key.partition(".")[0]
    if word in _NOT_USED and (word == key or word != "arms"):
        instead = _NOT_USED[word]
        advice = f"lm-eval has {instead}" if instead else "leave it out"
        raise InputError(f"'{name}' in --model_args has no effect on a model of lm-eval: {advice}.")


def _word(value: Any) -> str:
    """Write a value in the syntax of an override."""
    return value if isinstance(value, str) else canonical(value)
