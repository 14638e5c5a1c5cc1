"""Make the arms of a comparison from their configs.

The plan first builds them on stubs, to check the configs before any weight is loaded. The run builds them on the real models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbench import validate
from sdbench.asynchronous.drafter import AsyncDrafter
from sdbench.decoding.base import Decoder
from sdbench.errors import InputError
from sdbench.exactness.tabular import TabularModel
from sdbench.harness.build import Roles, build
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.modes import execution_of
from sdbench.peers.base import Peer


@dataclass
class Arm:
    """Hold an arm: its name, its config and its decoder.

    threads: of torch; None means the number of the hardware profile.
    not_finite: says where its numbers first were not finite, once a block showed this.
    failure: the error that stopped it, once it raised one.
    """

    name: str
    config: dict[str, Any]
    decoder: Decoder
    threads: int | None = None
    not_finite: str | None = None
    failure: str | None = None

    @property
    def apart(self) -> set[str]:
        """Return the roles whose model runs in another process."""
        apart = (stage for stage, _ in self._proposers if getattr(stage, "process", False))
        return {model.name for stage in apart for model in stage.models}

    @property
    def async_drafters(self) -> list[AsyncDrafter]:
        """Return the drafters whose draft model runs in its own server."""
        return [stage for stage, _ in self._proposers if isinstance(stage, AsyncDrafter)]

    @property
    def elsewhere(self) -> set[str]:
        """Return the roles whose model drafts in another process, in a process of its own or in a draft's server."""
        return self.apart | {model.name for drafter in self.async_drafters for model in drafter.models}

    @property
    def branch_slots(self) -> dict[str, int]:
        """Return, by role, the number of slots that a server's speculations need for each row."""
        servers = ((stage, length) for stage, length in self._proposers if isinstance(stage, AsyncDrafter))
        return {stage.name: stage.branch_slots(length) for stage, length in servers}

    @property
    def _proposers(self) -> Iterator[tuple[Any, int]]:
        """Return the proposers, the outermost first, each with its draft length."""
        stage = self.decoder
        while (proposer := getattr(stage, "proposer", None)) is not None:
            yield proposer, getattr(stage, "draft_length", 0)
            stage = proposer

    @property
    def rules(self) -> list[tuple[Any, str]]:
        """Return its acceptance rules, the outermost first, each with the name of what drafts for it."""
        stages = [self.decoder, *(stage for stage, _ in self._proposers)]
        return [
            (stage.rule, stage.proposer.name)
            for stage in stages
            if hasattr(stage, "rule") and hasattr(stage, "proposer")
        ]

    @property
    def trees(self) -> bool:
        """Say whether any stage drafts token trees."""
        return any(getattr(stage, "trees", False) for stage, _ in self._proposers)

    @property
    def reencoded(self) -> list[str]:
        """Return the names of the models that draft text for another tokenizer."""
        drafters = (stage for stage, _ in self._proposers if getattr(stage, "reencodes", False))
        return [model.name for stage in drafters for model in stage.models]

    @property
    def one_pass(self) -> dict[str, int]:
        """Return, by model, how many tokens the arm drafts in one pass of it, without a mask token."""
        drafters = [one for one in self._proposers if getattr(one[0], "one_pass", False) and not one[0].masked]
        return {model.name: stage.own_length or length for stage, length in drafters for model in stage.models}

    @property
    def branch_networks(self) -> list[tuple[str, str, str, str]]:
        """Return, for each trained classifier: its verifier's role, its draft's, and the identities that it was trained for."""
        found = [
            (stage.trained_for, stage.models[0].name)
            for stage, _ in self._proposers
            if getattr(stage, "trained_for", None)
        ]
        return [(verifier, draft, of_target, of_draft) for (verifier, of_target, of_draft), draft in found]

    @property
    def masks_in_config(self) -> list[str]:
        """Return the models that draft with the mask that their own config names."""
        drafters = (stage for stage, _ in self._proposers if getattr(stage, "mask_from_config", False))
        return [model.name for stage in drafters for model in stage.models]

    @property
    def files(self) -> list[Path]:
        """Return the files that its proposers and their length policies draft from."""
        parts = [part for stage, _ in self._proposers for part in (stage, getattr(stage, "policy", None))]
        return [file for part in parts for file in getattr(part, "files", ())]

    @property
    def trained_policies(self) -> list[tuple[str, Any]]:
        """Return its trained length policies, each with the name of the model whose tokens it judges."""
        stages = [(stage.name, getattr(stage, "policy", None)) for stage, _ in self._proposers]
        return [(name, policy) for name, policy in stages if hasattr(policy, "trained_for")]

    def take_encoder(self, encode: Callable[[str], list[int]]) -> None:
        """Give the proposers that draft from a text the tokenizer of the target."""
        for stage, _ in self._proposers:
            if hasattr(stage, "take_encoder"):
                stage.take_encoder(encode)

    @property
    def async_programs(self) -> list[dict[str, Any]]:
        """Return the program records of the drafts in other processes."""
        return [draft.programs for draft in self.async_drafters if draft.programs]

    @property
    def fault(self) -> str | None:
        """Return the reason why the last block continued without a draft; None if it had its draft."""
        return next((draft.fault for draft in self.async_drafters if draft.fault), None)

    @property
    def peer(self) -> Peer | None:
        """Return the decoder if another library or a server runs its loop, else None."""
        return self.decoder if isinstance(self.decoder, Peer) else None

    @property
    def simulated(self) -> bool:
        """Say whether any stage has simulated acceptance."""
        stages = [self.decoder, *(stage for stage, _ in self._proposers)]
        return any(getattr(getattr(stage, "rule", None), "simulated", False) for stage in stages)

    @property
    def views(self) -> list[str]:
        """Return the names of the models that the arm steps, such as target, draft or target[2]."""
        return [model.name for model in self.decoder.models]

    @property
    def roles(self) -> set[str]:
        """Return the roles of the models that the arm steps, such as target for target[2]."""
        return {name.partition("[")[0] for name in self.views}

    @property
    def exits(self) -> list[str]:
        """Return the names of early exits that a proposer reads in the middle of its verifier's steps, such as target[2]."""
        return [stage.exit for stage, _ in self._proposers if hasattr(stage, "exit")]

    @property
    def memory_bytes(self) -> int | None:
        """Return the bytes of weights, slots and speculations. None for a peer, which allocates its own caches."""
        if self.peer:
            return None
        held = {model.name: model.bytes for model in self.decoder.models}
        held |= {draft.name: draft.bytes for draft in self.async_drafters if draft.bytes is not None}
        return sum(held.values())


