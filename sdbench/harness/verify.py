"""Check whether an arm is lossless on this family, in three ways. The third replaces the second if the run samples.

1. The oracle. It runs the arm's composition with short drafts on tabular models, and compares its exact output law with the
   target's. This proves the method as it is built from rule, proposer and bookkeeping.
2. Greedy identity on the real weights. The output must have the tokens of `generate` of transformers. Where the two part, the
   target's logits decide, also on what follows (`sdbench.harness.greedy_match`). Ties are counted apart; any other difference is a
   mismatch.
3. A distribution test on the real weights, if the run samples. Given its prefix, each token of a lossless method is a draw from
   the target's distribution p. Let A be a set that depends on the prefix alone. Then the sum of 1[token in A] - p(A) has mean 0
   and variance sum of p(A)(1 - p(A)). This gives a z-score. One set is the target's most likely token. Another set for each model
   below the target is the tokens that this model overrates (q > p). A verifier that accepts too much fails there.

A verdict states the number of tokens. For the third way it states the smallest shift of mass that the test finds.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import torch

from sdbench.analysis.stats.power import POWER
from sdbench.decoding.base import Finished, Request
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.harness.arms import Arm, make
from sdbench.harness.greedy_match import compared, scored
from sdbench.harness.plan import Plan, load
from sdbench.harness.run import leased
from sdbench.lm.model import LanguageModel
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling, warp

ORACLE_VOCABULARY, ORACLE_TOKENS = 2, 3
_SMALL_TREE = {"widths": [2], "depth": 2, "top_k": 2, "budget": 2}  # values of these knobs for the oracle
FINDS = 0.1  # of mass: a distribution test that finds no smaller shift says too little


@dataclass
class Finding:
    """Hold the results of the checks of one arm.

    oracle_tv: total variation from the target's law on tabular models. None for a peer: the oracle cannot enumerate its loop.
    tokens: number of the arm's tokens that the checks on real weights looked at.
    identical, ties, mismatches: numbers of prompts, if the run is greedy. tie_positions: number of tied tokens.
    z_scores: of the distribution test, by set, if the run samples. A score is infinite (null in JSON) if the target allows one
    token only and the arm gave another.
    z_limit: the largest absolute z-score that counts as lossless.
    detectable: by set, the smallest mean shift of its mass that the test finds in four of five cases. None if this exceeds 1.
    """

    arm: str
    oracle_tv: float | None
    tokens: int = 0
    identical: int = 0
    ties: int = 0
    mismatches: int = 0
    tie_positions: int = 0
    z_scores: dict[str, float] | None = None
    z_limit: float | None = None
    detectable: dict[str, float | None] | None = None

    @property
    def lossless(self) -> bool:
        """Say whether the arm passed every check."""
        far = (
            self.z_scores is not None
            and self.z_limit is not None
            and max(map(abs, self.z_scores.values()), default=0.0) > self.z_limit
        )
        return (self.oracle_tv is None or self.oracle_tv < LOSSLESS) and not self.mismatches and not far

    @property
    def verdict(self) -> str:
        """Return the verdict in words. An arm that passed a test of very few tokens is `not tested enough`."""
        if not self.lossless:
            return "NOT lossless"
        if self.detectable is None or any(shift is not None and shift <= FINDS for shift in self.detectable.values()):
            return "lossless"
        return "not tested enough"

    def document(self) -> dict[str, Any]:
        """Return the results as a mapping for JSON, without the arm's name."""
        found = {
            "lossless": self.lossless,
            "verdict": self.verdict,
            **{key: value for key, value in asdict(self).items() if key != "arm"},
        }
        if self.z_scores is not None:  # JSON has no infinity
            found["z_scores"] = {name: z if math.isfinite(z) else None for name, z in self.z_scores.items()}
        return found


def verify(plan: Plan) -> list[Finding]:
    """Check every arm of a plan on the plan's prompts. Raises: InputError for a masked diffusion model."""
    if plan.family.main.mask_token is not None:
        raise InputError(
            "sdbench verify compares with transformers' generate, which does not decode a masked diffusion model: sdbench run "
            "arms=[diffusion,diffusion_ssd] counts the answers that differ from stepwise decoding."
        )
    plan.take_cores()
    findings = {name: Finding(name, tv) for name, tv in _oracle(plan).items()}
    with leased(plan), ExitStack() as stack:
        models = load(plan)
        arms = make(plan.arm_configs, models, plan.encode)
        for arm in arms:
            stack.callback(arm.decoder.close)
            if arm.peer:
                arm.peer.open(plan.batch_size, plan.slots)
        _on_weights(plan, models, arms, findings)
    return list(findings.values())


