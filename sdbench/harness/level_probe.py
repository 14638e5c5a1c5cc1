"""Measure what the choice of a chain of levels needs: the times of each level, and what it picks along the target's answers.

The levels are the models of a family, two early exits of the target, and prompt look-up. Every model reads the target's greedy
answers once, which gives its first choice at each place. Look-up copies tokens at each place, or none.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sdbench.drafting.lookup import PromptLookup
from sdbench.harness.plan import Plan, load
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler, Sampling
from sdbench.simulate.chain_replay import TARGET, Answers
from sdbench.theory.hierarchies import Chain

LOOKUP = {"max_ngram": 10, "min_ngram": 2, "match": "first", "per_match": 2}  # as in conf/arms/lookup.yaml
EXITS = (4, 2)  # an early exit after the depth over each of these
LONGEST = 16  # the most tokens that a level asks of the next one
WIDTHS = (
    1,
    2,
    3,
    5,
    9,
    LONGEST + 1,
    2 * LONGEST + 1,
)  # tokens of the timed passes; a level may hand up more than was asked
REPEATS = 15

Texts = Sequence[tuple[Sequence[int], Sequence[int]]]  # prompt and the target's answer, in tokens


def config_of_all_roles(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose one arm steps every model of the family, so that a plan checks and loads all of them."""
    below = [role for role in config["models"] if role != "target"]
    arm: dict[str, Any] = {"_target_": "sdbench.decoding.Speculative", "verifier": "target"}
    if below:
        proposer = {"_target_": "sdbench.drafting.hierarchy", "levels": below, "lengths": [1] * (len(below) - 1)}
        arm |= {"draft_length": LONGEST, "proposer": proposer}
    return {**config, "arms": {"levels": arm}, "baseline": None}


@dataclass(frozen=True)
class LevelProbe:
    """Hold what was measured of the levels.

    times: by level, the seconds of a pass by its new tokens; the fastest level first, the target last. answers: the target's, with
    what each level picks along them. search: the seconds of a look-up.
    """

    times: dict[str, dict[int, float]]
    answers: Answers
    search: float


def measure_levels(plan: Plan, texts: Texts) -> LevelProbe:
    """Measure the levels that are faster than the target.

    plan: of `config_of_all_roles`. texts: the target's greedy answers.
    """
    family = load(plan)
    target = family[TARGET]
    depths = dict.fromkeys(target.layers // share for share in EXITS if target.layers // share > 0)
    views: list[LanguageModel] = [target.truncated(depth) for depth in depths if depth < target.layers]
    models: list[LanguageModel] = [*(model for role, model in family.items() if role != TARGET), *views]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts) + WIDTHS[-1]
    target.allocate(1, longest)
    for model in models:
        model.allocate(1, longest)
    with torch.inference_mode():
        # An early exit takes over what the target has read, so the target reads nothing before this is done.
        picked = {model.name: [token for text in texts for token in _choices(model, *text)] for model in models}
        times = _times([*models, target], texts)
    ordered = sorted((name for name in picked if times[name][1] < times[TARGET][1]), key=lambda name: times[name][1])
    copied, search = _copied(texts)
    answers = Answers(
        tokens=[int(token) for _, answer in texts for token in answer],
        before=[int(token) for prompt, answer in texts for token in (prompt[-1], *answer[:-1])],
        starts=[0, *np.cumsum([len(answer) for _, answer in texts])[:-1].tolist()],
        choices={name: picked[name] for name in ordered},
        copied=copied,
        views=frozenset(model.name for model in views),
    )
    return LevelProbe({name: times[name] for name in (*ordered, TARGET)}, answers, search)


def _state(text: Sequence[int], slots: int, device: torch.device, length: int) -> DecodeState:
    tokens = torch.zeros(1, slots, dtype=torch.long, device=device)
    tokens[0, : len(text)] = torch.tensor(text)
    trace = Trace(sequence=[0], sequence_round=[0])
    return DecodeState(tokens, np.array([length]), np.ones(1, bool), Sampler(Sampling()), trace)


def _choices(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """Return the model's first choice at each place of the answer."""
    text = [*prompt, *answer]
    model.reset(0)
    state = _state(text, model.slots, model.device, len(text))
    logits = model.read(state, [len(text) - 1], "prefill", num_logits=len(answer), row=0).logits
    return logits[0].argmax(-1).tolist()


def _times(models: Sequence[LanguageModel], texts: Texts) -> dict[str, dict[int, float]]:
    """Return the median seconds of each model's passes, by their number of new tokens.

    The passes start behind the middle of the longest text. The models take turns, as in decoding. So a busy machine slows all of
    them, and no model finds its weights in a cache that it would not find there.
    """
    prompt, answer = max(texts, key=lambda text: len(text[0]) + len(text[1]))
    text = [*prompt, *answer]
    middle = min(len(prompt) + len(answer) // 2, *(model.max_positions - WIDTHS[-1] for model in models))
    states = {model.name: _state(text, model.slots, model.device, middle) for model in models}
    for model in models:
        model.reset(0)
        model.read(states[model.name], [middle], "prefill", row=0)
        model.keep([middle])
    for _ in range(REPEATS + 1):
        for width in WIDTHS:
            for model in models:
                model.read(states[model.name], [middle + width], "verify", num_logits=width)
                model.keep([middle])
    found = {}
    for name, state in states.items():
        state.trace.close()
        seconds = [step["seconds"] for step in state.trace.steps if step["kind"] == "verify"]
        # The first round warms up.
        found[name] = {
            width: float(np.median(seconds[len(WIDTHS) + place :: len(WIDTHS)])) for place, width in enumerate(WIDTHS)
        }
    return found


def _copied(texts: Texts) -> tuple[list[list[int]], float]:
    """Return the tokens that look-up copies at each place of the answers, and the seconds of a search."""
    proposer, found, spent = PromptLookup(**LOOKUP), [], 0.0
    for prompt, answer in texts:
        line = torch.tensor([*prompt, *answer])
        for end in range(len(prompt), len(line)):
            state = DecodeState(line[None], np.array([end]), np.ones(1, bool), Sampler(Sampling()), Trace())
            begun = perf_counter()
            draft = proposer.propose(state, LONGEST, Key(np.zeros(1, np.uint64), [0]))
            spent += perf_counter() - begun
            found.append(draft.tokens[0, : int(draft.length[0])].tolist())
    return found, spent / max(len(found), 1)


def command(chain: Chain) -> str:
    """Return the command that runs a chain beside the target alone."""
    below = list(chain.levels[1:])
    if not below:
        return "sdbench run arms=[ar]"
    knob = "arms.hierarchy.proposer"
    words = ["arms=[ar,hierarchy]", f"arms.hierarchy.draft_length={chain.lengths[0]}"]
    if below[-1] == "lookup":
        below.pop()
        knobs = ",".join(f"{name}:{value}" for name, value in LOOKUP.items())
        words.append(f"{knob}.leaf={{_target_:sdbench.drafting.PromptLookup,{knobs}}}")
    roles = ",".join(f"'{name}'" if "[" in name else name for name in below)
    words += [f"{knob}.levels=[{roles}]", f"{knob}.lengths=[{','.join(map(str, chain.lengths[1:]))}]"]
    return " ".join(["sdbench run", *map(shlex.quote, words)])
