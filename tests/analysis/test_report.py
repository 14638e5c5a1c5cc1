"""The report has its tables, figures and notes, for few arms and for many."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from sdbench.analysis.figures import core, style, svg_titles
from sdbench.analysis.figures.draw import FIGURES, draw
from sdbench.analysis.metrics.summary import summarise
from sdbench.analysis.report import comparison_table
from sdbench.analysis.report.write import report
from sdbench.errors import InputError
from sdbench.runs.record import claim
from sdbench.runs.tables import frames
from tests.runs.made import AR, FSD, PSD_FUZZY, PYRAMID, SD, Arm, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
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


NOT_OF_THESE_ARMS = {"calibration", "draft_length", "timeline", "fan_out", "saguaro", "batch", "end_to_end"}


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
    drawn = {file.name for file in (path.parent / "figures").iterdir()}
    assert drawn == {f"{name}.svg" for name in FIGURES.keys() - NOT_OF_THESE_ARMS}
    for name in drawn:
        assert f"](figures/{name})" in text
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
    assert (tmp_path / "both" / "figures" / "1-abc" / "speedup.svg").is_file()
    assert (tmp_path / "both" / "figures" / "2-def" / "speedup.svg").is_file()


def test_one_run_measured_twice_has_figures_of_each(tmp_path):
    one, other = (write(tmp_path / name, [AR, SD], "abc") for name in ("one", "other"))
    report([one, other], tmp_path / "both", page=False)
    assert len(list((tmp_path / "both" / "figures").glob("*/speedup.svg"))) == 2


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
    comparison_table.comparison(summary).show(screen)
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
        "order_trend": {"rho": 0.5, "p": 1e-4, "rises": True},
    }
    assert comparison_table.flags(arm) == list(comparison_table.FLAGS)
    *meanings, rise = comparison_table.footnotes({"arms": {"fsd": arm}})
    assert len(meanings) == len(comparison_table.FLAGS)
    assert rise == "fsd: tokens per target call against the prompt's place: Spearman's rho 0.50, p 0.0001"


def test_missing_metrics_leave_gaps_not_errors(tmp_path):
    unscored = rows([AR, SD], prompts=3)
    for row in unscored["sequences"]:
        row["score"] = None
    unscored["bare"] = []
    thin = summarise(frames(unscored), "ar", meta([AR, SD]))
    assert thin["arms"]["sd"]["quality"] is None
    grid = comparison_table.comparison(thin)
    assert "–" in grid.markdown()
    assert not {"quality [95 %]", "model time"} & set(grid.heads)  # no arm has any
    names = {path.stem for path in draw(thin, tmp_path)}
    assert names == set(FIGURES) - NOT_OF_THESE_ARMS - {"speed_quality"}


def test_a_grid_of_many_arms_is_drawn(summary, tmp_path):
    one = summary["arms"]["psd_fuzzy"]
    grid = {
        f"psd_fuzzy[threshold={i / 100}]": one | {"speedup": 1 + i / 40, "quality": 0.95 - i / 100} for i in range(36)
    }
    many = {**summary, "arms": summary["arms"] | grid}
    with style.context():
        for make in (core.speed_quality, core.speedup):
            made = make(many)
            assert made is not None
            made.savefig(tmp_path / "grid.png", dpi=40)


def test_png_is_written_on_request(run, tmp_path):
    report([run], tmp_path, page=False, png=True)
    svg, png = ({file.stem for file in (tmp_path / "figures").glob(f"*.{kind}")} for kind in ("svg", "png"))
    assert svg == png
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "figures").glob("*.png"))
    report([run], tmp_path, page=False)  # it removes the earlier report's pictures
    assert not list((tmp_path / "figures").glob("*.png"))


def test_arms_get_colours_and_markers_in_their_order():
    one, other = style.Palette(["ar", "sd", "medusa"]), style.Palette(["lookup", "mine[k=1]", "mine[k=2]"])
    looks = [(palette.colour(arm), palette.marker(arm)) for palette, arm in ((one, "ar"), (other, "lookup"))]
    assert looks[0] == looks[1]  # the name does not matter
    assert len({one.colour(arm) for arm in ("ar", "sd", "medusa")}) == 3
    assert len({one.marker(arm) for arm in ("ar", "sd", "medusa")}) == 3
    assert other.colour("mine[k=1]") == other.colour("mine[k=2]") != other.colour("lookup")
    many = style.Palette()
    assert len({(many.colour(f"arm{i}"), many.marker(f"arm{i}")) for i in range(60)}) == 60


def test_a_context_has_a_palette_of_its_own():
    with style.context(["ar", "sd"]):
        first = style.colour("sd")
        with style.context(["sd", "ar"]):
            assert style.colour("sd") != first
        assert style.colour("sd") == first


def looks(made) -> dict[str, set[tuple]]:
    """Collect the look of each arm's marks, apart from its colour and marker: sizes, rims, order, weight of its name."""
    found: dict[str, set[tuple]] = {}
    for axes in made.axes:
        for mark in [*axes.lines, *axes.patches]:
            if (mark.get_gid() or "").startswith(svg_titles.PREFIX):
                arm = json.loads(mark.get_gid().removeprefix(svg_titles.PREFIX))[0]
                rim = [getattr(mark, f"get_{name}", str)() for name in ("markersize", "markeredgewidth")]
                dark = getattr(mark, "get_markeredgecolor", str)() == "black"
                found.setdefault(arm, set()).add(
                    (*rim, dark, mark.get_zorder(), mark.get_alpha(), mark.get_linewidth())
                )
        for label in axes.get_yticklabels():
            if label.get_text() in found:
                found[label.get_text()].add((label.get_fontweight(), label.get_fontsize()))
    return found


