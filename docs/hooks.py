"""Add the generated page to the site: the command line, written from the program's own parser and configuration groups."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

INTRODUCTION = """\
# Command line

This page is generated from the program. `sdbench VERB --help` prints the same options.

The exit status is 0 on success and 1 if something that was started failed. It is 2 if the input was refused, and 130 after
Ctrl-C. If standard output is no terminal, its last line is one JSON document.
"""

CHOICES = """\
## What can be named

`sdbench ls GROUP` prints the members of a group. The first line of each configuration file describes its member.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add `command-line.md` to the pages of the site (an MkDocs event)."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "command-line.md", content=command_line()))
    return files


def command_line() -> str:
    """Write the page: one section per verb, then one table per configuration group."""
    from sdbench.harness.config import GROUPS, choices

    parts = [INTRODUCTION]
    for name, parser in verbs().items():
        parts.append(_verb(name, parser))
    parts.append(CHOICES)
    for group in GROUPS:
        rows = [f"| `{name}` | {_description(group, name)} |" for name in choices(group)]
        parts.append("\n".join([f"### {group}\n", "| name | description |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb by its name."""
    from sdbench.cli import _parser

    parser = _parser()
    actions = parser._subparsers._group_actions if parser._subparsers else []
    return dict(actions[0].choices or {})  # pyright: ignore


def _verb(name: str, parser: argparse.ArgumentParser) -> str:
    """Write the section of one verb: usage, description, arguments."""
    usage = " ".join(parser.format_usage().removeprefix("usage:").split())
    lines = [f"## {name}\n", f"```text\n{usage}\n```\n"]
    if parser.description:
        lines.append(f"{parser.description}\n")
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        shown = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        rows.append(f"| `{shown}` | {_cell(action.help or '')} |")
    if rows:
        lines += ["| argument | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _description(group: str, name: str) -> str:
    """Return the comment that opens a configuration file, as one line."""
    from sdbench.harness.config import config_dir

    comments = []
    for line in (config_dir() / group / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comments.append(line.lstrip("# ").strip())
    if comments:
        return _cell(" ".join(comments))
    loaded = yaml.safe_load((config_dir() / group / f"{name}.yaml").read_text()) or {}
    return _cell(f"`{loaded.get('_target_', '')}`")


def _cell(text: str) -> str:
    """Escape what a Markdown table reads as its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
