"""Where the time of a round goes, part by part: what is a forward, and what is the loop around it.

python -m experiments.bench.rounds OUT [overrides of `sdbench run`: hardware.execution=compile, sampling.temperature=0.7, ...]

The parts are timed by clocks around the calls of the very decoder that is measured elsewhere, so they include what the clocks cost
(a microsecond each). Forwards are what the trace says. Medians over the rounds, after a warm-up that makes the programs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import sdbench.decoding.speculative as loop
from experiments.script import script
from sdbench.decoding.base import Request
from sdbench.decoding.speculative import Batch, Speculative
from sdbench.harness.arms import make
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.lm.trace import Trace
from sdbench.runs.environment import environment

ARMS = ["arms=[ar,sd]", "arms.sd.grid.draft_length=[3,5]", "limit=12"]
PARTS = {
    "draft forwards": "the draft's steps",
    "drafting": "around them: choosing, placing, the record of ranks",
    "verify forward": "the target's step",
    "verifying": "around it: its inputs, its record",
    "verdict": "the wait for the device, the acceptance rule, drawing from its law, and what follows as lists",
    "host": "the stop rule, the record, the loop itself",
}


class Clocked(Batch):
    """A batch that notes how long each part of each round takes."""

    seconds: dict[str, list[float]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds = defaultdict(list)
        Clocked.latest = self

    latest: Clocked

    def _round(self):
        spent: dict[str, float] = defaultdict(float)
        method, trace = self.method, self.state.trace
        propose, read, judge, first = method.proposer.propose, method.target.read, loop.verify, len(trace.steps)

        def clocked(name: str, call: Any) -> Any:
            def timed(*given: Any, **named: Any) -> Any:
                begun = perf_counter()
                try:
                    return call(*given, **named)
                finally:
                    spent[name] += perf_counter() - begun

            return timed

        own: Any = method
        own.proposer.propose, own.target.read = clocked("drafting", propose), clocked("verifying", read)
        loop.verify = clocked("verdict", judge)
        begun = perf_counter()
        try:
            yield from super()._round()
        finally:
            whole = perf_counter() - begun
            del own.proposer.propose, own.target.read
            loop.verify = judge
        made = trace.steps[first:]
        forwards = {kind: sum(s["seconds"] for s in made if s["kind"] == kind) for kind in ("draft", "verify")}
        drafting, verifying, verdict = (spent[name] for name in ("drafting", "verifying", "verdict"))
        for name, value in {
            "draft forwards": forwards["draft"],
            "drafting": drafting - forwards["draft"],
            "verify forward": forwards["verify"],
            "verifying": verifying - forwards["verify"],
            "verdict": verdict,
            "host": whole - drafting - verifying - verdict,
            "round": whole,
        }.items():
            self.seconds[name].append(value)


def profile(overrides: list[str]) -> dict[str, Any]:
    """Milliseconds of each part, by arm."""
    plan = prepare(compose([*ARMS, *overrides]))
    found = {}
    for arm in make(plan.arm_configs, load(plan)):
        decoder = arm.decoder
        assert isinstance(decoder, Speculative)
        decoder.batch = Clocked
        plan.take_cores(arm.threads)
        requests = [Request(tokens, prompt.id) for prompt, tokens in plan.prompts]
        for few in (requests, requests):
            for _ in decoder.generate(
                few, plan.sampling, plan.stop, plan.max_new_tokens, plan.seed, plan.batch_size, Trace()
            ):
                pass
        parts = {name: 1e3 * float(np.median(values)) for name, values in Clocked.latest.seconds.items()}
        found[arm.name] = {"rounds": len(Clocked.latest.seconds["round"]), "milliseconds": parts}
    hardware = plan.config["hardware"]
    return {
        "execution": hardware["execution"],
        "temperature": plan.sampling.temperature,
        "machine": environment()["cpu"],
        "arms": found,
    }


def text(found: dict[str, Any]) -> str:
    """The profile in Markdown."""
    drawn = f"temperature {found['temperature']}" if found["temperature"] else "greedy"
    arms = found["arms"]
    lines = [
        f"{found['execution']}, {drawn}: milliseconds of a round, medians over the rounds.",
        "",
        f"| part | {' | '.join(f'`{name}`' for name in arms)} | what it is |",
        f"| --- | {' | '.join('---:' for _ in arms)} | --- |",
    ]
    for part, meaning in {**PARTS, "round": "all of it"}.items():
        cells = " | ".join(f"{arm['milliseconds'][part]:.3f}" for arm in arms.values())
        lines.append(f"| {part} | {cells} | {meaning} |")
    return "\n".join(lines) + "\n"


def main(out_folder: str, *overrides: str) -> None:
    out, found = Path(out_folder), profile(list(overrides))
    out.mkdir(parents=True, exist_ok=True)
    name = f"{found['execution']}-{'sampled' if found['temperature'] else 'greedy'}"
    (out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / f"{name}.md").write_text(text(found))
    print(text(found))


if __name__ == "__main__":
    script(main, __doc__, 1, more=True)
