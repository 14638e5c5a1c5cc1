"""Check that the models and peers can do what a run needs, before any weight is loaded. Collect notes for the reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sdbench.acceptance.divergence import UNBOUNDED, Divergence
from sdbench.decoding.diffusion import StepwiseDiffusion, check_greedy
from sdbench.decoding.scoring import Plain
from sdbench.decoding.speculative import Speculative
from sdbench.drafting.parallel import mask_in
from sdbench.errors import InputError
from sdbench.harness.arms import Arm
from sdbench.heads.config import HeadConfig
from sdbench.heads.exit_config import ExitConfig
from sdbench.lm.early_exit import first_layers
from sdbench.lm.programs.modes import check_execution
from sdbench.models.family import Family, Member
from sdbench.models.identity import model_identity
from sdbench.models.skeleton import is_recurrent, other_than_full_attention, skeleton, try_out
from sdbench.models.spec import ModelSpec
from sdbench.peers.generation import check_float32
from sdbench.sampling import Sampling


def check_own_quantization(family: Family, mode: str) -> None:
    """Refuse an execution mode that cannot run a checkpoint which its own config.json quantises. Raises: InputError."""
    for role, member in family.members.items():
        own = getattr(member.config, "quantization_config", None)
        if own is not None:
            method = own.get("quant_method") if isinstance(own, dict) else getattr(own, "quant_method", None)
            check_execution(role, mode, "cpu", str(getattr(method, "value", method)))


def check_diffusion(arms: Iterable[Arm], family: Family, sampling: Sampling, mode: str, parallel: bool) -> None:
    """Refuse an arm over a target of another class, and settings that no arm of a masked diffusion model has. Raises: InputError.

    mode: of execution. parallel: whether the target is tensor-parallel.
    """
    for arm in arms:
        diffuses = isinstance(arm.decoder, StepwiseDiffusion)
        for role in sorted(arm.roles):
            masked = family.members[role].mask_token is not None
            if masked and not diffuses:
                raise InputError(
                    f"The arm '{arm.name}' decodes token by token, but {role} is a masked diffusion model: take "
                    "arms=[diffusion,diffusion_ssd]."
                )
            if diffuses and not masked:
                raise InputError(
                    f"The arm '{arm.name}' needs a masked diffusion model, but the config.json of {role} lacks is_causal=false and "
                    "mask_token_id: take models=tiny_diffusion, or another arm."
                )
        if not diffuses:
            continue
        check_greedy(sampling)
        if mode != "eager" or parallel:
            raise InputError(
                f"The arm '{arm.name}' runs eagerly and on one device: leave out hardware.execution={mode} and tensor parallelism."
            )
        if family.defaults.rules:
            raise InputError(
                f"The arm '{arm.name}' does not apply {', '.join(family.defaults.rules)}, which the target's generation_config "
                "asks for: take these fields out of generation_config.json."
            )


def check_divergences(arms: Iterable[Arm], family: Family) -> None:
    """Refuse a fuzzy rule whose divergence is infinite wherever the draft lacks a token of the target. Raises: InputError."""
    for arm in arms:
        for rule, proposer in arm.rules:
            divergence, role = getattr(rule, "divergence", None), proposer.partition("[")[0]
            if not isinstance(divergence, Divergence) or role not in family.members:
                continue
            if (
                divergence.name in UNBOUNDED
                and divergence.top_k is None
                and family.members[role].vocabulary is not None
            ):
                raise InputError(
                    f"The arm '{arm.name}': the divergence {divergence.name} is infinite where {role} cannot propose a token of "
                    f"the target (models.{role}.vocabulary), so the rule would keep nothing: take divergence=js or tv."
                )


def check_recurrent(arms: Iterable[Arm], family: Family, mode: str, parallel: bool) -> None:
    """Refuse an arm that a model with recurrent layers cannot run (`sdbench.lm.recurrent`). Raises: InputError.

    mode: of execution. parallel: whether the target is tensor-parallel.
    """
    for arm in arms:
        recurrent = [role for role in sorted(arm.roles) if is_recurrent(family.members[role].config)]
        if arm.peer is not None or not recurrent:
            continue
        role, what = recurrent[0], None
        exits = [one for one in recurrent if any(view.startswith(f"{one}[") for view in (*arm.views, *arm.exits))]
        served = [one for one in recurrent if one in arm.elsewhere]
        if mode != "eager":
            what = f"hardware.execution={mode}: take eager"
        elif parallel:
            what = "tensor parallelism: leave it out"
        elif exits:
            role, what = exits[0], "early exits: take an arm without them, such as sd or lookup"
        elif served:
            role, what = served[0], "a server of drafts: take an arm that drafts in the same process, such as sd"
        elif any(family.members[one].spec.head_of is not None for one in arm.roles):
            what = "heads that read its hidden states: take an arm with a draft model or a look-up"
        elif type(arm.decoder) is not Speculative or arm.trees or not isinstance(arm.decoder.scoring, Plain):
            what = "token trees or several branches: take an arm that drafts chains, such as sd or lookup"
        if what is not None:
            raise InputError(
                f"The arm '{arm.name}' cannot run: {role} has recurrent layers, which do not support {what}."
            )


def check_early_exits(arms: Iterable[Arm], family: Family) -> None:
    """Refuse an early exit after a layer that the model does not have, or from a model whose first layers cannot run alone.

    A view reads the cache of its whole model, so the arm must step that model too.
    """
    for arm in arms:
        for view in (*arm.views, *arm.exits):
            role, _, layers = view.partition("[")
            if layers:
                if role not in arm.views:
                    raise InputError(
                        f"The arm '{arm.name}' steps {view}, which reads the cache of {role}, but not {role} itself: take {role} "
                        f"as a level too, or a role with derive.layers={layers.rstrip(']')}, which has a cache of its own."
                    )
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


def check_heads(arms: Iterable[Arm], family: Family, parallel: bool) -> None:
    """Refuse a head without the model that it reads, or in another process than this model. parallel: the target has ranks.

    Raises: InputError.
    """
    for arm in arms:
        for role in arm.masks_in_config:
            mask_in(f"models.{role}", family.members[role].config)
        for role in sorted(arm.roles):
            base = family.members[role].spec.head_of
            _check_depth(arm, role, family.members[role].head)
            if base is None:
                continue
            if base not in arm.views:
                raise InputError(
                    f"The arm '{arm.name}' steps {role}, which reads the hidden states of {base}, but not {base} itself: take an "
                    f"arm in which {base} verifies."
                )
            if role in arm.elsewhere or parallel:
                raise InputError(
                    f"The arm '{arm.name}' drafts with {role} in another process than {base}, whose hidden states it reads: take "
                    "an arm that drafts in the same process, such as eagle3, without tensor_parallel."
                )


def _check_depth(arm: Arm, role: str, head: HeadConfig | ExitConfig | None) -> None:
    """Refuse a head in the wrong kind of drafter, or a draft that is deeper than its head. Raises: InputError."""
    wanted, depth = arm.one_pass.get(role), getattr(head, "depth", None)
    if wanted is None and depth is not None:
        raise InputError(
            f"The arm '{arm.name}' reads {role} token by token, but {role} is a head that predicts {depth} tokens in one pass: "
            "take an arm such as medusa, or sdbench.drafting.ParallelDrafter."
        )
    if wanted is not None and depth is None:
        raise InputError(
            f"The arm '{arm.name}' drafts several tokens in one pass of {role}, which is no such head: give a head that is, or set "
            "proposer.mask_token to the mask of a draft model that was trained with one."
        )
    # The file of a published head says its depth.
    published = getattr(head, "kind", "") == "medusa" and head is not None and head.layers is None
    if wanted is not None and depth is not None and wanted > depth and not published:
        raise InputError(
            f"The arm '{arm.name}' drafts {wanted} tokens, but {role} predicts {depth}: draft at most {depth}."
        )


def check_reencoding(arms: Iterable[Arm], family: Family) -> None:
    """Refuse an arm that steps a model with another tokenizer as if it had the target's, and the opposite. Raises: InputError."""
    for arm in arms:
        for role in sorted(arm.roles):
            asked = family.members[role].vocabulary
            text = asked is not None and asked.kind == "reencode"
            users, drafters = [view.partition("[")[0] for view in arm.views].count(role), arm.reencoded.count(role)
            if text and users > drafters:
                raise InputError(
                    f"The arm '{arm.name}' needs tokens of the target from {role}, which models.{role}.vocabulary=reencode lets "
                    f"write text of its own: take sd_reencode, a chain of sdbench.drafting.ReencodedDrafter, or intersection."
                )
            if drafters and not text:
                raise InputError(
                    f"The arm '{arm.name}' encodes text of {role} again: set models.{role}.vocabulary=reencode."
                )


