"""Simulate methods round by round on a machine with other latencies, from recorded outcomes.

SIMULATED: nothing is decoded here. A greedy run with a draft records the rank of every output token in the draft's own order
behind the same prefix. Rank 1 means that the draft would have drafted this token. These ranks decide how many tokens a round
keeps, for any draft length. They also decide whether the cache holds the next speculation, for any fan-out. A round takes:

    ar      T(1)
    sd      K t_d + T(K + 1)
    ssd     T_ask + T_b [on a miss] + max(T_back + T(K + 1), t_glue + K t_tree(branches))
    pearl   max(g t_d and the exchange, T(n)) and the host's time,  n the tokens that the target reads
    amusd   the rest of the token that the draft is at, T_ask, t_d for each token short of `least`, T_back + T(K + 1)

    dsi     from one rejection to the next: drafting the block that holds it, and T(k); there are servers enough to verify at once

T(n) is the target's time over n tokens. It includes the host's time, except under pearl. No round waits for work that starts
behind the last one. `leaves` says that the server stops growing a tree when the outcome arrives. A miss then waits for the
current depth only. A hit also waits for its own branch. (The authors' code waits for the whole tree.)

Times are numbers, or measured samples in the order of their measurement. Each round draws one moment, and all of its times come
from this moment, because both sides slow down together. Independent draws would overstate the mean of their maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sdbench.errors import InputError

Times = Sequence[float]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Latencies:
    """Hold the latencies of a machine. Each is a list of samples in seconds; one number is a list of one.

    verify: the target's forward over n tokens, by n; values between are interpolated.
    verify_concurrent: the same while the draft's process works.
    host, host_concurrent: the target's process in a round, outside the forward and the draft.
    draft, draft_concurrent: one drafted token of one row, in the target's process and in a server's.
    glue, tree: the server reads a speculation; the server grows one depth of its branches, by their number.
    leaves: whether the server leaves a tree when the outcome arrives, except for the branch of that outcome.
    comm: from the request to an idle server to its reply, without drafting. answer: the way of the reply.
    """

    name: str
    source: str
    verify: Mapping[int, Times]
    draft: Times
    verify_concurrent: Mapping[int, Times] = field(default_factory=dict)
    host: Times = (0.0,)
    host_concurrent: Times = ()
    draft_concurrent: Times = ()
    glue: Times = (0.0,)
    tree: Mapping[int, Times] = field(default_factory=dict)
    leaves: bool = False
    comm: Times = (0.0,)
    answer: Times = (0.0,)
    published: bool = False

    @staticmethod
    def of(values: Mapping[str, Any]) -> Latencies:
        """Read a latency file's mapping, whose numbers are milliseconds. Errors: InputError."""

        def seconds(value: Any, name: str) -> Times:
            numbers = value if isinstance(value, list) else [value]
            if not all(isinstance(number, (int, float)) and number >= 0 for number in numbers):
                raise InputError(f"The latency file's '{name}' is {value!r}; it must be milliseconds.")
            return [number / 1e3 for number in numbers]

        known = {
            "name",
            "source",
            "published",
            "leaves",
            "verify",
            "verify_concurrent",
            "draft",
            "host",
            "host_concurrent",
            "draft_concurrent",
            "glue",
            "tree",
            "comm",
            "answer",
        }
        unknown = values.keys() - known
        if unknown:
            raise InputError(f"A latency file has no '{min(unknown)}'; it has: {', '.join(sorted(known))}.")
        for name in ("name", "source", "verify", "draft"):
            if values.get(name) is None:
                raise InputError(f"The latency file lacks '{name}'; give it there, or as latency.{name}=MILLISECONDS.")
        tables: Any = {}
        for name in ("verify", "verify_concurrent", "tree"):
            table = values.get(name)
            if isinstance(table, (int, float)) and name == "tree":
                table = {1: table}  # the same for any number of branches
            if table is not None and not (isinstance(table, Mapping) and all(str(n).isdigit() for n in table)):
                raise InputError(
                    f"The latency file's '{name}' is {table!r}; it must map numbers of tokens to milliseconds."
                )
            tables[name] = {int(n): seconds(value, name) for n, value in (table or {}).items()}
        if not tables["verify"]:
            raise InputError("The latency file's 'verify' is empty; it must map numbers of tokens to milliseconds.")
        rest: Any = {
            name: seconds(values[name], name)
            for name in ("host", "host_concurrent", "draft_concurrent", "glue", "comm", "answer", "draft")
            if values.get(name) is not None
        }
        return Latencies(**rest, **tables, **{key: values[key] for key in _SAID if key in values})


_SAID = ("name", "source", "published", "leaves")


