"""Read the requests of served engines under load: throughput, time to the first token and time per token against the arrival
rate.

sdbench's own runs are closed loops: a request starts when the one before it has ended. Under an open loop requests arrive at a
rate, whether the server keeps up or not. guidellm (github vllm-project/guidellm) sends them. This module reads its JSON
reports, one for each server. `docs/open-loop.md` has the commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sdbench.analysis.figures import style
from sdbench.analysis.report.grid import Column, Grid
from sdbench.errors import InputError
from sdbench.runs.files import write_text
from sdbench.validate import shown


def read(server: str, report: Path) -> pd.DataFrame:
    """Return the requests of a report of guidellm, one row each.

    Columns: server; part, the number of the benchmark in the report; arrivals (constant, poisson, or another profile); rate, in
    requests per second as asked, and streams, of a closed loop (each None in the other); started and ended, in seconds;
    first_token, in seconds since the start; tokens; state (successful, errored, incomplete).
    Errors: InputError.
    """
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
        rows = [
            {
                "server": server,
                "part": number,
                "arrivals": part["config"]["strategy"]["type_"],
                "rate": _number(part["config"]["strategy"], "rate", needed=False),
                "streams": _number(part["config"]["strategy"], "streams", needed=False),
                **_times(one),
                "tokens": int(_number(one, "output_tokens") or 0),
                "state": state,
            }
            for number, part in enumerate(document["benchmarks"])
            for state in ("successful", "errored", "incomplete")
            for one in part["requests"][state] or ()
        ]
    except OSError as error:
        raise InputError(f"The report {report} of {server} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The report {report} of {server} is no JSON report of guidellm ({type(error).__name__}: {error}): write it with "
            "--output kind=json,path=FILE."
        ) from error
    if not rows:
        raise InputError(f"The report {report} of {server} holds no request: send some.")
    return pd.DataFrame(rows).astype(dict.fromkeys(("rate", "streams", "started", "ended", "first_token"), float))


def _times(request: Mapping[str, Any]) -> dict[str, float | None]:
    started, ended = _number(request, "request_start_time"), _number(request, "request_end_time")
    first = _number(request, "time_to_first_token_ms")
    if started is not None and ended is not None and ended < started:
        raise ValueError("a request ends before it starts")
    return {"started": started, "ended": ended, "first_token": None if first is None else first / 1000}


def _number(part: Mapping[str, Any], key: str, needed: bool = True) -> float | None:
    """Return a number of a report that is not negative, or None. Raises: KeyError, if it is needed; ValueError."""
    value = part[key] if needed else part.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise ValueError(f"{key} is {shown(value)}, not a number from 0 on")
    return value


def rates(requests: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each benchmark.

    Columns: server, arrivals, rate, streams; requests, and of them failed (errored or incomplete); served, in successful requests
    per second, and tokens_per_second, both over the time from the first start to the last end (NaN if it is 0); and the median
    and the 95th percentile of first_token and of seconds_per_token (behind the first one), in seconds.
    """
    found = []
    for _, part in requests.groupby(["server", "part"], sort=False):
        good = part[part.state == "successful"]
        lasted = (part.ended.max() - part.started.min()) or nan
        several = good[(good.tokens > 1) & good.first_token.notna()]
        per_token = (several.ended - several.started - several.first_token) / (several.tokens - 1)
        found.append({
            **part.iloc[0][["server", "arrivals", "rate", "streams"]],
            "requests": len(part),
            "failed": len(part) - len(good),
            "served": len(good) / lasted,
            "tokens_per_second": good.tokens.sum() / lasted,
            "first_token_p50": good.first_token.quantile(0.5),
            "first_token_p95": good.first_token.quantile(0.95),
            "seconds_per_token_p50": per_token.quantile(0.5),
            "seconds_per_token_p95": per_token.quantile(0.95),
        })  # fmt: skip
    return pd.DataFrame(found)


def write(reports: Mapping[str, Path], folder: Path) -> pd.DataFrame:
    """Read the reports of some servers, and write requests.csv, load.md and load.svg into a folder.

    reports: files of guidellm, by the name of the server. Returns the table of `rates`. Errors: InputError, before any file.
    """
    requests = pd.concat([read(server, report) for server, report in reports.items()], ignore_index=True)
    table = rates(requests)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "requests.csv", requests.to_csv(index=False))
    write_text(folder / "load.md", grid(table).markdown() + "\n")
    with style.context(reports):
        style.save(drawn(table), folder, "load")
    return table


def grid(table: pd.DataFrame) -> Grid:
    """Return the table of `rates` for a reader, times in milliseconds."""
    columns = [
        Column("server", code=True), Column("arrivals"), Column("asked per s", "g"), Column("streams", ".0f"),
        Column("requests", "d"), Column("failed", "d"), Column("served per s", ".2f"), Column("tokens per s", ".1f"),
        Column("first token, p50 ms", ".0f"), Column("first token, p95 ms", ".0f"),
        Column("per token, p50 ms", ".1f"), Column("per token, p95 ms", ".1f"),
    ]  # fmt: skip
    names = ["server", "arrivals", "rate", "streams", "requests", "failed", "served", "tokens_per_second"]
    times = [f"{part}_{share}" for part in ("first_token", "seconds_per_token") for share in ("p50", "p95")]
    rows = [[*(one[name] for name in names), *(1000 * one[name] for name in times)] for one in table.to_dict("records")]
    return Grid(columns, rows, title="Served engines under load")


def drawn(table: pd.DataFrame) -> Figure:
    """Draw throughput, first token and time per token against the rate. Lines are medians, dashed ones the 95th percentile."""
    made = style.figure(7.6, 2.8)
    panels = [
        ("tokens per second", [("tokens_per_second", "-", 1.0)]),
        ("ms to the first token", [("first_token_p50", "-", 1e3), ("first_token_p95", "--", 1e3)]),
        ("ms per token", [("seconds_per_token_p50", "-", 1e3), ("seconds_per_token_p95", "--", 1e3)]),
    ]
    known = table[table.rate.notna()].sort_values("rate")
    for axes, (title, lines) in zip(made.subplots(1, 3), panels, strict=True):
        for server, part in known.groupby("server", sort=False):
            name = str(server)
            for column, line, scale in lines:
                label = name if line == "-" and axes is made.axes[0] else None
                axes.plot(
                    part.rate, scale * part[column], line, marker=style.marker(name), markersize=4, label=label,
                    color=style.colour(name),
                )  # fmt: skip
        axes.set_xlabel("requests per second")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.grid()
    made.legend(loc="outside upper center", ncols=4)
    return made
