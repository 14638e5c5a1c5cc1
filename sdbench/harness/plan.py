"""Plan a run: check its config, prompts and models before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from sdbench import validate
from sdbench.decoding.base import slots_needed
from sdbench.device import pin, usable
from sdbench.errors import InputError
from sdbench.harness.arms import Arm, build_on_stubs
from sdbench.harness.build import build, with_token_ids
from sdbench.harness.co_tenancy import Use
from sdbench.harness.gpu_lock import physical
from sdbench.harness.model_checks import (
    check_branch_networks,
    check_diffusion,
    check_divergences,
    check_early_exits,
    check_heads,
    check_own_quantization,
    check_peers,
    check_recurrent,
    check_reencoding,
    check_trained_policies,
    notes,
)
from sdbench.harness.own_code import own_code
from sdbench.harness.token_maps import map_notes, token_maps
from sdbench.lm.programs.modes import check_execution
from sdbench.models.family import Family, check_family
from sdbench.models.generation import TokenRules
from sdbench.models.identity import model_identity
from sdbench.models.memory import Fit, fit
from sdbench.models.spec import ModelSpec, family_specs, resolve
from sdbench.models.token_map import MappedIds
from sdbench.models.vocabulary import ids_digest
from sdbench.models.weight_files import sha256_of
from sdbench.models.weights import check_device, dtype_of
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop, Stop
from sdbench.tasks.base import Prompt, Task, prompts_sha256
from sdbench.tasks.encode import encode, encoder
from sdbench.tasks.stops import StopChecker

if TYPE_CHECKING:
    from sdbench.harness.tensor_parallel import Ranks
    from sdbench.lm.transformer import Transformer


@dataclass
class Plan:
    """Hold a checked run.

    prompts: each with its token ids. slots: the largest number of tokens that an arm needs in a row of the KV cache.
    ranks: the ranks of a tensor-parallel run, else None. maps: by role, the map of a model with another vocabulary.
    """

    config: dict[str, Any]
    arm_configs: dict[str, dict[str, Any]]
    stub_arms: list[Arm]
    baseline: str
    task: Task
    prompts: list[tuple[Prompt, list[int]]]
    specs: dict[str, ModelSpec]
    family: Family
    sampling: Sampling
    checker: StopChecker
    stop: Stop
    max_new_tokens: int
    slots: int
    ranks: Ranks | None = None
    maps: dict[str, MappedIds] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def batch_size(self) -> int:
        return self.config["batch_size"]

    @cached_property
    def identities(self) -> dict[str, str]:
        """Return, by role, the identity of the weights, and of the tokens that a map leaves."""
        found = {role: model_identity(spec) for role, spec in self.specs.items()}
        return found | {role: f"{found[role]} proposes:{ids_digest(ids.rows)}" for role, ids in self.maps.items()}

    @cached_property
    def own_code(self) -> dict[str, str]:
        """Return, by module, the SHA-256 of the user's own Python files."""
        return own_code(self.config)

    @cached_property
    def drafting_files(self) -> dict[str, str]:
        """Return, by path, the SHA-256 of the files that proposers draft from."""
        files = sorted({file for arm in self.stub_arms for file in arm.files})
        return {str(file): sha256_of(file) for file in files}

    def encode(self, text: str) -> list[int]:
        """Tokenise a text for a proposer that drafts from it, without special tokens."""
        return self.family.tokenizer(text, add_special_tokens=False)["input_ids"]

    @property
    def rules(self) -> TokenRules | None:
        """Return the rules by which the target's generation config changes its logits; None if it changes nothing."""
        asked = self.family.defaults.rules
        return TokenRules(asked, () if self.config["ignore_eos"] else self.family.eos) if asked else None

    @property
    def notes(self) -> list[str]:
        """Return sentences on the models, the task and the stop strings for the reader of the run."""
        stops = [] if self.config["ignore_eos"] else self.checker.notes
        return [*notes(self.family, self.sampling), *map_notes(self.maps), *getattr(self.task, "notes", ()), *stops]

    @property
    def prompts_sha256(self) -> str:
        """Return the identity of the prompts."""
        return prompts_sha256([prompt for prompt, _ in self.prompts])

    @property
    def devices(self) -> dict[str, str]:
        """Return, by role, the device of the model."""
        return {role: spec.device or self.config["hardware"]["device"] for role, spec in self.specs.items()}

    @property
    def use(self) -> Use:
        """Return the cores, threads and devices that the run uses, for `CoTenants`."""
        hardware = self.config["hardware"]
        apart = any(arm.apart for arm in self.stub_arms)  # a draft in another process needs one more thread
        threads = max(arm.threads or hardware["threads"] for arm in self.stub_arms)
        cores = usable() or tuple(range(os.cpu_count() or 1))
        if hardware.get("pin"):
            cores = {*cores[:threads], *(cores[-1:] if apart else ())}
        devices = {physical(device) for device in self.devices.values() if device != "cpu"}
        return Use(frozenset(cores), threads + apart, frozenset(devices))

    def place(self, given: Mapping[str, str]) -> None:
        """Assign the models to devices. given: the device that each wanted name stands for, such as cuda:1 for cuda."""
        moved = {role: given[device] for role, device in self.devices.items() if device in given}
        self.specs = {role: replace(spec, device=moved.get(role, spec.device)) for role, spec in self.specs.items()}

    def take_cores(self, threads: int | None = None) -> None:
        """Set torch's number of threads, and pin this process to as many cores if the hardware profile asks for pinning.

        threads: of the arm; by default those of the hardware profile.
        """
        hardware = self.config["hardware"]
        count = threads or hardware["threads"]
        torch.set_num_threads(count)
        if hardware.get("pin"):
            pin(usable()[:count])

    @property
    def mode(self) -> str:
        """Return `fixed` if the run ignores the end of sequence, else `natural`."""
        return "fixed" if self.config["ignore_eos"] else "natural"

    @property
    def blocks(self) -> list[list[tuple[Prompt, list[int]]]]:
        """Return the prompts in blocks of the batch size. The last block may be smaller."""
        size = self.batch_size
        return [self.prompts[start : start + size] for start in range(0, len(self.prompts), size)]


