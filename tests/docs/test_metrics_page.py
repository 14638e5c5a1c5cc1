"""The metrics page has every flag of a report, and names only metrics that a summary has."""

import json
import re

from sdbench.analysis.report.comparison_table import FLAGS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_flags():
    section = PAGE.split("## Flags")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| (\w) \|", section, re.M)) == set(FLAGS)


def test_metrics_are_those_of_a_summary():
    run = json.loads((ROOT / "results" / "default" / "summary.json").read_text(encoding="utf-8"))
    known = {key for arm in run["arms"].values() for key in arm}
    # SSD's stands apart; the kept run is older than the others.
    known |= {
        "hit_rate",
        "joules_per_token",
        "thinking",
        "bandwidth_share",
        "nats_per_token",
        "nats_difference",
        "as_likely",
    }
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert len(named) > 15
    assert set(named) <= known
