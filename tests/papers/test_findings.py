"""Findings read their numbers from files, and a finding without its files is left out."""

import json

import pytest

from sdbench.papers.findings import findings, shown

DOCUMENT = {"arms": {"sd": {"speedup": 1.5, "speedup_ci95": [1.4, 1.6]}}, "times": [[0.2, 0.1], [0.5, 0.4]]}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps(DOCUMENT))
    return tmp_path


def value(**options):
    return {"file": "run/summary.json", **options}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"at": ["arms", "sd", "speedup"], "unit": "x"}, "1.50x"),
        ({"at": ["arms", "sd", "speedup"], "within": ["arms", "sd", "speedup_ci95"], "digits": 1}, "1.5 [1.4, 1.6]"),
        ({"at": ["times", 1, 0], "over": ["times", 0, 0], "digits": 1}, "2.5"),
        ({"at": ["times", 0, 1], "percent": True, "digits": 0}, "10\N{NO-BREAK SPACE}%"),
    ],
)
def test_a_value_is_read_from_its_file(options, text, results):
    assert shown(results, value(**options)) == text


def test_a_finding_without_its_file_is_left_out(results, tmp_path):
    file = tmp_path / "findings.yaml"
    known = "- {heading: H, says: 'It is {a}.', values: {a: {file: run/summary.json, at: [arms, sd, speedup]}}}\n"
    file.write_text(known + known.replace("run/", "other/"))
    assert findings(results, file) == ["## H", "It is 1.50.", "Measured in `results/run/summary.json`."]
    file.write_text(known.replace("speedup]", "speed]"))
    with pytest.raises(KeyError):
        findings(results, file)
