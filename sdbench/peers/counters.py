"""A server's own account of its speculation.

vLLM counts at `/metrics` (Prometheus): `vllm:spec_decode_num_drafts_total` (verifications), `..._num_draft_tokens_total`,
`..._num_accepted_tokens_total`, and by position `..._num_accepted_tokens_per_pos_total{position="k"}`, the verifications that
kept more than k tokens. The difference before and after a request is the request's, as long as nobody else asks. SGLang tells
each request of its own in `meta_info`: `spec_verify_ct`, `spec_draft_token_num`, `spec_accept_token_num`,
`spec_accept_histogram`.

Both say how many verifications kept how many tokens, not in which order: as rounds they come in the order of their lengths.
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
    """drafts: verifications; drafted, accepted: tokens; kept[n]: verifications that kept n tokens (empty: not told)."""

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    kept: tuple[int, ...] = ()

    def rounds(self) -> list[tuple[int, int]]:
        """(proposed, accepted) of each verification, by length; empty where the lengths were not told.

        Drafted tokens are shared out evenly: a server that drafts K every time drafted K in each.
        """
        accepted = [length for length, count in enumerate(self.kept) for _ in range(count)]
        if not accepted:
            return []
        each, more = divmod(self.drafted, len(accepted))
        # The longer ones last, so that the rounds which drafted one token more are those that kept most.
        proposed = [each + (number >= len(accepted) - more) for number in range(len(accepted))]
        return [(max(drafted, kept), kept) for drafted, kept in zip(proposed, accepted, strict=True)]


def of_metrics(text: str) -> dict[str, float]:
    """vLLM's speculation counters from its `/metrics`, summed over engines: by name, and `per_pos/k`."""
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
    """What vLLM's counters rose by."""
    rise = {name: round(value - before.get(name, 0.0)) for name, value in after.items()}
    drafts = rise.get("drafts", 0)
    places = sorted(int(name.partition("/")[2]) for name in rise if name.startswith("per_pos/"))
    reached = [drafts, *[rise[f"per_pos/{place}"] for place in places], 0]
    kept = tuple(more - fewer for more, fewer in pairwise(reached))
    return Counts(drafts, rise.get("draft_tokens", 0), rise.get("accepted_tokens", 0), kept if places else ())


def of_meta(meta: Mapping[str, Any]) -> Counts | None:
    """What SGLang says of one request; None where it says nothing."""
    if "spec_verify_ct" not in meta:
        return None
    histogram: Sequence[int] = meta.get("spec_accept_histogram") or ()
    return Counts(
        int(meta["spec_verify_ct"]),
        int(meta.get("spec_draft_token_num") or 0),
        int(meta.get("spec_accept_token_num") or 0),
        tuple(int(count) for count in histogram),
    )
