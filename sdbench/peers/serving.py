"""Wrap vLLM and SGLang as arms: the peer sends prompts as token ids, receives a stream of tokens, and stamps their times.

The server loads its own weights. Start it on those of the run (`${models.target.path}` in the command). sdbench applies its own
stop rule and limit. Each request carries the limit and says whether the server stops at its end-of-sequence token. If the stop
rule ends an answer before the server does, the peer closes the stream. The tests use a server that implements the protocol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from sdbench.decoding.base import Finished, Request
from sdbench.errors import RunError
from sdbench.keyed_random import stream
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge, Trace
from sdbench.peers.base import Growing, Peer
from sdbench.peers.counters import Counts, between, of_meta, of_metrics, of_steps
from sdbench.peers.server import Server
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop, Stop

Pieces = Generator[tuple[list[int], dict[str, Any], str | None], None, None]


class Serving(Peer):
    """Decode with a server.

    command: starts the server (None: attach to the server at url). url, start_seconds, stall_seconds: see `Server`.
    """

    def __init__(
        self,
        verifier: LanguageModel,
        url: str = "http://127.0.0.1:8000",
        command: str | None = None,
        start_seconds: float = 600.0,
        stall_seconds: float = 60.0,
    ) -> None:
        super().__init__([verifier])
        self.edge = Edge("server", verifier.name)
        self.server = Server(url, command, start_seconds, stall_seconds)

    def open(self, rows: int, slots: int) -> None:
        self.server.start()

    def close(self) -> None:
        self.server.stop()

    def _decode(
        self, group: list[Request], sampling: Sampling, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> list[Finished]:
        natural = not isinstance(stop, NeverStop)
        self._prepare(natural)
        grown = [Growing(request, stop.start(), max_new_tokens) for request in group]
        with ThreadPoolExecutor(len(group)) as pool:
            asked = [pool.submit(self._ask, growing, sampling, max_new_tokens, natural, seed) for growing in grown]
            told = [future.result() for future in asked]
        rows = list(trace.sequence)
        trace.at_close.append(lambda: self._account(grown, told, rows, trace))
        return [growing.finished for growing in grown]

    def _prepare(self, natural: bool) -> None:
        """Do what the first request needs, before the time of an answer begins. natural: whether the server ends texts itself."""
        return None

    def _ask(self, growing: Growing, sampling: Sampling, limit: int, natural: bool, seed: int) -> dict[str, Any]:
        """Stream one answer, and return the last report of the server on it. Errors: RunError."""
        last: dict[str, Any] = {}
        with closing(self._pieces(growing, sampling, limit, natural, seed)) as pieces:
            for tokens, said, reason in pieces:
                last = said or last
                if growing.push(tokens) and not reason and growing.finished.reason != "length":
                    break  # the server would go on; at an end of its own or at the limit it reports its counts
                if reason and not growing.done:
                    growing.finished.reason = "length" if reason == "length" else "eos"
        if not growing.done:
            raise RunError(f"The server at {self.server.url} ended an answer without a reason.")
        return last

    @abstractmethod
    def _pieces(self, growing: Growing, sampling: Sampling, limit: int, natural: bool, seed: int) -> Pieces:
        """Yield (new tokens, the server's report on the request, end reason or None) of each event."""

    def _account(self, grown: list[Growing], told: list[dict[str, Any]], rows: list[int], trace: Trace) -> None:
        """Write the server's counts of these answers into the trace, after the timed part."""
        trace.sequence, trace.sequence_round = rows, [0] * len(rows)
        for row, (growing, counts) in enumerate(zip(grown, self._counts(told), strict=True)):
            if counts is None:
                if not self.edge.proposer:
                    growing.finished.target_calls = len(growing.finished.tokens)
                continue
            for number, (proposed, accepted) in enumerate(counts.rounds()):
                trace.sequence_round[row] = number
                trace.verified(row, self.edge, 0, proposed, accepted, accepted + 1)
            # Every target forward gives one token in addition to the accepted ones.
            growing.finished.target_calls = max(1, len(growing.finished.tokens) - counts.accepted)

    @abstractmethod
    def _counts(self, told: list[dict[str, Any]]) -> list[Counts | None]:
        """Return the server's counts of each answer; None where it reports none."""


class VLLM(Serving):
    """Decode with vLLM's OpenAI-compatible server (0.10.2 or later, for `return_token_ids`).

    A server that was started with `--per-request-spec-decode-metrics detailed` reports the drafted and accepted tokens of each
    round, in order. Otherwise vLLM counts for the whole server. Then the peer reads the counters at batch size 1 only, and no
    other client may use the server.
    """

    _model: str | None = None
    _before: dict[str, float] | None = None
    _detailed = False

    @property
    def title(self) -> str:
        return "vLLM"

    def open(self, rows: int, slots: int) -> None:
        super().open(rows, slots)
        offered = self.server.get("/v1/models").json().get("data") or [{}]
        self._model = offered[0].get("id")
        if self._model is None:
            raise RunError(
                f"The server at {self.server.url} names no model at /v1/models; it is no OpenAI-compatible one."
            )
        self._before = of_metrics(self.server.get("/metrics").text)

    def _pieces(self, growing: Growing, sampling: Sampling, limit: int, natural: bool, seed: int) -> Pieces:
        request = growing.finished.request
        asked = {
            "model": self._model,
            "prompt": request.tokens,
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "seed": stream(seed, request.name, request.repeat) % 2**31,
            "ignore_eos": not natural,
            "stream": True,
            "return_token_ids": True,
            "stream_options": {"include_usage": True},
        }
        for event in self.server.events("/v1/completions", asked):
            for choice in event.get("choices") or ():
                tokens = choice.get("token_ids")
                if tokens is None and choice.get("text"):
                    raise RunError(
                        f"The server at {self.server.url} sends text without token ids; vLLM does from 0.10.2 on."
                    )
                yield list(tokens or ()), {}, choice.get("finish_reason")
            if (event.get("metrics") or {}).get("speculative_decoding"):
                yield [], event["metrics"]["speculative_decoding"], None

    def _counts(self, told: list[dict[str, Any]]) -> list[Counts | None]:
        steps = [of_steps(report) for report in told]
        self._detailed = self._detailed or any(steps)
        if self._detailed:  # an answer without a report was cut by our stop rule
            return steps
        before, self._before = self._before, of_metrics(self.server.get("/metrics").text)
        if len(told) > 1 or before is None:
            return [None] * len(told)
        return [between(before, self._before)]


class SGLang(Serving):
    """Decode with SGLang's server through its `/generate`, which takes and returns token ids.

    Its answers report the speculation of each request.
    """

    @property
    def title(self) -> str:
        return "SGLang"

    def _pieces(self, growing: Growing, sampling: Sampling, limit: int, natural: bool, seed: int) -> Pieces:
        asked = {
            "input_ids": growing.finished.request.tokens,
            "sampling_params": {
                "max_new_tokens": limit,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or -1,
                "ignore_eos": not natural,
            },
            "stream": True,
        }
        held = 0
        for event in self.server.events("/generate", asked):
            ids, meta = event.get("output_ids"), event.get("meta_info") or {}
            if ids is None:
                raise RunError(f"The server at {self.server.url} sends no output_ids; it is no SGLang, or an old one.")
            # By default, each event repeats the earlier tokens. Incremental streaming sends only the new ones.
            new = ids[held:] if len(ids) == meta.get("completion_tokens", len(ids)) else ids
            held += len(new)
            reason = meta.get("finish_reason")
            yield new, meta, reason.get("type") if isinstance(reason, dict) else reason

    def _counts(self, told: list[dict[str, Any]]) -> list[Counts | None]:
        return [of_meta(meta) for meta in told]
