"""What a change of the engine did: two kept folders of the same comparison, each arm over transformers' `generate` in its own run.

python experiments/bench/change.py BEFORE AFTER OUT_FILE

Tokens per second of two days differ with the machine's load; a ratio of arms that were interleaved in one run does not. So each
side is divided by the `hf_generate` of its own run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PEER = "hf_generate"


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """A kept run's arms, and the revision that it was measured at."""
    summary = json.loads((folder / "summary.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    return summary["arms"], ((environment.get("git") or {}).get("sha") or "unknown")[:8]


def text(before: Path, after: Path) -> str:
    """The comparison in Markdown."""
    (old, was), (new, now) = read(before), read(after)
    lines = [
        f"Tokens per second end to end over `{PEER}` of the same run, before ({was}) and after ({now}).",
        "",
        "| arm | before | after | after / before | model time before | after |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in new:
        if name not in old:
            continue
        rates = [
            arms[name]["end_to_end_tokens_per_second"] / arms[PEER]["end_to_end_tokens_per_second"]
            for arms in (old, new)
        ]
        shares = [
            "–" if (share := arms[name]["model_time_fraction"]) is None else f"{100 * share:.1f} %"
            for arms in (old, new)
        ]
        lines.append(
            f"| `{name}` | {rates[0]:.2f}x | {rates[1]:.2f}x | {rates[1] / rates[0]:.2f} | {' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def main(before: Path, after: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text(before, after))
    print(out.read_text())


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]))