def make(
    configs: Mapping[str, dict[str, Any]],
    family: Mapping[str, LanguageModel],
    encode: Callable[[str], list[int]] | None = None,
) -> list[Arm]:
    """Make the arms with their decoders.

    configs: by the arm's name. family: models by role. encode: text to the target's tokens, for proposers that draft from a text.
    Raises: InputError.
    """
    if not configs:
        raise InputError("No arm was named: give arms=[NAME,...], such as arms=[ar,sd].")
    arms = []
    for name, config in configs.items():
        knobs = dict(config)
        threads = knobs.pop("threads", None)
        if threads is not None:
            validate.whole(f"arms.{name}.threads", threads, 1)
        decoder = build(knobs, Roles(family, name), f"arms.{name}")
        if not hasattr(decoder, "generate"):
            raise InputError(f"arms.{name}: {config.get('_target_')} is not a decoder.")
        arm = Arm(name, config, decoder, threads)
        if encode is not None:
            arm.take_encoder(encode)
        arms.append(arm)
    return arms


def build_on_stubs(configs: Mapping[str, dict[str, Any]], roles: list[str], execution: str = "eager") -> list[Arm]:
    """Make the arms with stubs in place of the models. This checks every knob before any weight is loaded. Raises: InputError.

    execution: the mode of the models' steps, which some arms ask for.
    """
    stubs = {role: TabularModel(role, 2, 0) for role in roles}
    for stub in stubs.values():
        stub.execution = execution_of(execution)
    return make(configs, stubs)
