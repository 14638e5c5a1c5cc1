"""The report is whole: table, figures, footnotes, for few arms and for many."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from sdbench.analysis import plots, style
from sdbench.analysis.report import comparison_table
from sdbench.analysis.report.write import report, show
from sdbench.analysis.summary import summarise
from sdbench.errors import InputError
from sdbench.runs.record import claim
from sdbench.runs.tables import frames
from tests.runs.made import AR, FSD, PSD_FUZZY, PYRAMID, SD, Arm, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts are few")
ARMS = [AR, SD, FSD, PYRAMID, PSD_FUZZY]


def write(path, arms, name):
    folder = claim(path, name)
    tables = frames(rows(arms, prompts=12))
    folder.describe({"seed": 0}, {"cpu": {"model": "abacus"}, "git": {"sha": "f" * 40, "dirty": True}})
    folder.finish(tables, summarise(tables, "ar", meta(arms)))
    return folder.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("run") / "demo", ARMS, "abc")


OVERLAPPED = {
    "draft_length",
    "timeline",
    "fan_out",
    "saguaro",
    "batch",
    "end_to_end",
}  # of arms that are not in this run


@pytest.fixture(scope="module")
def summary():
    return summarise(frames(rows(ARMS, prompts=12)), "ar", meta(ARMS))


@pytest.fixture(scope="module")
def written(run):
    return report([run])


def test_the_report_has_its_parts(run, written):
    path = written
    assert path == run / "report" / "report.md"
    text = path.read_text()
    assert "| psd_fuzzy |" in text
    assert "abacus" in text
    assert "revision ffffffffffff with changes" in text
    for name in plots.FIGURES.keys() - OVERLAPPED:
        assert f"figures/{name}.png" in text
        assert (path.parent / "figures" / f"{name}.png").stat().st_size > 5000
        assert (path.parent / "figures" / f"{name}.svg").is_file()
    lines = list(csv.DictReader(io.StringIO((path.parent / "table.csv").read_text())))
    assert [line["arm"] for line in lines] == [arm.name for arm in ARMS]
    assert float(lines[1]["speedup_ci95_low"]) < float(lines[1]["speedup"]) < float(lines[1]["speedup_ci95_high"])


def test_flags_are_spelled_out(written):
    text = written.read_text()
    assert "- N: fewer than 40 prompts" in text
    assert "- L: lossy" in text
    assert "- D: degenerate" not in text


def test_several_runs_are_kept_apart(tmp_path):
    one, other = (write(tmp_path / name, [AR, SD], run_id) for name, run_id in (("one", "abc"), ("other", "def")))
    text = report([one, other], tmp_path / "both", page=False).read_text()
    assert not (tmp_path / "both" / "report.html").exists()
    assert (tmp_path / "both" / "report.tex").read_text().count("toprule") == 2
    assert "## one" in text
    assert "## other" in text
    assert (tmp_path / "both" / "figures" / "1-abc" / "speedup.png").is_file()
    assert (tmp_path / "both" / "figures" / "2-def" / "speedup.png").is_file()


def test_one_run_measured_twice_has_figures_of_each(tmp_path):
    one, other = (write(tmp_path / name, [AR, SD], "abc") for name in ("one", "other"))
    report([one, other], tmp_path / "both", page=False)
    assert len(list((tmp_path / "both" / "figures").glob("*/speedup.png"))) == 2


def test_an_earlier_reports_figures_are_not_shown(tmp_path):
    run = write(tmp_path / "one", [AR, SD], "abc")
    stale = tmp_path / "out" / "figures" / "timeline.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg xmlns='http://www.w3.org/2000/svg'><text>of another run</text></svg>")
    report([run], tmp_path / "out")
    assert "of another run" not in (tmp_path / "out" / "report.html").read_text()


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run was named"):
        report([])
    with pytest.raises(InputError, match="is not the folder of a run"):
        report([tmp_path])


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_table_fits(summary, width):
    screen = Console(width=width, file=io.StringIO(), color_system=None)
    show(summary, screen)
    text = screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(len, text.splitlines())) <= width
    for arm in ARMS:
        assert arm.name in text
    assert "fewer than 40" in text


def test_every_flag_can_be_raised(summary):
    arm = summary["arms"]["fsd"] | {
        "void": True,
        "simulated_acceptance": True,
        "end_to_end_only": True,
        "degenerate": True,
        "synthetic": True,
        "mode": "fixed",
        "failed": 1,
        "bare_coverage": 0.5,
        "uncompiled_steps": 3,
        "lost_draft_blocks": 1,
        "shared_device": True,
        "devices": ["cuda:0", "cuda:1"],
        "non_inferior": False,
    }
    assert comparison_table.flags(arm) == list(comparison_table.FLAGS)
    assert len(comparison_table.footnotes({"arms": {"fsd": arm}})) == len(comparison_table.FLAGS)


def test_missing_metrics_leave_gaps_not_errors(tmp_path):
    unscored = rows([AR, SD], prompts=3)
    for row in unscored["sequences"]:
        row["score"] = None
    unscored["bare"] = []
    thin = summarise(frames(unscored), "ar", meta([AR, SD]))
    assert thin["arms"]["sd"]["quality"] is None
    assert "–" in comparison_table.comparison(thin).markdown()
    names = {path.stem for path in plots.draw(thin, tmp_path)}
    assert names == set(plots.FIGURES) - OVERLAPPED - {"speed_quality"}


def test_a_grid_of_many_arms_is_drawn(summary, tmp_path):
    one = summary["arms"]["psd_fuzzy"]
    grid = {
        f"psd_fuzzy[threshold={i / 100}]": one | {"speedup": 1 + i / 40, "quality": 0.95 - i / 100} for i in range(36)
    }
    many = {**summary, "arms": summary["arms"] | grid}
    with style.context():
        for make in (plots.speed_quality, plots.speedup):
            made = make(many)
            assert made is not None
            made.savefig(tmp_path / "grid.png", dpi=40)


def test_an_arm_looks_the_same_everywhere():
    known = list(style.KNOWN)
    assert len({style.colour(arm) for arm in known}) == len(known)
    assert len({style.marker(arm) for arm in known}) == len(known)
    assert style.colour("psd_fuzzy[threshold=0.3]") == style.colour("psd_fuzzy")
    assert style.colour("medusa") == style.colour("medusa")
    assert style.is_pyramid("psd_assisted")
    assert not style.is_pyramid("sd")


def test_the_front_is_what_nothing_beats():
    points = [(1.0, 0.9), (2.0, 0.9), (3.0, 0.5), (2.5, 0.4), (1.5, 0.95), (2.0, 0.8)]
    assert plots.pareto_front(points) == [4, 1, 2]


def test_a_bar_in_a_name_does_not_break_the_table(summary):
    odd = {**summary, "arms": {"a|b": summary["arms"]["sd"]}}
    assert r"a\|b" in comparison_table.comparison(odd).markdown()


def test_arms_of_the_simulation_have_nested_configs():
    assert Arm("x", (("qualifier", 8, 0.9), ("draft", 3, 0.9))).config == {
        "draft_length": 8,
        "proposer": {"draft_length": 3},
    }