def _specs(config: Mapping[str, Any], arms: Iterable[Arm]) -> dict[str, ModelSpec]:
    """Return, by role, the specifications of the models that some arms use. The others of the family need no files here."""
    return family_specs(config["models"], {role for arm in arms for role in arm.roles})


def prepare(config: dict[str, Any], ranks: Ranks | None = None) -> Plan:
    """Check everything that needs no weights, and return the plan. ranks: of a tensor-parallel run. Raises: InputError."""
    if config["hardware"].get("tensor_parallel") and ranks is None:
        raise InputError("hardware.tensor_parallel is for `sdbench run` alone, without -m.")
    sampling = Sampling(**config["sampling"])
    arm_configs, roles = config["arms"], list(config["models"])
    stub_arms = build_on_stubs(arm_configs, roles, config["hardware"]["execution"])
    baseline = _baseline(config["baseline"], arm_configs)
    task: Task = build(config["tasks"], {}, "tasks")
    build(config["tracker"], {}, "tracker")
    used = _specs(config, stub_arms)
    hardware = config["hardware"]
    for role, spec in used.items():
        dtype_of(role, spec.dtype or hardware["dtype"])
        check_device(role, spec.device or hardware["device"])
        check_execution(role, hardware["execution"], spec.device or hardware["device"], spec.quantization)
        _check_revision(spec)
    prompts = task.prompts(config["limit"])
    if not prompts:
        raise InputError(f"The task {task.name} has no prompts.")
    family = check_family(used)
    check_own_quantization(family, hardware["execution"])
    encoded_arms = {
        name: with_token_ids(arm, encoder(family.tokenizer), f"arms.{name}") for name, arm in arm_configs.items()
    }
    if encoded_arms != arm_configs:
        arm_configs, stub_arms = encoded_arms, build_on_stubs(encoded_arms, roles)
    check_diffusion(stub_arms, family, sampling, hardware["execution"], ranks is not None)
    check_divergences(stub_arms, family)
    check_recurrent(stub_arms, family, hardware["execution"], ranks is not None)
    check_early_exits(stub_arms, family)
    check_reencoding(stub_arms, family)
    check_trained_policies(stub_arms, used)
    check_branch_networks(stub_arms, used)
    check_heads(stub_arms, family, ranks is not None)
    maps = token_maps(family)
    if ranks is not None:
        ranks.check(stub_arms, used, family.members["target"].config)
    _check_chat(config["chat"], prompts, family, task)
    encoded = [(prompt, encode(prompt, family.tokenizer, chat=config["chat"] is not False)) for prompt in prompts]
    _check_tokens(encoded, family)
    stops = (*task.stop, *family.defaults.stop_strings)
    placed = {role: (spec.dtype or hardware["dtype"], spec.device or hardware["device"]) for role, spec in used.items()}
    check_peers(stub_arms, family, config["batch_size"], sampling, () if config["ignore_eos"] else stops, placed)
    max_new_tokens = config["max_new_tokens"] or task.max_new_tokens
    validate.whole("tasks.max_new_tokens", max_new_tokens, 1)
    checker = StopChecker(family.eos, stops, family.tokenizer)
    return Plan(
        config,
        arm_configs,
        stub_arms,
        baseline,
        task,
        encoded,
        used,
        family,
        sampling,
        checker,
        NeverStop() if config["ignore_eos"] else checker,
        max_new_tokens,
        _slots(encoded, max_new_tokens, stub_arms, family),
        ranks,
        maps,
    )