def places(rounds: pd.DataFrame) -> list[np.ndarray]:
    """Return the ranks of each sequence's tokens, from the rounds of one greedy arm with a draft.

    Raises:
        InputError: the rounds hold no ranks.
    """
    if "rank" not in rounds or not rounds["rank"].notna().any():
        raise InputError("These rounds hold no ranks: simulate needs a run with a draft model (an arm such as sd).")
    strings = []
    for _, rows in rounds.groupby(["block", "repeat", "prompt_id"], sort=False):
        string: list[int] = []
        for accepted, proposed, rank in rows[["accepted", "proposed", "rank"]].itertuples(index=False):
            string += [1] * int(accepted)
            if np.isnan(rank):
                break  # a last round has no rank
            # The rank of a correction does not count the rejected token, which came first.
            string.append(int(rank) + (accepted < proposed))
        strings.append(np.array(string))
    return strings


def first_places(rounds: pd.DataFrame) -> list[int]:
    """Return the rank of each sequence's first token behind the prompt, in the order of `places`; 0 where none was logged."""
    if "first_rank" not in rounds:
        rounds = rounds.assign(first_rank=np.nan)
    groups = rounds.groupby(["block", "repeat", "prompt_id"], sort=False)
    return groups["first_rank"].max().fillna(0).astype(int).tolist()


