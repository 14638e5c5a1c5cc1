"""Check that the models and peers can do what a run needs, before any weight is loaded. Collect notes for the reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdbench.errors import InputError
from sdbench.harness.arms import Arm
from sdbench.lm.early_exit import first_layers
from sdbench.models.family import Family, Member
from sdbench.models.skeleton import skeleton, try_out
from sdbench.sampling import Sampling


def check_early_exits(arms: Iterable[Arm], family: Family) -> None:
    """Refuse an early exit after a layer that the model does not have, or from a model whose first layers cannot run alone."""
    for arm in arms:
        for view in (*arm.views, *arm.exits):
            role, _, layers = view.partition("[")
            if layers:
                _check_early_exit(f"The arm '{arm.name}'", family.members[role], int(layers.rstrip("]")))


def _check_early_exit(arm: str, member: Member, layers: int) -> None:
    """Refuse one early exit. arm: begins the message. layers: of the exit. Raises: InputError."""
    depth = member.config.num_hidden_layers
    if not 0 < layers < depth:
        raise InputError(
            f"{arm} exits after {layers} layers; {member.spec.role} has {depth}, so choose 1 to {depth - 1}."
        )
    try:
        failure = try_out(first_layers(skeleton(member.config), layers, depth)).failure
    except InputError as error:
        raise InputError(f"{arm} cannot run: {error}") from error
    if failure:
        raise InputError(
            f"{arm} cannot run: the first {layers} layers of {member.spec.role} fail when they run alone ({failure})."
        )


def check_peers(arms: Iterable[Arm], family: Family, rows: int, sampling: Sampling, stop: Sequence[str]) -> None:
    """Refuse peers that do not support the settings of the run, or would not draw from the target's law. Raises: InputError."""
    for arm in arms:
        if arm.peer is None:
            continue
        try:
            arm.peer.check(rows, sampling, stop)
        except InputError as error:
            raise InputError(f"arms.{arm.name}: {error}") from error
        if family.defaults.rules and not arm.peer.applies_rules:
            raise InputError(
                f"arms.{arm.name}: {arm.peer.title} does not apply {', '.join(family.defaults.rules)}, which the target's "
                "generation_config asks for: leave the arm out, or take these fields out of generation_config.json."
            )
        widths = {role: family.members[role].width for role in sorted(arm.roles)}
        if arm.peer.one_width and len(set(widths.values())) > 1:
            shown = ", ".join(f"{role} has {width}" for role, width in widths.items())
            raise InputError(
                f"arms.{arm.name}: {arm.peer.title} needs embeddings with the same number of rows ({shown}): leave the arm out."
            )


def notes(family: Family, sampling: Sampling) -> list[str]:
    """Return the sentences on the models. A run prints them at its start, and writes them to its record and its report."""
    how = "greedy decoding (sampling.temperature=0)"
    if not sampling.greedy:
        how = f"sampling.temperature={sampling.temperature}, top_k={sampling.top_k}, top_p={sampling.top_p}"
    return [*family.defaults.notes(how), *family.notes]