def memory(config: dict[str, Any], slots: int, specs: Mapping[str, ModelSpec] | None = None) -> Fit:
    """Estimate the memory that the models of the arms need on each device. This loads no weights.

    slots: tokens of a row. specs: by role, with devices; by default those of the config.
    """
    hardware = config["hardware"]
    arms = build_on_stubs(config["arms"], list(config["models"]))
    specs = _specs(config, arms) if specs is None else specs
    trees: dict[str, int] = {}
    for role, tokens in (tree for arm in arms for tree in arm.branch_slots.items()):
        trees[role] = max(trees.get(role, 0), tokens)
    return fit(
        specs,
        slots,
        config["batch_size"],
        hardware["dtype"],
        hardware["device"],
        hardware["memory_bytes"],
        trees,
        hardware.get("prepack", True),
    )


def load(plan: Plan) -> dict[str, Transformer]:
    """Load the models of a plan with their weights. Return them by role."""
    whole = {role: load_role(plan, role) for role, spec in plan.specs.items() if spec.head_of is None}
    return {role: whole.get(role) or _load_head(plan, role, whole) for role in plan.specs}


def _load_head(plan: Plan, role: str, whole: Mapping[str, Transformer]) -> Transformer:
    """Load a head. whole: by role, the models that are no heads."""
    from sdbench.heads.exit_config import ExitConfig
    from sdbench.heads.parallel import ParallelHead
    from sdbench.lm.exit_stages import exit_cascade
    from sdbench.lm.feature_head import feature_head
    from sdbench.lm.parallel_model import ParallelModel
    from sdbench.lm.programs.modes import execution_of
    from sdbench.models.head_files import load_any_head, load_exits
    from sdbench.models.weights import check_finite

    hardware, member, spec = plan.config["hardware"], plan.family.members[role], plan.specs[role]
    assert member.head is not None
    target = whole[spec.head_of or ""]
    if isinstance(member.head, ExitConfig):
        exits = load_exits(spec, member.source, member.head)
        check_finite(spec, exits)
        return exit_cascade(role, exits, target)
    dtype, device = dtype_of(role, spec.dtype or hardware["dtype"]), spec.device or hardware["device"]
    module = load_any_head(spec, member.source, member.head, target.model, dtype, device)
    check_finite(spec, module)
    if isinstance(module, ParallelHead):
        _prepack(plan, module)
        return ParallelModel(role, module, target)
    _prepack(plan, module)
    return feature_head(role, module, target, execution_of(hardware["execution"]))


