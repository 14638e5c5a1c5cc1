"""What a change of the engine did: two kept folders of the same comparison, each arm over transformers' `generate` in its own run.

python -m experiments.bench.change BEFORE AFTER OUT_FILE

Tokens per second of two days differ with the machine's load; a ratio of arms that were interleaved in one run does not. So each
side is divided by the `hf_generate` of its own run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.script import script
from sdbench.errors import InputError

PEER = "hf_generate"


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """A kept run's arms, and the revision that it was measured at."""
    if not (folder / "summary.json").is_file():
        raise InputError(f"{folder} holds no summary.json: name the folder of a kept run.")
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


def main(before: str, after: str, out_file: str) -> None:
    out = Path(out_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text(Path(before), Path(after)))
    print(out.read_text())


if __name__ == "__main__":
    script(main, __doc__, 3)