def check_trained_policies(arms: Iterable[Arm], specs: Mapping[str, ModelSpec]) -> None:
    """Refuse a length policy that was trained for another draft than the one whose tokens it judges. Raises: InputError."""
    for arm in arms:
        for name, policy in arm.trained_policies:
            role, view, layers = name.partition("[")
            if f"{model_identity(specs[role])}{view}{layers}" != policy.trained_for:
                raise InputError(
                    f"The arm '{arm.name}': lengths.weights belongs to another draft than {name} ({specs[role].path}): train a "
                    "network for this one, by `sdbench train`."
                )


def check_branch_networks(arms: Iterable[Arm], specs: Mapping[str, ModelSpec]) -> None:
    """Refuse a classifier of SpecBranch that was trained for other models. Raises: InputError."""
    for arm in arms:
        for verifier, draft, *wanted in arm.branch_networks:
            if verifier not in arm.views:
                raise InputError(
                    f"The arm '{arm.name}': proposer.verifier is {verifier}, which does not step in this arm: name the model that "
                    "verifies the drafts."
                )
            for role, identity in zip((verifier, draft), wanted, strict=True):
                if model_identity(specs[role]) != identity:
                    raise InputError(
                        f"The arm '{arm.name}': proposer.classifier was trained for another model than {role} "
                        f"({specs[role].path}): train one for this family, by `sdbench train recipe=branch_classifier`."
                    )


