"""Describe a run, and say whether it fits, without loading weights. This also works for models that are not on this machine."""

from __future__ import annotations

from typing import Any

from sdbench.errors import InputError
from sdbench.harness.plan import memory, prepare
from sdbench.models.memory import GB

# If the plan cannot be made, the number of slots is unknown. The estimate then assumes these numbers of tokens.
ASSUMED_PROMPT = 1024
ASSUMED_NEW = 512


def describe(config: dict[str, Any]) -> tuple[str, bool]:
    """Return the plan of a run in a few lines, and whether it can run on this machine."""
    lines, runs = [], True
    try:
        plan = prepare(config)
    except InputError as error:
        runs = False
        slots = ASSUMED_PROMPT + (config["max_new_tokens"] or ASSUMED_NEW)
        found = memory(config, slots)
        lines.append(f"cannot run here yet: {error}")
        lines.append(f"memory, estimated for {slots} slots a row:")
    else:
        found = memory(config, plan.slots)
        lines.append(
            f"{len(plan.arm_configs)} arms x {len(plan.prompts)} prompts x {config['repeats']} repeats of {plan.task.name}, "
            f"in {len(plan.blocks)} blocks of {plan.batch_size}; at most {plan.max_new_tokens} new tokens; {plan.mode} stops"
        )
        for arm in plan.stub_arms:
            kind = "lossless" if arm.decoder.lossless else "lossy"
            lines.append(f"  {arm.name}: {kind}; steps {', '.join(arm.views)}")
        lines += plan.notes
        lines.append(f"memory, {plan.slots} slots a row:")
    for role in found.roles:
        weights = "unknown" if role.weight_bytes is None else f"{role.weight_bytes / GB:.2f} GB of weights"
        cache = "" if role.cache_bytes is None else f", {role.cache_bytes / GB:.2f} GB of slots"
        lines.append(f"  {role.role} on {role.device}: {weights}{cache}")
    lines += [f"  {device}" for device in found.devices]
    return "\n".join(lines), runs