def _on_weights(plan: Plan, models: dict[str, Transformer], arms: list[Arm], findings: dict[str, Finding]) -> None:
    """Add the results of the checks on real weights to the findings."""
    target = models["target"]
    if plan.sampling.greedy:
        expected = [_generated(target, tokens, plan) for _, tokens in plan.prompts]
        for arm in arms:
            _identity(findings[arm.name], arm, expected, target, plan)
    else:
        for arm in arms:
            _distribution(findings[arm.name], arm, models, plan)


def shortened(config: Any, length: int = 2) -> Any:
    """Return an arm's config with short drafts. The oracle visits every path, so long drafts would take too long.

    length: the longest draft of the outermost stage. Inner stages draft at most one token.
    """
    if not isinstance(config, dict):
        return config
    ahead = isinstance(config.get("proposer"), dict) and "fan_out" in config["proposer"]
    if ahead:
        # A server that drafts for every outcome multiplies the paths. So it drafts one token, for one outcome at each position.
        length = 1
    short = {key: shortened(value, 1) if key == "proposer" else deepcopy(value) for key, value in config.items()}
    if "fan_out" in short:
        short["fan_out"] = {"_target_": "sdbench.asynchronous.Uniform", "per_length": 1}
    short.update({name: value for name, value in _SMALL_TREE.items() if name in short})
    if "acceptance" in short and "budget" in short:
        short["acceptance"] = [0.6, 0.4]
    if "draft_length" in short:
        asked = short["draft_length"]
        short["draft_length"] = length if asked is None else min(asked, length)
    return short


def _oracle(plan: Plan) -> dict[str, float | None]:
    """Return, by arm, the total variation from the target's law on tabular models; None for a peer."""
    family = {role: TabularModel(role, ORACLE_VOCABULARY, seed) for seed, role in enumerate(plan.specs, start=1)}
    configs = {name: shortened(config) for name, config in plan.arm_configs.items()}
    arms = make(configs, dict(family), lambda text: [ord(letter) % ORACLE_VOCABULARY for letter in text])
    return {
        arm.name: None if arm.peer else distance_from_target(arm.decoder, family["target"], ORACLE_TOKENS)
        for arm in arms
    }


def _generated(target: Transformer, prompt: list[int], plan: Plan) -> list[int]:
    """Return the greedy output of `generate` of transformers for one prompt, under the rules of the model's generation config.

    It ends at stop strings like the output of an arm.
    """
    ids = torch.tensor([prompt], device=target.device)
    eos = None if plan.config["ignore_eos"] else list(plan.family.eos) or None
    generate: Any = target.model.generate
    out = generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=plan.max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=eos,
        pad_token_id=eos[0] if eos else 0,
    )
    tokens = out[0, len(prompt) :].tolist()
    return tokens[: plan.stop.start().push(tokens)]


def _identity(finding: Finding, arm: Arm, expected: list[list[int]], target: Transformer, plan: Plan) -> None:
    """Count the prompts on which the arm's tokens are the expected ones, differ by a tie, or are a mismatch."""
    requests = [Request(tokens, str(index)) for index, (_, tokens) in enumerate(plan.prompts)]
    finished = arm.decoder.generate(
        requests, Sampling(), plan.stop, plan.max_new_tokens, plan.seed, min(plan.batch_size, len(requests))
    )
    counts = Counter()
    for item in finished:
        wanted = expected[int(item.request.name)]
        counts.update(compared(plan, target, item.request.tokens, wanted, item.tokens), tokens=len(item.tokens))
    for name, count in counts.items():
        setattr(finding, name, count)


