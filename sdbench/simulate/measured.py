"""Read the latencies of a machine from the rows of a run: the parts of a round, in the order of their measurement.

A request waits while the server is at work. The simulator computes this wait from the other times, so it is not part of an
exchange. An exchange starts when the request has arrived and the server is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sdbench.simulate.events import Latencies

_BLOCK = ["arm", "block", "repeat"]


def measured(tables: Mapping[str, pd.DataFrame], name: str = "this run's machine") -> Latencies:
    """Return the latencies that a run measured in its arms with and without a concurrent draft.

    The host time of a round comes from the arms that draft nothing. The additional host time of the other arms is added to their
    drafted tokens.
    """
    rounds, bare = tables["rounds"], "wanted" in tables["rounds"]
    overlapping = set(rounds.loc[rounds["wanted"].notna(), "arm"]) if bare else set()
    on_target = rounds[rounds["verifier"] == "target"]
    drafting = set(on_target.loc[on_target["proposer"] == "draft", "arm"]) - overlapping
    alone = set(on_target.loc[on_target["proposer"] == "", "arm"])
    steps = tables["steps"][tables["steps"]["kind"] != "prefill"]
    verify = steps[(steps["role"] == "target") & (steps["kind"] == "verify")]
    host = host_seconds(tables, alone) if alone else host_seconds(tables, drafting)
    own = rounds[rounds["arm"].isin(drafting)]
    more = (
        max(0.0, host_seconds(tables, drafting) - host) / max(float(own["proposed"].mean()), 1.0) if len(own) else 0.0
    )
    draft = [value + more for value in steps.loc[(steps["role"] == "draft") & (steps["kind"] == "draft"), "seconds"]]
    concurrent: dict[str, Any] = {}
    if overlapping:
        concurrent = _concurrent(rounds, steps)
        concurrent["host_concurrent"] = [host_seconds(tables, overlapping)]
        draft = draft or concurrent["draft_concurrent"]
    apart = verify["arm"].isin(overlapping)
    return Latencies(
        name,
        "measured",
        verify=_by_tokens(verify[~apart]),
        verify_concurrent=_by_tokens(verify[apart]),
        draft=draft,
        host=[host],
        **concurrent,
    )


def _concurrent(rounds: pd.DataFrame, steps: pd.DataFrame) -> dict[str, Any]:
    """Return the servers' latencies, from the rounds of the arms with a concurrent draft."""
    once = rounds[rounds["wanted"].notna()].drop_duplicates(["arm", "asked"]).sort_values("asked")
    own = steps[steps["arm"].isin(once["arm"])]
    drafted = own.loc[own["kind"].eq("backup"), [*_BLOCK, "round"]].value_counts().rename("drafted").reset_index()
    once = once.merge(drafted, how="left", on=[*_BLOCK, "round"]).fillna({"drafted": 0})
    served = once["replied"] - once["received"]
    at_once = once["drafted"] == 0
    # The time to serve without drafting. A draft without a cache has no such round.
    plain = float(served[at_once].mean()) if at_once.any() else 0.0
    comm = once["received"] - np.fmax(once["asked"], _idle_since(once, own)) + served.where(at_once, plain)
    later = once["round"] > 0  # in a first round the server may still work on the prompt
    comm = comm[later] if later.any() else comm
    found: dict[str, Any] = {
        "comm": comm.tolist(),
        "answer": (once["answered"] - once["replied"]).tolist(),
        # A drafted token of the server, with the work around its forward.
        "draft_concurrent": ((served - plain) / once["drafted"])[~at_once].tolist() + _run(own),
    }
    if once["hit"].notna().any():
        built = (once["built"] - once["replied"]).dropna()
        tree, glue, alone = (own[own["kind"] == kind] for kind in ("tree", "glue", "branch"))
        # A cache behind a prompt is built without glue.
        grown = sum(part.loc[part["round"] >= 0, "seconds"].sum() for part in (tree, alone)) / len(glue)
        extra = max(0.0, float(built.mean() - glue["seconds"].mean() - grown))
        at_once = "loop" in tree and bool(tree["loop"].notna().any())  # a tree that one program grows is never left
        widths = _by_tokens(tree)
        if found["draft_concurrent"]:
            widths.setdefault(1, found["draft_concurrent"])  # a tree of one branch is a draft
        else:  # the back-up never drafted
            found["draft_concurrent"] = alone["seconds"].tolist() or tree["seconds"].tolist()
        found |= {
            "tree": widths,
            "glue": [value + extra for value in glue["seconds"]],
            "leaves": not at_once,
        }
    return found


def _idle_since(once: pd.DataFrame, steps: pd.DataFrame) -> pd.Series:
    """Return when the server finished its work for the request before; NaN where it had none."""
    built = once.groupby(_BLOCK)["built"].shift()
    running = steps[steps["kind"] == "run"]
    ends = (running["begun"] + running["seconds"]).groupby([running[key] for key in [*_BLOCK, "round"]]).max()
    before = pd.MultiIndex.from_frame(once[_BLOCK].assign(round=once["round"] - 1))
    return built.fillna(pd.Series(ends.reindex(before).to_numpy(), once.index))


def _run(steps: pd.DataFrame) -> list[float]:
    """Return the seconds from one token to the next of a draft that never waits."""
    running = steps[steps["kind"] == "run"]
    if running.empty:
        return []
    return running.groupby([*_BLOCK, "round"])["begun"].diff().dropna().tolist()


def _by_tokens(steps: pd.DataFrame) -> dict[int, list[float]]:
    return {int(n): part["seconds"].tolist() for n, part in steps.groupby("tokens")}  # pyright: ignore


def host_seconds(tables: Mapping[str, pd.DataFrame], arms: set[str]) -> float:
    """Return the mean seconds of a round of these arms outside any forward and any wait."""
    of = {name: table[table["arm"].isin(arms)] for name, table in tables.items() if name != "bare"}
    wall = float(of["sequences"].drop_duplicates(["arm", "block", "repeat"])["block_decode_seconds"].sum())
    steps = of["steps"][of["steps"]["kind"] != "prefill"]
    waits = 0.0
    if "wanted" in of["rounds"]:
        once = of["rounds"].drop_duplicates(["arm", "asked"])
        waits = float((once["answered"] - once["wanted"]).sum())
    forwards = steps[steps["kind"].isin(["verify", "draft"])]["seconds"].sum()
    return max(0.0, (wall - waits - float(forwards)) / max(int((steps["kind"] == "verify").sum()), 1))