def check_peers(
    arms: Iterable[Arm],
    family: Family,
    rows: int,
    sampling: Sampling,
    stop: Sequence[str],
    placed: Mapping[str, tuple[str, str]],
) -> None:
    """Refuse peers that do not support the settings of the run, or would not draw from the target's law.

    placed: by role, the dtype and the device of the model. Raises: InputError.
    """
    for arm in arms:
        if arm.peer is None:
            continue
        try:
            arm.peer.check(rows, sampling, stop)
        except InputError as error:
            raise InputError(f"arms.{arm.name}: {error}") from error
        for role in sorted(arm.roles):
            if arm.peer.float32_cpu:
                check_float32(f"arms.{arm.name}: {arm.peer.title}", role, *placed[role])
            other = other_than_full_attention(family.members[role].config)
            if arm.peer.full_attention and other:
                raise InputError(
                    f"arms.{arm.name}: {arm.peer.title} gets models with full attention only, and {role} has {other}: leave the "
                    "arm out."
                )
        if family.defaults.rules and not arm.peer.applies_rules:
            raise InputError(
                f"arms.{arm.name}: {arm.peer.title} does not apply {', '.join(family.defaults.rules)}, which the target's "
                "generation_config asks for: leave the arm out, or take these fields out of generation_config.json."
            )
        mapped = [role for role in sorted(arm.roles) if family.members[role].vocabulary is not None]
        if mapped:
            raise InputError(
                f"arms.{arm.name}: {arm.peer.title} does not apply models.{mapped[0]}.vocabulary: leave the arm out."
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
    casts = [
        f"The weights of {role} are those of {spec.derive.source}, cast to the values of {spec.derive.quantize.upper()} and kept "
        f"in the model's dtype. So its acceptance is real and its speed is not: `sdbench simulate RUN draft={role}` predicts the "
        "speed."
        for role, spec in ((role, member.spec) for role, member in family.members.items())
        if spec.derive is not None and spec.derive.quantize is not None
    ]
    return [*family.defaults.notes(how), *family.notes, *casts]