@torch.inference_mode()
def _distribution(finding: Finding, arm: Arm, models: dict[str, Transformer], plan: Plan) -> None:
    """Set the z-scores of the distribution test, their limit, and the shifts that the test finds."""
    target = models["target"]
    proposers = [model for model in arm.decoder.models if model.name != "target"]
    above: dict[str, list[float]] = {}
    requests = [
        Request(tokens, prompt.id, repeat)
        for repeat in range(plan.config["repeats"])
        for prompt, tokens in plan.prompts
    ]
    rows = min(plan.batch_size, len(requests))
    for item in arm.decoder.generate(requests, plan.sampling, plan.stop, plan.max_new_tokens, plan.seed, rows):
        finding.tokens += len(item.tokens)
        p = warp(scored(target, item.request.tokens, item.tokens, 0, plan.max_new_tokens).double(), plan.sampling)
        sets = {"most likely": torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).bool()}
        for model in proposers:
            sets[f"overrated by {model.name}"] = _proposed(model, item, plan.sampling).to(p.device) > p
        tokens = torch.tensor(item.tokens, device=p.device)
        for name, members in sets.items():
            mass = (p * members).sum(-1).clamp(0, 1)
            inside = members.gather(-1, tokens[:, None])[:, 0].double()
            total = above.setdefault(name, [0.0, 0.0])
            total[0] += float((inside - mass).sum())
            total[1] += float((mass * (1 - mass)).sum())
    finding.z_scores = {name: _z(total, variance) for name, (total, variance) in above.items()}
    # The test is two-sided. The sets share alpha (Bonferroni).
    tried = max(len(finding.z_scores), 1)
    finding.z_limit = NormalDist().inv_cdf(1 - plan.config["verify"]["alpha"] / (2 * tried))
    finding.detectable = {
        name: smallest_shift(variance, finding.tokens, finding.z_limit) for name, (_, variance) in above.items()
    }


def _z(total: float, variance: float) -> float:
    """Return the z-score of a sum. If the variance is 0 (such as with top_k=1), one wrong token makes it infinite."""
    if variance > 0:
        return total / math.sqrt(variance)
    return math.copysign(math.inf, total) if abs(total) > 0.5 else 0.0


def smallest_shift(variance: float, tokens: int, z_limit: float) -> float | None:
    """Return the smallest mean shift of a set's mass that the test finds with probability `POWER`, from 0 to 1; None if none.

    variance: the sum of p(A)(1 - p(A)) over the tokens. No test finds a shift that alters no token. So the shift is at least the
    one that alters a token with this probability.
    """
    if not tokens:
        return None
    effect = (z_limit + NormalDist().inv_cdf(POWER)) * math.sqrt(variance) / tokens
    shift = max(effect, 1 - (1 - POWER) ** (1 / tokens))
    return shift if shift <= 1 else None


def _proposed(model: LanguageModel, item: Finished, sampling: Sampling) -> torch.Tensor:
    """Return a proposer's distributions at the positions of the output's tokens, from one forward: [tokens, V], float64."""
    assert isinstance(model, Transformer)
    ids = model.ids.read(torch.tensor([item.request.tokens + item.tokens], device=model.device))
    logits = model.model(input_ids=ids, logits_to_keep=len(item.tokens) + 1).logits[0, :-1]
    return warp(model.ids.widen(logits).double(), sampling)


def table(findings: list[Finding]) -> str:
    """Return one line per arm, as text."""
    width = max(len(finding.arm) for finding in findings)
    lines = []
    for finding in findings:
        proof = "a peer: no oracle " if finding.oracle_tv is None else f"oracle TV {finding.oracle_tv:.1e}"
        line = f"{finding.arm:{width}s}  {finding.verdict:12s}  {proof}  {finding.tokens} tokens"
        if finding.z_scores is None:
            line += f"  identical {finding.identical}, ties {finding.ties}, mismatches {finding.mismatches}"
            line += f" ({finding.tie_positions} tied tokens)" if finding.tie_positions else ""
        else:
            scores = ", ".join(f"{name} z = {score:+.1f}" for name, score in finding.z_scores.items())
            line += f"  {scores} (limit {finding.z_limit:.1f}); {_finds(finding.detectable or {})}"
        lines.append(line)
    return "\n".join(lines)


def _finds(detectable: dict[str, float | None]) -> str:
    found = {name: shift for name, shift in detectable.items() if shift is not None}
    return (
        f"finds shifts of mass over {', '.join(f'{shift:.2g} ({name})' for name, shift in found.items())}"
        if found
        else ("too few tokens to find any shift of mass")
    )
