"""The files around the package agree with it: citation, changes, workflows, issue templates."""

import re

import pytest
import yaml

import sdbench
from tests.docs.pages import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == sdbench.__version__
    assert all(set(author) & {"name", "family-names"} for author in citation["authors"])


def test_the_changes_open_with_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == sdbench.__version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_there_is(path):
    workflow = yaml.safe_load(path.read_text())
    targets = re.findall(r"^([a-z][\w-]*)[^:=\n]*:(?!=)", (ROOT / "Makefile").read_text(), re.M)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    made = [word for step in steps for word in re.findall(r"^make ([\w-]+)", step.get("run", ""))]
    assert set(made) <= set(targets)
    assert all("run" in step or "uses" in step for step in steps)


def test_every_check_runs_on_github():
    text = "".join(path.read_text() for path in WORKFLOWS)
    for target in ("lint", "test", "docs", "test-slow", "verify-docs"):
        assert f"make {target}" in text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_an_issue_template_is_one(path):
    template = yaml.safe_load(path.read_text())
    if path.name != "config.yml":
        assert template.keys() >= {"name", "description", "body"}
        assert all({"type", "attributes"} <= part.keys() for part in template["body"])


def test_a_fault_is_reported_with_its_surroundings():
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "fault.yml").read_text()
    assert "sdbench doctor" in text
    assert "environment.json" in text


def test_pre_commit_checks_style_and_types():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"] for repository in config["repos"] for hook in repository["hooks"]}
    assert {"ruff", "ruff-format", "pyright"} <= hooks
    pinned = re.search(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    assert config["repos"][0]["rev"] == f"v{pinned[1]}"