class Simulation:
    """Compute the tokens per second of methods over strings of ranks, under one machine's latencies.

    first: the rank of the first token of each sequence, which prefill gives; 0 where it is unknown.
    """

    def __init__(
        self, strings: Sequence[np.ndarray], latencies: Latencies, seed: int = 0, first: Sequence[int] | None = None
    ) -> None:
        known = zip(strings, first or [0] * len(strings), strict=True)
        held = [(string, place) for string, place in known if len(string)]
        self.strings, self.first = [string for string, _ in held], [place for _, place in held]
        self.latencies = latencies
        self._rng = np.random.default_rng(seed)
        self._drafting = latencies.draft_concurrent or latencies.draft  # a server's drafted token
        self._moment = 0.0
        self._between: dict[tuple[int, bool], float] = {}  # interpolated verifications
        self._wide: dict[int, float] = {}  # interpolated trees

    def ar(self) -> float:
        return self._speed(lambda string: sum(self._verify(1) for _ in self._rounds(string)))

    def sd(self, length: int) -> float:
        def decode(string: np.ndarray) -> float:
            return sum(
                self._draw(self.latencies.draft, length) + self._verify(length + 1)
                for _ in self._rounds(kept(string, length))
            )

        return self._speed(decode)

    def ssd(self, length: int, counts: Sequence[int], first_fan_out: int = 0) -> float:
        """Simulate SSD with a neural back-up. counts: the fan-out F_0 .. F_length. first_fan_out: the fan-out behind a prompt."""
        own = self.latencies
        if not own.tree:
            raise InputError(f"The latencies of {own.name} hold no 'tree': ssd cannot be simulated.")
        branches, first = sum(counts), iter(self.first)

        def decode(string: np.ndarray) -> float:
            seconds, held, late = 0.0, 0 < next(first) <= first_fan_out, 0.0
            rounds = kept(string, length)
            for accepted, place in self._rounds(rounds):
                # The request waits for the rest of the server's work for the last round.
                seconds += late + self._draw(own.comm)
                if not held:
                    seconds += self._draw(self._drafting, length)
                verified = self._draw(own.answer) + self._verify(length + 1, concurrent=True)
                seconds += verified
                held = place - (accepted < length) <= counts[accepted]
                built = self._draw(own.glue) + np.cumsum(self._grown(branches, length))
                at = int(np.searchsorted(built[:-1], verified)) if own.leaves else length - 1
                left = self._draw(self._drafting, length - 1 - at) if held else 0.0
                late = max(0.0, float(built[at]) + left - verified)
            return seconds

        return self._speed(decode)

    def pearl(self, window: int) -> float:
        own = self.latencies

        def decode(string: np.ndarray) -> float:
            seconds, at, pending = 0.0, 0, 0
            while at < len(string):
                self._moment = self._rng.random()
                block = self._draw(self._drafting, window) + self._draw(own.comm) + self._draw(own.answer)
                # The draft gets the outcome when the host has finished the round.
                host = self._draw(own.host_concurrent or own.host)
                seconds += max(self._verify(pending + 1, concurrent=True, host=0.0), block) + host
                judged = string[at : at + pending + 1]
                passed = _passed(judged)
                if passed < len(judged):
                    at, pending = at + passed + 1, 0
                else:
                    at, pending = at + passed, window - 1
            return seconds

        return self._speed(decode)

    def amusd(self, length: int, least: int = 2) -> float:
        """Simulate a draft that never waits and drafts up to `length` tokens ahead. A reply has at least `least` tokens.

        As in `sdbench.asynchronous.amusd`, the request arrives between two tokens. The run continues, without the decided tokens,
        if it also holds the target's own token. Otherwise the draft starts a new run. The target always reads length + 1 tokens.
        """
        own, least = self.latencies, min(least, length)

        def decode(string: np.ndarray) -> float:
            asked, free, at, ahead = 0.0, 0.0, 0, 0
            while at < len(string):
                self._moment = self._rng.random()
                if ahead < least:
                    free += self._draw(self._drafting, least - ahead)
                    ahead = least
                free += self._draw(own.comm)
                asked = free + self._draw(own.answer) + self._verify(length + 1, concurrent=True)
                drafted = ahead
                # While the target is busy, the draft begins tokens until the next request.
                more = np.array(self._times(self._drafting, length - ahead))
                begun = free + np.cumsum(more) - more < asked
                ahead += int(begun.sum())
                free = max(asked, free + float(more[begun].sum()))
                passed = _passed(string[at : at + drafted])
                at += passed + 1
                stands = passed == drafted < ahead and at <= len(string) and string[at - 1] == 1
                ahead = ahead - drafted - 1 if stands else 0
            return asked

        return self._speed(decode)

    def dsi(self, length: int) -> float:
        """Simulate distributed speculative inference (2405.14105) with servers enough.

        A target server verifies each block of `length` tokens as soon as it is drafted. A rejection restarts the draft.
        """

        def decode(string: np.ndarray) -> float:
            seconds, at = 0.0, 0
            while at < len(string):
                self._moment = self._rng.random()
                passed = _passed(string[at:])
                drafted = length * -(-(passed + 1) // length)
                seconds += self._draw(self.latencies.draft, drafted) + self._verify(length)
                at += passed + 1
            return seconds

        return self._speed(decode)

    def _speed(self, decode: Callable[[np.ndarray], float]) -> float:
        tokens = sum(len(string) for string in self.strings)
        return tokens / sum(decode(string) for string in self.strings)

    def _rounds(self, rounds: Iterable[_T]) -> Iterator[_T]:
        """Yield the rounds one after the other, and draw a moment for each."""
        for one in rounds:
            self._moment = self._rng.random()
            yield one

    def _times(self, times: Times, count: int) -> Times:
        """Return `count` successive samples around the moment. Errors: InputError if there are no samples."""
        if not times:
            raise InputError(
                f"The latencies of {self.latencies.name} lack the times of a draft: run an arm such as sd too."
            )
        groups = max(len(times) // max(count, 1), 1)
        first = int(self._moment * groups) * count
        if first + count <= len(times):
            return times[first : first + count]
        return [times[index % len(times)] for index in range(first, first + count)]

    def _grown(self, branches: int, length: int) -> Times:
        """Return the seconds of each depth of a tree. Unmeasured numbers of branches lie on a line through the nearest ones."""
        table = self.latencies.tree
        if branches in table or len(table) == 1:
            return self._times(table.get(branches) or next(iter(table.values())), length)
        if branches not in self._wide:
            known = sorted(table)
            means = [float(np.mean(table[n])) for n in known]
            near = min(max(int(np.searchsorted(known, branches)), 1), len(known) - 1)
            slope = (means[near] - means[near - 1]) / (known[near] - known[near - 1])
            self._wide[branches] = max(0.0, means[near] + slope * (branches - known[near]))
        return [self._wide[branches]] * length

    def _draw(self, times: Times, count: int = 1) -> float:
        return sum(self._times(times, count))

    def _verify(self, tokens: int, concurrent: bool = False, host: float | None = None) -> float:
        """Return the seconds of a target forward over `tokens` tokens and of its host (None: the measured host time)."""
        own = self.latencies
        table = own.verify_concurrent if (concurrent and own.verify_concurrent) or not own.verify else own.verify
        if host is None:
            host = self._draw(own.host_concurrent if concurrent and own.host_concurrent else own.host)
        if tokens in table:
            return self._draw(table[tokens]) + host
        if (tokens, concurrent) not in self._between:
            known = sorted(table)
            means = [float(np.mean(table[n])) for n in known]
            self._between[tokens, concurrent] = float(np.interp(tokens, known, means))
        return self._between[tokens, concurrent] + host


def kept(string: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Return the rounds of drafts of `length` over a string of ranks: the accepted tokens, and the rank of the next token."""
    rounds, at = [], 0
    while at < len(string):
        drafted = string[at : at + length]
        accepted = _passed(drafted)
        after = at + accepted
        rounds.append((accepted, int(string[after]) if after < len(string) else 1))
        at = after + 1
    return rounds


def _passed(places: np.ndarray) -> int:
    """Count the tokens before the first one that the draft would not have drafted."""
    refused = np.flatnonzero(places > 1)
    return int(refused[0]) if len(refused) else len(places)
