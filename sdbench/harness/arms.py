"""The arms of a comparison: their configs checked before any weight is loaded, their decoders made when the models are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdbench import validate
from sdbench.asynchronous.drafter import AsyncDrafter
from sdbench.decoding.base import Decoder
from sdbench.errors import InputError
from sdbench.exactness.tabular import TabularModel
from sdbench.harness.build import Roles, build
from sdbench.lm.model import LanguageModel
from sdbench.peers.base import Peer


@dataclass
class Arm:
    """name; config: its knobs; decoder; threads: of torch, where not the hardware's. views: the names of
    the models it steps, such as target, draft or target[2]."""

    name: str
    config: dict[str, Any]
    decoder: Decoder
    threads: int | None = None
    not_finite: str | None = None  # where its numbers first were not finite, set once a block is decoded

    @property
    def apart(self) -> set[str]:
        """Roles whose model works in a process of its own."""
        apart = (stage for stage, _ in self._proposers if getattr(stage, "process", False))
        return {model.name for stage in apart for model in stage.models}

    @property
    def async_drafters(self) -> list[AsyncDrafter]:
        """Return its drafters whose draft works in a server of its own."""
        return [stage for stage, _ in self._proposers if isinstance(stage, AsyncDrafter)]

    @property
    def branch_slots(self) -> dict[str, int]:
        """Return by role the slots that a server's speculations take for each row."""
        servers = ((stage, length) for stage, length in self._proposers if isinstance(stage, AsyncDrafter))
        return {stage.name: stage.branch_slots(length) for stage, length in servers}

    @property
    def _proposers(self) -> Iterator[tuple[Any, int]]:
        """Its proposers, from the outermost one in, and how many tokens each is asked for."""
        stage = self.decoder
        while (proposer := getattr(stage, "proposer", None)) is not None:
            yield proposer, getattr(stage, "draft_length", 0)
            stage = proposer

    @property
    def async_programs(self) -> list[dict[str, Any]]:
        """Return the programs of its drafts in other processes."""
        return [draft.programs for draft in self.async_drafters if draft.programs]

    @property
    def fault(self) -> str | None:
        """Why the last block went on without a draft, if it did."""
        return next((draft.fault for draft in self.async_drafters if draft.fault), None)

    @property
    def peer(self) -> Peer | None:
        """The decoder, if its loop is another library's or a server's."""
        return self.decoder if isinstance(self.decoder, Peer) else None

    @property
    def simulated(self) -> bool:
        """Whether any stage forces what is accepted in place of testing it."""
        stages = [self.decoder, *(stage for stage, _ in self._proposers)]
        return any(getattr(getattr(stage, "rule", None), "simulated", False) for stage in stages)

    @property
    def views(self) -> list[str]:
        return [model.name for model in self.decoder.models]

    @property
    def roles(self) -> set[str]:
        return {name.partition("[")[0] for name in self.views}

    @property
    def memory_bytes(self) -> int | None:
        """Weights and slots of the models that it steps, where it steps them, and what is held of speculations; a peer's caches are
        its own."""
        if self.peer:
            return None
        held = {model.name: model.bytes for model in self.decoder.models}
        held |= {draft.name: draft.bytes for draft in self.async_drafters if draft.bytes is not None}
        return sum(held.values())


def make(configs: Mapping[str, dict[str, Any]], family: Mapping[str, LanguageModel]) -> list[Arm]:
    """Every arm's decoder over the models of a family."""
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
            raise InputError(f"arms.{name}: {config.get('_target_')} is no decoder.")
        arms.append(Arm(name, config, decoder, threads))
    return arms


def build_on_stubs(configs: Mapping[str, dict[str, Any]], roles: list[str]) -> list[Arm]:
    """The arms over stand-ins for the models, so that every knob is checked before weights are loaded."""
    return make(configs, {role: TabularModel(role, 2, 0) for role in roles})
