"""A round-level simulation of what a method would do on a machine with other latencies, fed with recorded outcomes.

SIMULATED: nothing here is decoded. A greedy run with a draft says of every token of the target's output where it stood in the
draft's own order behind the same prefix: place 1 means that the draft would have drafted it. That string of places decides, for any
draft length, how many tokens a round keeps, and for any fan-out, whether the next speculation is held. What a round takes:

    ar      T(1)
    sd      K t_d + T(K + 1)
    ssd     T_ask + T_b [on a miss] + max(T_back + T(K + 1), t_glue + K t_tree(branches))
    pearl   max(g t_d and the exchange, T(n)) and the host's time,  n the tokens that the target reads
    amusd   the token that the draft is at, T_ask, t_d for each token that an answer lacks of the least, T_back + T(K + 1)

    dsi     from one rejection to the next: the drafting of the block that holds it, and T(k)     (servers enough to verify at once)

with the target's time T(n) over n tokens, its host's included but for pearl. Nobody waits for what is built, or drafted, behind
the last round. Where a tree is left for an outcome that comes before it is grown, a miss waits for no more than the depth that the
draft is at, and a hit for its own branch beyond that (the authors' code waits for all). Times are numbers, or samples of measured
ones in the order of their measurement. Each round draws a moment, and all of its times are those of that moment: the mean of a
maximum is more than the maximum of means, but less than it would be if the two sides did not slow down together.
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
    """Seconds, each a list of samples (one number is a list of one).

    verify: the target's forward over n tokens, by n; what lies between is interpolated. beside: the same while a draft works
    beside it. host, host_beside: of the target's process in a round, outside the forward and the draft. draft, draft_beside: one
    drafted token of one row, in the target's process and in a server's. glue, tree: of a server's reading of a speculation, and
    of one depth of its branches, by how many there are. leaves: whether a tree is left, but for the branch that has come true, if
    one has. comm: from the question to an idle server to its answer, where nothing has to be drafted. answer: the answer's way
    back, while the server works on.
    """

    name: str
    source: str
    verify: Mapping[int, Times]
    draft: Times
    beside: Mapping[int, Times] = field(default_factory=dict)
    host: Times = (0.0,)
    host_beside: Times = ()
    draft_beside: Times = ()
    glue: Times = (0.0,)
    tree: Mapping[int, Times] = field(default_factory=dict)
    leaves: bool = False
    comm: Times = (0.0,)
    answer: Times = (0.0,)
    published: bool = False

    @staticmethod
    def of(values: Mapping[str, Any]) -> Latencies:
        """From a latency file's mapping: numbers in milliseconds."""

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
            "beside",
            "draft",
            "host",
            "host_beside",
            "draft_beside",
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
        for name in ("verify", "beside", "tree"):
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
            for name in ("host", "host_beside", "draft_beside", "glue", "comm", "answer", "draft")
            if values.get(name) is not None
        }
        return Latencies(**rest, **tables, **{key: values[key] for key in _SAID if key in values})


_SAID = ("name", "source", "published", "leaves")


def places(rounds: pd.DataFrame) -> list[np.ndarray]:
    """The string of places of each sequence, from the logged rounds of one arm with a draft and greedy decoding.

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
                break  # the last round: nobody asked where its token stood
            # A correction's rank leaves the refused token out, which stood first.
            string.append(int(rank) + (accepted < proposed))
        strings.append(np.array(string))
    return strings


def first_places(rounds: pd.DataFrame) -> list[int]:
    """The place of each sequence's first token behind the prompt, in the order of `places`; 0 where it was not logged."""
    if "first_rank" not in rounds:
        rounds = rounds.assign(first_rank=np.nan)
    groups = rounds.groupby(["block", "repeat", "prompt_id"], sort=False)
    return groups["first_rank"].max().fillna(0).astype(int).tolist()


