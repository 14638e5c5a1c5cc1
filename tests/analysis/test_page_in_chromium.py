"""The page in a real browser: it opens without an error, sorts, filters, shows prompts and tips, and follows light and dark."""

from __future__ import annotations

import re

import pytest

from sdbench.analysis.report.page import page as html_page
from sdbench.analysis.report.write import report
from sdbench.runs.record import load
from tests.analysis.chromium import Browser, chromium
from tests.analysis.recorded import CATEGORIES, HOSTILE, PARENTS, UNSEEN, record, with_trees
from tests.runs.made import AR, FSD, PSD_FUZZY, PYRAMID, SD, Arm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")]
ARMS = [AR, SD, FSD, PYRAMID, PSD_FUZZY]
NAMES = [arm.name for arm in ARMS]
ROWS = ".summary tbody th"
LARGEST, SLOWEST = 5_000_000, 2.0  # bytes and seconds of the page of 20 arms and 200 prompts
LOADS = 3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = record(tmp_path_factory.mktemp("run") / "demo", ARMS, hostile=HOSTILE)
    return report([run]).with_name("report.html")


@pytest.fixture(scope="module")
def started():
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(started, page) -> Browser:
    started.prefer("light")
    started.resize(1280)
    started.open(page)
    return started


def test_it_opens_without_complaint(browser):
    assert browser.complaints() == []
    assert browser.texts(ROWS) == NAMES
    assert browser.run("document.title") == "demo – sdbench"  # the hostile prompt did not run
    assert browser.run("performance.getEntriesByType('resource').length") == 0


def test_the_table_sorts(browser):
    head = ".summary th:nth-child(3) button"
    speeds = browser.texts(".summary tbody td:nth-child(3)")
    browser.press(head)
    assert browser.texts(".summary tbody td:nth-child(3)") == sorted(speeds, key=float, reverse=True)
    assert browser.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    browser.press(head)
    assert browser.texts(".summary tbody td:nth-child(3)") == sorted(speeds, key=float)
    browser.press(head)
    assert browser.texts(ROWS) == NAMES
    browser.press(".summary th:first-child button")
    assert browser.texts(ROWS) == sorted(NAMES)


def test_missing_values_sort_last(browser):
    column = 1 + browser.texts(".summary thead th").index("acceptance")
    for _ in range(2):  # descending, then ascending
        browser.press(f".summary th:nth-child({column}) button")
        assert browser.texts(ROWS)[-1] == "ar"


def test_the_filter_holds_everywhere(browser):
    browser.type("#filter", "pyr, SD")
    kept = [name for name in NAMES if "sd" in name or "pyr" in name]
    assert browser.texts(ROWS) == kept
    assert browser.texts("#shown") == [f"{len(kept)} of {len(NAMES)} arms"]
    assert browser.texts("article h3") == kept
    assert browser.texts(".breakdown tbody th") == kept
    dimmed = "[...document.querySelectorAll('.mark.dim')].map(m => m.dataset.arm)"
    assert set(browser.run(dimmed)) == set(NAMES) - set(kept)
    browser.type("#filter", *["\ue003"] * 10)  # backspace
    assert browser.texts(ROWS) == NAMES


def test_prompts_are_drilled_down_to(browser):
    assert HOSTILE in browser.texts(".question pre")[0]
    origins = browser.run("[...document.querySelectorAll('article[data-arm=pyramid] .token')].map(t => t.className)")
    assert len(origins) == 30
    assert origins[0] == "token o-f"
    assert {"token o-d", "token o-q"} < set(origins)
    assert set(browser.run("[...document.querySelectorAll('article[data-arm=ar] .token')].map(t => t.className)")) == {
        "token o-f", "token o-t",
    }  # fmt: skip
    assert "leaves ar at token 3" in browser.texts("article[data-arm=fsd] .figures-of-arm")[0]
    assert "same tokens as ar" in browser.texts("article[data-arm=sd] .figures-of-arm")[0]
    browser.press(".next")
    assert browser.texts(".question h3")[0] == "Prompt p1"
    for button in (".next", ".next"):
        browser.press(button)
    assert browser.run("document.querySelector('.next').disabled")


def test_a_category_leads_to_its_prompts(browser):
    assert browser.texts(".breakdown .category") == [f"{name} (2)" for name in CATEGORIES]
    browser.press(".breakdown th:nth-child(3) .category")
    assert browser.run("[...document.querySelector('.pick-prompt').options].map(o => o.text)") == ["p1", "p3"]
    assert browser.texts(".question h3")[0] == "Prompt p1"
    browser.run(
        "(e => { e.selectedIndex = 1; e.dispatchEvent(new Event('change')); })(document.querySelector('.measure'))"
    )
    assert browser.texts(".breakdown caption") == ["quality"]