@pytest.mark.parametrize("figure", ["speedup", "speed_quality", "tokens_per_target_call", "acceptance", "predicted"])
def test_no_arm_is_highlighted_by_its_name(summary, figure):
    """All arms get the same numbers. Only their names differ, so their looks must not."""
    alike = {**summary, "arms": {name: {**summary["arms"]["sd"], "config": {}} for name in summary["arms"]}}
    with style.context(alike["arms"]):
        plain = looks(FIGURES[figure].make(alike))
    assert set(plain) == set(summary["arms"])
    assert all(look == plain["ar"] for look in plain.values())


@pytest.mark.parametrize("figure", ["speedup", "speed_quality", "tokens_per_target_call"])
def test_the_user_can_highlight_an_arm(summary, figure):
    alike = {**summary, "arms": {name: {**summary["arms"]["sd"], "config": {}} for name in summary["arms"]}}
    with style.context(alike["arms"], ["sd"]):
        marked = looks(FIGURES[figure].make(alike))
    assert marked["sd"] != marked["fsd"] == marked["pyramid"] == marked["psd_fuzzy"]


def test_an_unknown_arm_to_highlight_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="--highlight sdd: there is no such arm; the arms are: ar, sd"):
        report([run], tmp_path, highlight=["sdd"])


def test_the_front_is_what_nothing_beats():
    points = [(1.0, 0.9), (2.0, 0.9), (3.0, 0.5), (2.5, 0.4), (1.5, 0.95), (2.0, 0.8)]
    assert core.pareto_front(points) == [4, 1, 2]


def test_a_bar_in_a_name_does_not_break_the_table(summary):
    odd = {**summary, "arms": {"a|b": summary["arms"]["sd"]}}
    assert r"a\|b" in comparison_table.comparison(odd).markdown()


def test_arms_of_the_simulation_have_nested_configs():
    assert Arm("x", (("qualifier", 8, 0.9), ("draft", 3, 0.9))).config == {
        "draft_length": 8,
        "proposer": {"draft_length": 3},
    }