class Simulation:
    """Tokens per second of methods over strings of places, under one machine's latencies.

    first: the places of the tokens before the strings, those that end prefill; 0 where nothing is known of one.
    """

    def __init__(
        self, strings: Sequence[np.ndarray], latencies: Latencies, seed: int = 0, first: Sequence[int] | None = None
    ) -> None:
        known = zip(strings, first or [0] * len(strings), strict=True)
        held = [(string, place) for string, place in known if len(string)]
        self.strings, self.first = [string for string, _ in held], [place for _, place in held]
        self.latencies = latencies
        self._rng = np.random.default_rng(seed)
        self._drafting = latencies.draft_beside or latencies.draft  # one token of a server
        self._moment = 0.0
        self._between: dict[tuple[int, bool], float] = {}  # verifications of lengths that were not measured
        self._wide: dict[int, float] = {}  # trees of numbers of branches that were not measured

    def ar(self) -> float:
        return self._speed(lambda string: sum(self._verify(1) for _ in self._rounds(string)))

    def sd(self, length: int) -> float:
        def decode(string: np.ndarray) -> float:
            return sum(
                self._draw(self.latencies.draft, length) + self._verify(length + 1)
                for _ in self._rounds(kept(string, length))
            )

        return self._speed(decode)

    def ssd(self, length: int, counts: Sequence[int], foreseen: int = 0) -> float:
        """counts: the fan-out F_0 .. F_length; the back-up is neural. foreseen: the fan-out behind a prompt."""
        own = self.latencies
        if not own.tree:
            raise InputError(f"The latencies of {own.name} hold no 'tree': ssd cannot be simulated.")
        branches, first = sum(counts), iter(self.first)

        def decode(string: np.ndarray) -> float:
            seconds, held, late = 0.0, 0 < next(first) <= foreseen, 0.0
            rounds = kept(string, length)
            for accepted, place in self._rounds(rounds):
                # What the last round left to be built is waited for now.
                seconds += late + self._draw(own.comm)
                if not held:
                    seconds += self._draw(self._drafting, length)
                verified = self._draw(own.answer) + self._verify(length + 1, beside=True)
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
                # The draft is told what to go on with when the host is done with the round.
                host = self._draw(own.host_beside or own.host)
                seconds += max(self._verify(pending + 1, beside=True, host=0.0), block) + host
                judged = string[at : at + pending + 1]
                passed = _passed(judged)
                if passed < len(judged):
                    at, pending = at + passed + 1, 0
                else:
                    at, pending = at + passed, window - 1
            return seconds

        return self._speed(decode)

    def amusd(self, length: int, least: int = 2) -> float:
        """A draft that never waits, as far as `length` tokens ahead; an answer holds `least` tokens at least.

        As in `sdbench.asynchronous.amusd`: it is asked between two tokens; its run stands, less what was decided, if it holds the
        target's own token too, and is begun anew otherwise. The target reads length + 1 places, however many are drafted.
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
                asked = free + self._draw(own.answer) + self._verify(length + 1, beside=True)
                drafted = ahead
                # While the target is busy: tokens that are begun before it asks again.
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
        """Distributed speculative inference (2405.14105): each block of `length` tokens is verified as soon as it is drafted,
        on one of enough target servers; a rejection restarts the draft."""

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
        """The rounds one after the other, each with a moment of its own."""
        for one in rounds:
            self._moment = self._rng.random()
            yield one

    def _times(self, times: Times, count: int) -> Times:
        """So many successive samples from about the moment."""
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
        """The depths of a tree, one after the other: between the numbers of branches that were measured, and beyond, on a line."""
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

    def _verify(self, tokens: int, beside: bool = False, host: float | None = None) -> float:
        """The target's round: its forward over so many tokens, and its host (measured, if not given)."""
        own = self.latencies
        table = own.beside if (beside and own.beside) or not own.verify else own.verify
        if host is None:
            host = self._draw(own.host_beside if beside and own.host_beside else own.host)
        if tokens in table:
            return self._draw(table[tokens]) + host
        if (tokens, beside) not in self._between:
            known = sorted(table)
            means = [float(np.mean(table[n])) for n in known]
            self._between[tokens, beside] = float(np.interp(tokens, known, means))
        return self._between[tokens, beside] + host


def kept(string: np.ndarray, length: int) -> list[tuple[int, int]]:
    """The rounds of a draft of `length` over a string of places: how many tokens were kept, and the place of the one behind."""
    rounds, at = [], 0
    while at < len(string):
        drafted = string[at : at + length]
        accepted = _passed(drafted)
        after = at + accepted
        rounds.append((accepted, int(string[after]) if after < len(string) else 1))
        at = after + 1
    return rounds


def _passed(places: np.ndarray) -> int:
    """How many tokens pass before the first that the draft would not have drafted."""
    refused = np.flatnonzero(places > 1)
    return int(refused[0]) if len(refused) else len(places)
