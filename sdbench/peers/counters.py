"""Read a server's own counters of its speculation.

vLLM publishes counters at `/metrics` (Prometheus): `vllm:spec_decode_num_drafts_total` (verifications),
`..._num_draft_tokens_total` and `..._num_accepted_tokens_total`. The counter
`..._num_accepted_tokens_per_pos_total{position="k"}` counts the verifications that kept more than k tokens. The difference
before and after a request belongs to this request, if no other client uses the server.

SGLang reports the counts of each request in `meta_info`: `spec_verify_ct`, `spec_draft_token_num`,
`spec_accept_token_num`, `spec_accept_histogram`.

Both servers report how many verifications kept how many tokens, without their order. So `rounds` sorts them by length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_PREFIX = "vllm:spec_decode_num_"
_LINE = re.compile(r"(?P<name>[\w:]+?)(?:_total)?(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_POSITION = re.compile(r'position="(\d+)"')


@dataclass(frozen=True)
class Counts:
    """Hold the counts of one request.

    drafts: verifications. drafted, accepted: tokens. kept[n]: verifications that kept n tokens (empty: unknown). steps: drafted and
    accepted tokens of each verification, in order (empty: unknown).
    """

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    kept: tuple[int, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()

    def rounds(self) -> list[tuple[int, int]]:
        """Return (proposed, accepted) of each verification; [] if the lengths are unknown.

        Without `steps`, they are sorted by accepted length, and the drafted tokens are divided evenly. This is exact for a server
        that always drafts K tokens.
        """
        if self.steps:
            return list(self.steps)
        accepted = [length for length, count in enumerate(self.kept) for _ in range(count)]
        if not accepted:
            return []
        each, more = divmod(self.drafted, len(accepted))
        # The last rounds kept the most tokens. They get the tokens that remain after the even division.
        proposed = [each + (number >= len(accepted) - more) for number in range(len(accepted))]
        return [(max(drafted, kept), kept) for drafted, kept in zip(proposed, accepted, strict=True)]


def of_steps(report: Mapping[str, Any]) -> Counts | None:
    """Read vLLM's report on one request: the tokens that each step drafted and accepted. None if it is no such report."""
    drafted, accepted = report.get("per_step_drafted"), report.get("per_step_accepted")
    if not drafted or not accepted or len(drafted) != len(accepted):
        return None
    steps = tuple((int(count), int(kept)) for count, kept in zip(drafted, accepted, strict=True))
    return Counts(len(steps), sum(map(int, drafted)), sum(map(int, accepted)), steps=steps)


def of_metrics(text: str) -> dict[str, float]:
    """Parse vLLM's speculation counters from the text of `/metrics`.

    The sums over engines have the counter's name as key, or `per_pos/k` for position k.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.fullmatch(line.strip())
        if match is None or not match["name"].startswith(_PREFIX):
            continue
        name = match["name"].removeprefix(_PREFIX)
        place = _POSITION.search(match["labels"] or "")
        if name == "accepted_tokens_per_pos" and place:
            name = f"per_pos/{place[1]}"
        found[name] = found.get(name, 0.0) + float(match["value"])
    return found


def between(before: Mapping[str, float], after: Mapping[str, float]) -> Counts:
    """Return the increase of vLLM's counters between two readings."""
    rise = {name: round(value - before.get(name, 0.0)) for name, value in after.items()}
    drafts = rise.get("drafts", 0)
    places = sorted(int(name.partition("/")[2]) for name in rise if name.startswith("per_pos/"))
    reached = [drafts, *[rise[f"per_pos/{place}"] for place in places], 0]
    kept = tuple(more - fewer for more, fewer in pairwise(reached))
    return Counts(drafts, rise.get("draft_tokens", 0), rise.get("accepted_tokens", 0), kept if places else ())


def of_meta(meta: Mapping[str, Any]) -> Counts | None:
    """Return the counts that SGLang reports for one request; None if it reports none."""
    if "spec_verify_ct" not in meta:
        return None
    histogram: Sequence[int] = meta.get("spec_accept_histogram") or ()
    return Counts(
        int(meta["spec_verify_ct"]),
        int(meta.get("spec_draft_token_num") or 0),
        int(meta.get("spec_accept_token_num") or 0),
        tuple(int(count) for count in histogram),
    )
