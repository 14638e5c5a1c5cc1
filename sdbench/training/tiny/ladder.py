"""Measure a trained family: the accuracy of each model on held-out texts, and the agreement between the models."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench.tasks.texts import GENERATORS, Text, final_answer, generate
from sdbench.tasks.texts.records import matches
from sdbench.training.tiny.accuracy import held_out
from sdbench.training.tiny.greedy import agreement, greedy_answers
from sdbench.training.tiny.recipe import ROLES

LADDER_SEED = 2  # differs from the seed of the texts that training watches
_CACHED_TOKENS = 128
_TIMED_STEPS = 100


@dataclass(frozen=True)
class Rung:
    """The range that a model's share of correct word problems must be in."""

    least: float
    most: float


RUNGS = {"target": Rung(0.85, 1.0), "qualifier": Rung(0.45, 0.75), "draft": Rung(0.0, 0.30)}
LEAST_AGREEMENT = 0.80  # least agreement of the draft with the target on word problems


@dataclass(frozen=True)
class Ladder:
    """The measured values of a family.

    texts: the number of texts of each kind. exact, agreement_with_target: shares from 0 to 1, by kind and role. loss: nats per
    completion token, by kind and role. answer_tokens: the mean length of the target's answers, by kind. forward_ms: milliseconds
    of a one-token forward, by role.
    """

    texts: int
    parameters: dict[str, int]
    exact: dict[str, dict[str, float]]
    agreement_with_target: dict[str, dict[str, float]]
    loss: dict[str, dict[str, float]]
    answer_tokens: dict[str, float]
    forward_ms: dict[str, float]

    def faults(self) -> list[str]:
        """List the requirements that the family misses, one sentence each."""
        found = []
        for role, rung in RUNGS.items():
            share = self.exact["wordproblems"][role]
            if not rung.least <= share <= rung.most:
                found.append(f"{role}: {share:.3f} of word problems right, asked: {rung.least} to {rung.most}")
        agreed = self.agreement_with_target["wordproblems"]["draft"]
        if agreed < LEAST_AGREEMENT:
            found.append(f"draft: agreement with the target {agreed:.3f}, asked: {LEAST_AGREEMENT} or more")
        return found

    def as_dict(self) -> dict[str, object]:
        """Return the values as plain mappings."""
        return asdict(self)


def _right(text: Text, written: str) -> bool:
    if text.kind == "wordproblems":
        return final_answer(written) == text.answer
    return matches(written, text.completion)


@torch.inference_mode()
def forward_ms(model: LlamaForCausalLM) -> float:
    """Measure the median time of a one-token forward after `_CACHED_TOKENS` tokens, in milliseconds."""
    model.eval()
    tokens = torch.full((1, _CACHED_TOKENS), 5)
    cache = model(input_ids=tokens, use_cache=True).past_key_values
    times = []
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)
        times.append(time.perf_counter() - started)
        cache.crop(-1)
    return sorted(times)[len(times) // 2] * 1e3


def measure(models: Mapping[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast, texts: int) -> Ladder:
    """Measure a family on `texts` held-out texts of each kind. Models decode greedily until the end of sequence."""
    exact: dict[str, dict[str, float]] = {}
    agreed: dict[str, dict[str, float]] = {}
    lengths: dict[str, float] = {}
    for kind in GENERATORS:
        held = [generate(kind, "test", LADDER_SEED, index) for index in range(texts)]
        prompts = [text.prompt for text in held]
        answers = {role: greedy_answers(models[role], tokenizer, prompts) for role in ROLES}
        agreed[kind] = {
            role: agreement(models[role], tokenizer, prompts, answers["target"]) for role in ("qualifier", "draft")
        }
        lengths[kind] = sum(map(len, answers["target"])) / texts
        if held[0].answer is not None:
            exact[kind] = {
                role: sum(
                    _right(text, str(tokenizer.decode(answer, skip_special_tokens=True)))
                    for text, answer in zip(held, answers[role], strict=True)
                )
                / texts
                for role in ROLES
            }
    watched = {role: held_out(models[role], tokenizer, GENERATORS) for role in ROLES}
    return Ladder(
        texts=texts,
        parameters={role: models[role].num_parameters() for role in ROLES},
        exact=exact,
        agreement_with_target=agreed,
        loss={kind: {role: watched[role][f"{kind}_loss"] for role in ROLES} for kind in GENERATORS},
        answer_tokens=lengths,
        forward_ms={role: round(forward_ms(models[role]), 3) for role in ROLES},
    )
