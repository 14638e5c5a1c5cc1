"""A round-level simulation of what a method would do on a machine with other latencies, fed with recorded outcomes.

SIMULATED: nothing here is decoded. A greedy run with a draft says of every token of the target's output where it stood in the
draft's own order behind the same prefix: place 1 means that the draft would have drafted it. That string of places decides, for any
draft length, how many tokens a round keeps, and for any fan-out, whether the next speculation is held. What a round takes:

    ar      T(1)
    sd      K t_d + T(K + 1)
    ssd     T_comm + T_b [on a miss] + max(T(K + 1), t_glue + K t_tree)      (as coded by the authors: no interruption)
    pearl   max(g t_d, T(n)) and the host's time,  n the tokens that the target reads

    dsi     from one rejection to the next: the drafting of the block that holds it, and T(k)     (servers enough to verify at once)

with the target's time T(n) over n tokens, its host's included but for pearl. Times are numbers, or samples of measured ones, of
which each round draws its own: the mean of a maximum is more than the maximum of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sdbench.errors import InputError

Times = Sequence[float]


@dataclass(frozen=True)
class Latencies:
    """Seconds, each a list of samples (one number is a list of one).

    verify: the target's forward over n tokens, by n; what lies between is interpolated. beside: the same while a draft works
    beside it. host, host_beside: of the target's process in a round, outside the forward and the draft. draft, draft_beside: one
    drafted token of one row, in the target's process and in a server's. glue, tree: of a server's reading of a speculation, and
    of one depth of its branches. comm: an exchange with the server, on a hit.
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
    tree: Times = ()
    comm: Times = (0.0,)
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
            "verify",
            "beside",
            "draft",
            "host",
            "host_beside",
            "draft_beside",
            "glue",
            "tree",
            "comm",
        }
        unknown = values.keys() - known
        if unknown:
            raise InputError(f"A latency file has no '{min(unknown)}'; it has: {', '.join(sorted(known))}.")
        for name in ("name", "source", "verify", "draft"):
            if values.get(name) is None:
                raise InputError(f"The latency file lacks '{name}'; give it there, or as latency.{name}=MILLISECONDS.")
        tables: Any = {
            name: {int(n): seconds(value, name) for n, value in (values.get(name) or {}).items()}
            for name in ("verify", "beside")
        }
        rest: Any = {
            name: seconds(values[name], name)
            for name in ("host", "host_beside", "draft_beside", "glue", "tree", "comm", "draft")
            if values.get(name) is not None
        }
        return Latencies(**rest, **tables, **{key: values[key] for key in _SAID if key in values})


_SAID = ("name", "source", "published")


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


