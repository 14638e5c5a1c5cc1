"""Simulate the rows of a run record with known step times and acceptance, without a model or a clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdbench.analysis.metrics.summary import ArmMeta
from sdbench.lm.trace import Edge

Rows = dict[str, list[dict[str, Any]]]

TARGET_SECONDS, QUALIFIER_SECONDS, DRAFT_SECONDS = 10e-3, 3.5e-3, 1.3e-3
PER_TOKEN = 0.03  # share by which each further token makes a forward longer
HOST_SECONDS = 0.2e-3  # per verification
BARE_SHARE = 0.95  # of a step's time


def forward_seconds(role: str, tokens: int) -> float:
    """Compute the time of a step over some new tokens."""
    one = {"target": TARGET_SECONDS, "qualifier": QUALIFIER_SECONDS, "draft": DRAFT_SECONDS}[role]
    return one * (1 + PER_TOKEN * (tokens - 1))


@dataclass
class Arm:
    """An arm. stages: (proposer, draft length, acceptance probability) from the target inwards; none: it decodes alone."""

    name: str
    stages: tuple[tuple[str, int, float], ...] = ()
    lossless: bool = True
    right: float = 0.9
    cut_buffer: bool = False

    @property
    def config(self) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for _, length, _ in reversed(self.stages):
            nested = {"draft_length": length, **({"proposer": nested} if nested else {})}
        return nested


class Simulation:
    """Decode one block of one sequence under one arm."""

    def __init__(self, arm: Arm, block: int, repeat: int, generator: np.random.Generator, slowness: float) -> None:
        self.arm, self.generator, self.slowness = arm, generator, slowness
        self.keys = {"arm": arm.name, "block": block, "repeat": repeat}
        self.rows: Rows = {"sequences": [], "rounds": [], "steps": []}
        self.round = self.context = 0
        self.seconds = 0.0

    def run(self, tokens: int) -> Rows:
        prompt = {"prompt_id": f"p{self.keys['block']}"}
        calls, emitted, limit = 0, 0, tokens - 1
        while emitted < limit:
            self.context = 20 + emitted
            emitted += self.verified("target", self.arm.stages, limit - emitted)
            calls += 1
            self.round += 1
        ids = np.random.default_rng(self.keys["block"]).integers(0, 500, tokens).tolist()
        self.rows["sequences"].append(
            {
                **self.keys,
                **prompt,
                "category": "",
                "prompt_tokens": 20,
                "tokens": ids,
                "text": " ".join(map(str, ids)),
                "finish_reason": "eos",
                "score": float(self.generator.random() < self.arm.right),
                "first_token_seconds": 0.02,
                "prefill_seconds": 0.03,
                "decode_seconds": self.seconds,
                "block_decode_seconds": self.seconds,
                "target_calls": calls,
            }
        )
        for row in self.rows["rounds"]:
            row.update(prompt)
        return self.rows

    def verified(self, verifier: str, stages: tuple[tuple[str, int, float], ...], room: int | None) -> int:
        """Simulate a round of a verifier: propose and verify. Return the number of emitted tokens."""
        if not stages:
            self.step(verifier, "verify" if verifier == "target" else "draft", 1)
            self.note(Edge("", verifier), 0, 0, 0, 1)
            return 1
        (proposer, length, chance), inner = stages[0], stages[1:]
        proposed = tried = 0
        while proposed < length:
            if inner:
                before = len(self.rows["rounds"])
                proposed += self.verified(proposer, inner, None)
                for row in self.rows["rounds"][before:]:
                    row["inner_round"] = tried
                tried += 1
            else:
                self.step(proposer, "draft", 1)
                proposed += 1
        if self.arm.cut_buffer:
            proposed = min(proposed, length)
        self.step(verifier, "verify", proposed + 1)
        accepted = int(np.argmax(np.append(self.generator.random(proposed) >= chance, True)))
        emitted = accepted + 1 if room is None else min(accepted + 1, room)
        self.note(Edge(proposer, verifier), 0, proposed, accepted, emitted)
        return emitted

    def step(self, role: str, kind: str, tokens: int) -> None:
        seconds = forward_seconds(role, tokens) * self.slowness
        self.seconds += seconds + (HOST_SECONDS if kind == "verify" else 0.0)
        shape = {"round": self.round, "role": role, "kind": kind, "rows": 1, "tokens": tokens, "context": self.context}
        self.rows["steps"].append({**self.keys, **shape, "seconds": seconds})

    def note(self, edge: Edge, inner_round: int, proposed: int, accepted: int, emitted: int) -> None:
        self.rows["rounds"].append(
            {
                **self.keys,
                "edge": str(edge),
                "proposer": edge.proposer,
                "verifier": edge.verifier,
                "round": self.round,
                "inner_round": inner_round,
                "proposed": proposed,
                "accepted": accepted,
                "emitted": emitted,
                "outcome": "bonus" if accepted == proposed else "correction",
            }
        )


def bare_rows(longest: int = 40) -> list[dict[str, Any]]:
    """Make reference forwards of every shape at two contexts."""
    return [
        {"role": role, "rows": 1, "tokens": n, "context": at, "seconds": BARE_SHARE * forward_seconds(role, n)}
        for role in ("target", "qualifier", "draft")
        for n in range(1, longest)
        for at in (10, 400)
    ]


def rows(arms: Iterable[Arm], prompts: int, repeats: int = 1, seed: int = 0, tokens: int = 60) -> Rows:
    """Make the rows of a whole run at batch size 1."""
    made: Rows = {"sequences": [], "rounds": [], "steps": [], "bare": bare_rows()}
    for block in range(prompts):
        # The pace of the machine differs between prompts; pairing cancels it.
        slowness = float(np.random.default_rng((seed, block)).uniform(0.9, 1.1))
        for repeat in range(repeats):
            for index, arm in enumerate(arms):
                generator = np.random.default_rng((seed, block, repeat, index))
                for name, part in Simulation(arm, block, repeat, generator, slowness).run(tokens).items():
                    made[name] += part
    return made


def meta(arms: Iterable[Arm]) -> dict[str, ArmMeta]:
    """Make the facts that `summarise` needs about the arms."""
    return {
        arm.name: ArmMeta(
            lossless=arm.lossless, devices=["cpu"], mode="natural", memory_bytes=1_000_000, config=arm.config
        )
        for arm in arms
    }


AR = Arm("ar")
SD = Arm("sd", (("draft", 4, 0.8),))
SD_QUALIFIER = Arm("sd_qualifier", (("qualifier", 4, 0.93),))
FSD = Arm("fsd", (("draft", 6, 0.9),), lossless=False, right=0.8)
PYRAMID = Arm("pyramid", (("qualifier", 8, 0.9), ("draft", 3, 0.85)))
PSD_ASSISTED = Arm("psd_assisted", (("qualifier", 10, 0.95), ("draft", 4, 0.85)), lossless=False, right=0.85)
PSD_FUZZY = Arm("psd_fuzzy", (("qualifier", 10, 0.96), ("draft", 5, 0.93)), lossless=False, right=0.7)
