"""The ranks of a run whose target is tensor-parallel: all but the last hold a part of the target, the last one the draft.

`torchrun --nproc-per-node N -m sdbench run hardware=cuda_tp ...` starts the same command N times. The target's ranks make the same
comparison in the same steps, which transformers' own tensor parallelism ties together; the first of them keeps the record, reads
what is finished, and talks to the draft. A model that drafts in the target's process is whole on each of its ranks.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import Listener
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sdbench.asynchronous.drafter import AsyncDrafter
from sdbench.asynchronous.rank_process import DivergedError, Follower, RankServer, ServingRank, connector
from sdbench.decoding.pearl import Pearl
from sdbench.errors import InputError
from sdbench.harness.arms import Arm
from sdbench.lm.model import LanguageModel

FEWEST = 3
WAIT = timedelta(minutes=10)  # for the other ranks: loading a large model takes minutes
LAUNCH = "torchrun --nproc-per-node N -m sdbench run"


class Ranks:
    """This process among the ranks of a run. device: a kind, such as cuda, of which each rank has one.

    Raises:
        InputError: they were not started by torchrun, are too few, or are more than the devices.
    """

    def __init__(self, device: str) -> None:
        if "RANK" not in os.environ:
            raise InputError(f"hardware.tensor_parallel needs a process for each device: {LAUNCH} ...")
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local, self.kind = int(os.environ["LOCAL_RANK"]), device
        if self.world < FEWEST:
            raise InputError(
                f"{self.world} ranks are too few: two or more share the target, and the last has the draft."
            )
        if int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) != self.world:
            raise InputError("hardware.tensor_parallel works on one machine; these ranks are on several.")
        if device not in ("cpu", "cuda"):
            raise InputError(
                f"hardware.device is '{device}'; with tensor_parallel it must be cuda (or cpu, to try it)."
            )
        if device == "cuda" and torch.cuda.device_count() < self.world:
            raise InputError(f"{self.world} ranks need a GPU each, but this machine has {torch.cuda.device_count()}.")

    @property
    def parts(self) -> int:
        """Ranks that share the target."""
        return self.world - 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def drafts(self) -> bool:
        return self.rank == self.parts

    @property
    def device(self) -> str:
        return f"cuda:{self.local}" if self.kind == "cuda" else self.kind

    def check(self, arms: Sequence[Arm], specs: Mapping[str, Any], config: Any) -> None:
        """Refuse what cannot be the same on all ranks, and heads that cannot be shared out. config: the target's."""
        for role, spec in specs.items():
            if spec.device is not None:
                raise InputError(
                    f"models.{role}.device is {spec.device}, but with tensor_parallel each rank has its own."
                )
        for arm in arms:
            if isinstance(arm.decoder, Pearl) and arm.decoder.measures:
                raise InputError(f"arms.{arm.name} measures its draft_length, each rank its own: give a number.")
            for proposer in _in_processes(arm):
                if proposer.on_fault != "stop":
                    raise InputError(f"arms.{arm.name}: on_fault must be stop with tensor_parallel.")
        text = config.get_text_config()
        for name in ("num_attention_heads", "num_key_value_heads"):
            heads = getattr(text, name, None)
            if heads is not None and heads % self.parts:
                raise InputError(f"The target's {heads} {name} cannot be shared out to {self.parts} ranks evenly.")

    def join(self) -> None:
        """Meet the other ranks."""
        store, _, _ = next(iter(rendezvous("env://", timeout=WAIT)))
        if self.kind == "cuda":
            torch.cuda.set_device(self.local)
        pair = PrefixStore("sdbench/pair", store)
        if self.drafts:
            key = os.urandom(16)
            self.listener = Listener(("127.0.0.1", 0), backlog=16, authkey=key)
            store.set("sdbench/key", key.hex())
            store.set("sdbench/address", f"{self.listener.address[0]}:{self.listener.address[1]}")
            self.pair = self._group(pair, 1)
            return
        backend = "nccl" if self.kind == "cuda" else "gloo"
        target = PrefixStore("sdbench/target", store)
        dist.init_process_group(backend, store=target, rank=self.rank, world_size=self.parts, timeout=WAIT)
        if self.first:
            host, port = store.get("sdbench/address").decode().split(":")
            key = bytes.fromhex(store.get("sdbench/key").decode())
            self.connect = connector((host, int(port)), key)
            self.pair = self._group(pair, 0)  # first: until then the draft's rank answers nobody
            self.control = self.connect()

    def serve(self, models: Any) -> None:
        """The draft's rank: serve until the run is over. models: gives the model of a role."""
        ServingRank(models, self.pair).run(self.listener)

    def give(self, arms: Sequence[Arm]) -> None:
        """Have every draft with a process of its own served by the last rank."""
        for arm in arms:
            for proposer in _in_processes(arm):
                proposer.launch = self._launch

    def shared(self, value: Any) -> Any:
        """The first rank's value, on all of the target's."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device(self.device))
        return box[0]

    def agree(self, sequences: Sequence[Mapping[str, Any]]) -> None:
        """Raises: DivergedError if the first rank decoded other tokens."""
        own = zlib.crc32(repr([row["tokens"] for row in sequences]).encode())
        if self.shared(own) != own:
            raise DivergedError

    def devices(self, role: str, apart: bool) -> list[str]:
        """Where a role's model works: on the draft's rank alone, or on all of the target's."""
        ranks = [self.parts] if apart else range(self.parts)
        return [f"cuda:{rank}" if self.kind == "cuda" else f"cpu (rank {rank})" for rank in ranks]

    def _launch(self, model: LanguageModel, make: Any, seconds: float, *rest: Any) -> Any:
        device = torch.device(self.device)
        if not self.first:
            return Follower(_broadcast, model, seconds, device)
        return RankServer(self.connect, self.pair, _broadcast, model, make, seconds, device)

    def _group(self, store: Any, rank: int) -> Any:
        """The target's first rank and the draft's: no part of the target's group, which is all that transformers may see."""
        if self.kind == "cuda":
            return dist.ProcessGroupNCCL(store, rank, 2, dist.ProcessGroupNCCL.Options())
        return dist.ProcessGroupGloo(store, rank, 2, WAIT)


def _in_processes(arm: Arm) -> list[AsyncDrafter]:
    """Return the arm's drafters whose server has a process of its own."""
    return [drafter for drafter in arm.async_drafters if drafter.process]


def _broadcast(buffer: Tensor) -> None:
    dist.broadcast(buffer, src=0)