def load_role(plan: Plan, role: str) -> Transformer:
    """Load the model of one role. For a tensor-parallel target, load the part of this rank."""
    from sdbench.lm.diffusion import DiffusionTransformer, check_directions
    from sdbench.lm.probe import check_steps
    from sdbench.lm.programs.modes import execution_of
    from sdbench.lm.recurrent import language_model
    from sdbench.models.text_bridge import TextBridge
    from sdbench.models.token_map import keep_head_rows
    from sdbench.models.weights import load_weights

    hardware, ranks = plan.config["hardware"], plan.ranks
    device = ranks.device if ranks else hardware["device"]
    parts = ranks.parts if ranks and role == "target" else 1
    weights = load_weights(plan.specs[role], hardware["dtype"], device, parts)
    family, ids, execution = plan.family, plan.maps.get(role), execution_of(hardware["execution"])
    member = family.members[role]
    if member.mask_token is not None:
        model = DiffusionTransformer(role, weights)
        check_directions(model)
        return model
    if ids is not None:
        keep_head_rows(role, weights, ids.rows)
    _prepack(plan, weights)
    reencoded = member.vocabulary is not None and member.vocabulary.kind == "reencode"
    model = language_model(role, weights, member.width if reencoded else family.vocab, execution, ids)
    if reencoded:
        model.bridge = TextBridge(family.tokenizer, member.tokenizer, family.vocab, member.width)
    check_steps(model)
    if role == "target":
        model.rules = plan.rules
    return model


def _prepack(plan: Plan, module: torch.nn.Module) -> None:
    """Keep blocked copies of a module's large matrices, if the hardware profile asks for them."""
    from sdbench.lm.prepacked import prepack

    hardware = plan.config["hardware"]
    if hardware.get("prepack", True) and hardware["execution"] != "cudagraph":
        prepack(module)


def _check_revision(spec: ModelSpec) -> None:
    """Refuse a revision of a model that is not on the hub."""
    if spec.revision is not None and resolve(spec).kind != "hub":
        raise InputError(
            f"models.{spec.role}.revision is '{spec.revision}', but {spec.path} is no hub id, and a folder has no revisions: leave "
            "it at null."
        )


def _check_chat(chat: bool | None, prompts: list[Prompt], family: Family, task: Task) -> None:
    """Refuse chat=true if the tokenizer has no chat template, or if no prompt has messages."""
    if chat and not family.tokenizer.chat_template:
        raise InputError(
            f"chat is true, but the tokenizer of {family.main.spec.path} has no chat template: leave chat at null for plain text."
        )
    if chat and not any(prompt.messages for prompt in prompts):
        raise InputError(f"chat is true, but the prompts of {task.name} are plain text: leave chat at null.")


def _check_tokens(prompts: list[tuple[Prompt, list[int]]], family: Family) -> None:
    """Refuse a prompt with a token for which a model has no embedding."""
    for prompt, tokens in prompts:
        if max(tokens) >= family.vocab:
            raise InputError(
                f"The prompt '{prompt.id}' holds token {max(tokens)}, but the family's embeddings have {family.vocab} entries: "
                "the tokenizer is larger than a model; resize the embeddings, or take the tokenizer that belongs to them."
            )


def _baseline(wanted: str | None, arms: Mapping[str, Any]) -> str:
    """Return the baseline: the wanted arm, else `ar`, else the first arm. Raises: InputError if the wanted arm does not run."""
    if wanted is None:
        return "ar" if "ar" in arms else next(iter(arms))
    if wanted not in arms:
        raise validate.unknown("There is no arm for the baseline", wanted, arms, "the arms are")
    return wanted


def _slots(prompts: list[tuple[Prompt, list[int]]], new: int, arms: list[Arm], family: Family) -> int:
    """Return the slots that the longest prompt needs with the arm of the largest lookahead.

    Raises: InputError if these are more positions than a model can read.
    """
    prompt, tokens = max(prompts, key=lambda item: len(item[1]))
    furthest = max(arms, key=lambda arm: arm.decoder.max_lookahead())
    slots = slots_needed(furthest.decoder, len(tokens), new)
    if family.context is not None and slots > family.context:
        raise InputError(
            f"The prompt '{prompt.id}' ({len(tokens)} tokens), max_new_tokens={new} and the arm '{furthest.name}' "
            f"({furthest.decoder.max_lookahead()} tokens ahead) need {slots} positions, but the models read {family.context}"
            f"{f' ({family.why})' if family.why else ''}: reduce one of them."
        )
    return slots
