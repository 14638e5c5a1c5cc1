"""Coordinate the ranks of a tensor-parallel run. The last rank holds the draft; each other rank holds a part of the target.

`torchrun --nproc-per-node N -m sdbench run hardware=cuda_tp ...` starts the same command N times. The target's ranks make the same
comparison in the same steps. The tensor parallelism of transformers synchronises them. The first rank writes the run folder, reads
the list of finished blocks, and exchanges messages with the draft. Each target rank holds a full copy of every in-process drafter.
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
WAIT = timedelta(minutes=10)  # how long a rank waits for the others; loading a large model takes minutes
LAUNCH = "torchrun --nproc-per-node N -m sdbench run"


class Ranks:
    """Represent this process among the ranks of a run.

    device: a kind of device, such as cuda. Each rank uses one device of this kind.

    Raises:
        InputError: torchrun did not start this process, the device is no cuda or cpu, the ranks are on several machines,
            there are fewer than three ranks, or there are fewer GPUs than ranks.
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
        """Return the number of ranks that share the target."""
        return self.world - 1

    @property
    def first(self) -> bool:
        """Say whether this is the first rank of the target."""
        return self.rank == 0

    @property
    def drafts(self) -> bool:
        """Say whether this rank holds the draft."""
        return self.rank == self.parts

    @property
    def device(self) -> str:
        """Return the device of this rank."""
        return f"cuda:{self.local}" if self.kind == "cuda" else self.kind

    def check(self, arms: Sequence[Arm], specs: Mapping[str, Any], config: Any) -> None:
        """Refuse settings that would differ between ranks, and a number of heads that the ranks cannot share evenly.

        specs: by role. config: of the target model. Raises: InputError.
        """
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
        """Connect to the other ranks: one group of target ranks, and one pair of the first target rank and the draft's rank."""
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
            self.pair = self._group(
                pair, 0
            )  # before the connection: the draft's rank accepts connections only after this
            self.control = self.connect()

    def serve(self, models: Any) -> None:
        """Serve drafts on the draft's rank until the run is over. models: a function from a role to its model."""
        ServingRank(models, self.pair).run(self.listener)

    def give(self, arms: Sequence[Arm]) -> None:
        """Make the last rank serve every drafter that would otherwise start its own process."""
        for arm in arms:
            for proposer in _in_processes(arm):
                proposer.launch = self._launch

    def shared(self, value: Any) -> Any:
        """Return the value of the first rank on every target rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device(self.device))
        return box[0]

    def agree(self, sequences: Sequence[Mapping[str, Any]]) -> None:
        """Check that this rank decoded the same tokens as the first rank. Raises: DivergedError."""
        own = zlib.crc32(repr([row["tokens"] for row in sequences]).encode())
        if self.shared(own) != own:
            raise DivergedError

    def devices(self, role: str, apart: bool) -> list[str]:
        """Return the devices of a role's model. apart: whether the model is on the draft's rank, not on the target's ranks."""
        ranks = [self.parts] if apart else range(self.parts)
        return [f"cuda:{rank}" if self.kind == "cuda" else f"cpu (rank {rank})" for rank in ranks]

    def _launch(self, model: LanguageModel, make: Any, seconds: float, *rest: Any) -> Any:
        """Return the connection to the draft's server: direct on the first rank, by broadcast on the others."""
        device = torch.device(self.device)
        if not self.first:
            return Follower(_broadcast, model, seconds, device)
        return RankServer(self.connect, self.pair, _broadcast, model, make, seconds, device)

    def _group(self, store: Any, rank: int) -> Any:
        """Return the group of the target's first rank and the draft's rank.

        It is separate from the target's group, because transformers must see the target's ranks only.
        """
        if self.kind == "cuda":
            return dist.ProcessGroupNCCL(store, rank, 2, dist.ProcessGroupNCCL.Options())
        return dist.ProcessGroupGloo(store, rank, 2, WAIT)


def _in_processes(arm: Arm) -> list[AsyncDrafter]:
    """Return the arm's drafters whose server has a process of its own."""
    return [drafter for drafter in arm.async_drafters if drafter.process]


def _broadcast(buffer: Tensor) -> None:
    """Copy the first rank's buffer to every target rank, in place."""
    dist.broadcast(buffer, src=0)