class Simulation:
    """Tokens per second of methods over strings of places, under one machine's latencies."""

    def __init__(self, strings: Sequence[np.ndarray], latencies: Latencies, seed: int = 0) -> None:
        self.strings, self.latencies = [string for string in strings if len(string)], latencies
        self._rng = np.random.default_rng(seed)

    def ar(self) -> float:
        return self._speed(lambda string: sum(self._verify(1) for _ in string), whole=True)

    def sd(self, length: int) -> float:
        def decode(string: np.ndarray) -> float:
            return sum(
                sum(self._draw(self.latencies.draft) for _ in range(length)) + self._verify(length + 1)
                for _ in kept(string, length)
            )

        return self._speed(decode)

    def ssd(self, length: int, counts: Sequence[int]) -> float:
        """counts: the fan-out F_0 .. F_length; the back-up is neural."""
        if not self.latencies.tree:
            raise InputError(f"The latencies of {self.latencies.name} hold no 'tree': ssd cannot be simulated.")

        drafting = self.latencies.draft_beside or self.latencies.draft

        def decode(string: np.ndarray) -> float:
            seconds, held = 0.0, False
            for accepted, place in kept(string, length):
                seconds += self._draw(self.latencies.comm)
                if not held:
                    seconds += sum(self._draw(drafting) for _ in range(length))
                built = self._draw(self.latencies.glue) + sum(self._draw(self.latencies.tree) for _ in range(length))
                seconds += max(self._verify(length + 1, beside=True), built)
                held = place - (accepted < length) <= counts[accepted]
            return seconds

        return self._speed(decode)

    def pearl(self, window: int) -> float:
        drafting = self.latencies.draft_beside or self.latencies.draft

        def decode(string: np.ndarray) -> float:
            seconds, at, pending = 0.0, 0, 0
            while at < len(string):
                block = sum(self._draw(drafting) for _ in range(window)) + self._draw(self.latencies.comm)
                # The draft is told what to go on with when the host is done with the round.
                host = self._draw(self.latencies.host_beside or self.latencies.host)
                seconds += max(self._verify(pending + 1, beside=True, host=0.0), block) + host
                judged = string[at : at + pending + 1]
                passed = int(np.argmax(judged > 1)) if (judged > 1).any() else len(judged)
                if passed < len(judged):
                    at, pending = at + passed + 1, 0
                else:
                    at, pending = at + passed, window - 1
            return seconds

        return self._speed(decode)

    def dsi(self, length: int) -> float:
        """Distributed speculative inference (2405.14105): each block of `length` tokens is verified as soon as it is drafted,
        on one of enough target servers; a rejection restarts the draft."""

        def decode(string: np.ndarray) -> float:
            seconds, at = 0.0, 0
            while at < len(string):
                rest = string[at:]
                passed = int(np.argmax(rest > 1)) if (rest > 1).any() else len(rest)
                drafted = length * -(-(passed + 1) // length)
                seconds += sum(self._draw(self.latencies.draft) for _ in range(drafted)) + self._verify(length)
                at += passed + 1
            return seconds

        return self._speed(decode)

    def _speed(self, decode: Any, whole: bool = False) -> float:
        tokens = sum(len(string) for string in self.strings)
        return tokens / sum(decode(string) for string in self.strings)

    def _draw(self, times: Times) -> float:
        return times[0] if len(times) == 1 else float(times[int(self._rng.integers(len(times)))])

    def _verify(self, tokens: int, beside: bool = False, host: float | None = None) -> float:
        """The target's round: its forward over so many tokens, and its host (measured, if not given)."""
        own = self.latencies
        table = own.beside if beside and own.beside else own.verify
        if host is None:
            host = self._draw(own.host_beside if beside and own.host_beside else own.host)
        if tokens in table:
            return self._draw(table[tokens]) + host
        known = sorted(table)
        return float(np.interp(tokens, known, [float(np.mean(table[n])) for n in known])) + host


def kept(string: np.ndarray, length: int) -> list[tuple[int, int]]:
    """The rounds of a draft of `length` over a string of places: how many tokens were kept, and the place of the one behind."""
    rounds, at = [], 0
    while at < len(string):
        drafted = string[at : at + length]
        accepted = int(np.argmax(drafted > 1)) if (drafted > 1).any() else len(drafted)
        after = at + accepted
        rounds.append((accepted, int(string[after]) if after < len(string) else 1))
        at = after + 1
    return rounds


def measured(tables: Mapping[str, pd.DataFrame], name: str = "this run's machine") -> Latencies:
    """The latencies that a run measured: of the arms without a draft beside the target, and of those with one.

    The host's time of a round is that of the arms that draft nothing; what the others have more counts with their drafted tokens.
    """
    rounds, bare = tables["rounds"], "wanted" in tables["rounds"]
    overlapping = set(rounds.loc[rounds["wanted"].notna(), "arm"]) if bare else set()
    drafting = set(rounds.loc[rounds["edge"] == "draft>target", "arm"]) - overlapping
    alone = set(rounds.loc[rounds["edge"] == "target", "arm"])
    steps = tables["steps"][tables["steps"]["kind"] != "prefill"]
    verify = steps[(steps["role"] == "target") & (steps["kind"] == "verify")]
    host = _host(tables, alone) if alone else _host(tables, drafting)
    own = rounds[rounds["arm"].isin(drafting)]
    more = max(0.0, _host(tables, drafting) - host) / max(float(own["proposed"].mean()), 1.0) if len(own) else 0.0
    draft = [value + more for value in steps.loc[(steps["role"] == "draft") & (steps["kind"] == "draft"), "seconds"]]
    beside: dict[str, Any] = {}
    if overlapping:
        once = rounds[rounds["wanted"].notna()].drop_duplicates(["arm", "asked"])
        served = once["replied"] - once["received"]
        missed = once["hit"].ne(True)
        drafts = missed & once["arm"].isin(steps.loc[steps["kind"] == "backup", "arm"])
        # A drafted token of the server, what it does around the forward included.
        lengths = once.groupby("arm")["proposed"].transform("max").clip(lower=1)
        by_server = (served[drafts] / lengths[drafts]).tolist()
        if once["hit"].notna().any():
            held = once[~missed]
            built = (held["built"] - held["replied"]).dropna()
            tree, glue = (steps.loc[steps["kind"] == kind, "seconds"] for kind in ("tree", "glue"))
            extra = max(0.0, float(built.mean() - glue.mean() - lengths[~missed].mean() * tree.mean()))
            # A request that finds the server still building waits for it: no part of the exchange.
            asking = float((held["received"] - held["asked"]).quantile(0.25))
            beside = {
                "tree": tree.tolist(),
                "glue": [value + extra for value in glue],
                "comm": (held["answered"] - held["received"] + asking).tolist(),
            }
        else:
            beside = {
                "comm": (once["answered"] - once["replied"] + (once["received"] - once["asked"]).median()).tolist()
            }
        beside["host_beside"] = [_host(tables, overlapping)]
        beside["draft_beside"] = by_server
        draft = draft or by_server
    apart = verify["arm"].isin(overlapping)
    return Latencies(
        name,
        "measured",
        verify=_by_tokens(verify[~apart]),
        beside=_by_tokens(verify[apart]),
        draft=draft,
        host=[host],
        **beside,
    )


def _by_tokens(steps: pd.DataFrame) -> dict[int, list[float]]:
    return {int(n): part["seconds"].tolist() for n, part in steps.groupby("tokens")}  # pyright: ignore


def _host(tables: Mapping[str, pd.DataFrame], arms: set[str]) -> float:
    """Mean seconds of a round of these arms outside any forward and any wait."""
    of = {name: table[table["arm"].isin(arms)] for name, table in tables.items() if name != "bare"}
    wall = float(of["sequences"].drop_duplicates(["arm", "block", "repeat"])["block_decode_seconds"].sum())
    steps = of["steps"][of["steps"]["kind"] != "prefill"]
    waits = 0.0
    if "wanted" in of["rounds"]:
        once = of["rounds"].drop_duplicates(["arm", "asked"])
        waits = float((once["answered"] - once["wanted"]).sum())
    forwards = steps[steps["kind"].isin(["verify", "draft"])]["seconds"].sum()
    return max(0.0, (wall - waits - float(forwards)) / max(int((steps["kind"] == "verify").sum()), 1))
