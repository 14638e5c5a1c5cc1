"""Write the page of findings: sentences whose numbers are read from kept results.

`experiments/findings.yaml` holds them. A finding has a heading and sentences with named places. For each name it gives the file
and the path of a value. A path goes through the keys of a JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sdbench.analysis.report.grid import estimate
from sdbench.papers import FOLDER


def findings(results: Path, file: Path = FOLDER / "findings.yaml") -> list[str]:
    """Return the parts of the page. results: the folder of kept results. A finding without its files is left out.

    Errors: KeyError if a document has no value at a path.
    """
    parts = []
    for one in yaml.safe_load(file.read_text(encoding="utf-8")):
        named = one["values"]
        files = dict.fromkeys(value["file"] for value in named.values())
        if all((results / name).is_file() for name in files):
            said = one["says"].format(**{name: shown(results, value) for name, value in named.items()})
            sources = ", ".join(f"`results/{name}`" for name in files)
            parts += [f"## {one['heading']}", said.strip(), f"Measured in {sources}."]
    return parts


def shown(results: Path, value: Mapping[str, Any]) -> str:
    """Return a value as text, with its interval if it has one.

    value: `file` and `at`, the path of the number. Optional: `within`, the path of its 95 % interval; `over`, the path of a number
    to divide by; `digits`, by default 2; `unit`; `percent`.
    """
    document = json.loads((results / value["file"]).read_text(encoding="utf-8"))
    scale = (100 if value.get("percent") else 1) / (_at(document, value["over"]) if "over" in value else 1)
    ends = [scale * end for end in _at(document, value["within"])] if "within" in value else None
    unit = "\N{NO-BREAK SPACE}%" if value.get("percent") else value.get("unit", "")
    return estimate(scale * _at(document, value["at"]), ends, value.get("digits", 2), unit)


def _at(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document