def test_marks_and_tokens_have_tips(browser):
    browser.run(
        "(m => m.dispatchEvent(new PointerEvent('pointermove', {bubbles: true})))"
        "(document.querySelector('.mark[data-arm=sd]'))"
    )
    (tip,) = browser.texts("#tip")
    assert re.fullmatch(r"sd: \d\.\d{3}× \[\d\.\d{3}, \d\.\d{3}\]", tip)
    browser.run(
        "(t => t.dispatchEvent(new PointerEvent('pointermove', {bubbles: true})))"
        "(document.querySelector('article[data-arm=sd] .token:nth-child(2)'))"
    )
    assert re.match(r"token 2, round 1: (draft|correction)", browser.texts("#tip")[0])


def test_figures_are_read_by_keyboard(browser):
    browser.run("document.querySelector('figure svg').focus()")
    right, escape = "\ue014", "\ue00c"
    seen = []
    for _ in range(3):
        browser.type("figure svg", right)
        seen += browser.texts("#tip")
    assert [text.split(":")[0] for text in seen] == NAMES[:3]
    browser.type("figure svg", escape)
    assert browser.texts("#tip") == []


def test_tokens_are_read_by_keyboard(browser):
    text = "article[data-arm=sd] .tokens"
    right, escape = "\ue014", "\ue00c"
    for place in (1, 2):
        browser.type(text, right)
        assert browser.texts("#tip")[0].startswith(f"token {place}")
    browser.type(text, escape)
    assert browser.texts("#tip") == []
    assert re.match(r"Prompt 1 of \d+: ", browser.texts(".showing")[0])


def test_everything_that_acts_is_reached_by_tab(browser):
    acting = "[...document.querySelectorAll('button, select, input, a, summary, svg, .tokens')]"
    out_of_reach = f"{acting}.filter(e => e.checkVisibility() && e.tabIndex < 0).length"
    assert browser.run(out_of_reach) == 0


def test_light_and_dark(browser):
    paper = "getComputedStyle(document.body).backgroundColor"
    figure = "getComputedStyle(document.querySelector('figure svg')).backgroundColor"
    white, black = "rgb(255, 255, 255)", "rgb(21, 23, 26)"
    assert browser.run(paper) == white
    browser.prefer("dark")
    assert browser.run(paper) == black
    assert browser.run(figure) == white  # figures stay on white: their colours were chosen for it
    browser.press("#theme")
    assert browser.texts("#theme") == ["Scheme: light"]
    assert browser.run(paper) == white
    browser.press("#theme")
    browser.prefer("light")
    assert browser.run(paper) == black


def test_it_fits_a_telephone_and_paper(browser):
    browser.resize(400)
    assert browser.run("document.documentElement.scrollWidth") == 400
    browser.resize(1280)
    assert browser.run("document.documentElement.scrollWidth") == 1280
    assert browser.print().startswith(b"%PDF")


def test_twenty_arms_and_two_hundred_prompts(started, tmp_path):
    kinds = [SD, FSD, PYRAMID, PSD_FUZZY]
    grid = [Arm(f"{kind.name}[k={n}]", kind.stages, kind.lossless, kind.right) for n in range(5) for kind in kinds]
    run = record(tmp_path / "large", [AR, *grid[:19]], prompts=200, tokens=100)
    large = report([run]).with_name("report.html")
    assert large.stat().st_size < LARGEST
    started.prefer("light")
    started.resize(1280)
    loads = []
    for _ in range(LOADS):
        before = started.busy_seconds()
        started.open(large)
        wall = started.run("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        loads.append(started.busy_seconds() - before)
        print(f"{large.stat().st_size:,} bytes; loaded after {wall:.2f} s, busy for {loads[-1]:.2f} s")
    assert started.complaints() == []
    assert len(started.texts(ROWS)) == 20
    assert started.run("document.querySelectorAll('.pick-prompt option').length") == 200
    # The processor time of all of the browser's processes: wall time depends on the load of the machine.
    assert min(loads) < SLOWEST


def test_a_round_shows_its_token_tree(started, tmp_path):
    run = with_trees(load(record(tmp_path / "trees", [AR, SD])), "sd")
    file = tmp_path / "report.html"
    file.write_text(html_page([run], [run.path]), encoding="utf-8")
    started.open(file)
    article = "article[data-arm=sd]"
    assert started.run("document.querySelectorAll('article[data-arm=ar] .trees').length") == 0
    assert started.run(f"document.querySelector('{article} .trees').open") is False
    started.run(f"document.querySelector('{article} .token:last-child').click()")
    (said,) = started.texts(f"{article} .trees .note")
    rounds = int(run.rounds.loc[run.rounds["arm"] == "sd"].groupby("prompt_id")["round"].max()["p0"])
    end = rounds % (len(PARENTS) + 1)
    kept = {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}[end]
    assert said == f"Round {rounds + 1}: {len(PARENTS)} nodes, {kept} kept"
    assert started.run(f"document.querySelectorAll('{article} .tree .node').length") == len(PARENTS) + 1
    assert started.run(f"document.querySelectorAll('{article} .tree path.kept').length") == kept
    assert started.run(f"document.querySelectorAll('{article} .tree .node.kept').length") == kept + 1
    assert started.texts(f"{article} .tree .node:nth-of-type(2) text") == [f"#{UNSEEN}"]
    assert started.complaints() == []
