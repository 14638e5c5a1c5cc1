"""The page, read without a browser: it is complete, it loads nothing, and no text of a run becomes markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from sdbench.analysis.figures import svg_titles
from sdbench.analysis.report import drilldown, token_origins
from sdbench.analysis.report.page import page as html_page
from sdbench.analysis.report.write import report
from sdbench.runs.record import load
from tests.analysis.recorded import CATEGORIES, HOSTILE, record
from tests.runs.made import AR, FSD, PSD_FUZZY, PYRAMID, SD

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
ARMS = [AR, SD, FSD, PYRAMID, PSD_FUZZY]
LOADING = {"src", "href", "action", "data", "poster", "srcset", "formaction"}


class Page(HTMLParser):
    """Parse a page as a browser does."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not (self.open and self.open[-1] == "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("run") / "demo", ARMS, hostile=HOSTILE)


@pytest.fixture(scope="module")
def written(run):
    return report([run]).parent / "report.html"


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text("utf-8"))


def test_every_arm_and_prompt_is_there(page):
    rows = [attributes["data-row"] for attributes in page.all("tr") if "data-row" in attributes]
    assert rows[: len(ARMS)] == [arm.name for arm in ARMS]
    assert page.data["arms"] == [arm.name for arm in ARMS]
    assert [prompt["id"] for prompt in page.data["prompts"]] == ["p0", "p1", "p2", "p3"]
    for category in CATEGORIES:
        assert category in page.text
    told = {attributes["data-arm"] for _, attributes in page.elements if attributes.get("class") == svg_titles.MARK}
    assert told == {arm.name for arm in ARMS}


def test_nothing_is_loaded(page, written):
    for tag, attributes in page.elements:
        for name in LOADING & attributes.keys():
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base")
    assert not re.search(r"url\((?!['\"]?#)|@import", written.read_text("utf-8"))
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_texts_cannot_break_out(page, run):
    assert len(page.scripts) == 2  # the data and the page's own
    assert not page.all("b")
    assert HOSTILE not in run.joinpath("report", "report.html").read_text("utf-8")
    prompt = page.data["prompts"][0]
    assert HOSTILE in prompt["prompt"]
    text = "".join(page.data["pieces"][index] for index in prompt["texts"][0])
    assert text == load(run).sequences.iloc[0]["text"]
    assert "document.title=" in page.text  # the configuration has it, as text


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        clip = re.fullmatch(r"url\(#(.+)\)", attributes.get("clip-path", ""))
        assert clip is None or clip[1] in ids


def test_every_figure_names_its_source(page):
    shown = sum(attributes.get("role") == "group" for attributes in page.all("svg"))
    assert shown == len(page.all("figcaption")) >= 5
    assert page.text.count("computed from") == shown
    assert "sequences.parquet (20 rows, SHA-256" in " ".join(page.text.split())
    assert "revision ffffffffffff" in page.text
    assert "sha256:abababababab" in page.text


def test_origins_cover_the_tokens(page):
    for prompt in page.data["prompts"]:
        for index, code in prompt["arms"]:
            assert drilldown._length(code) == len(prompt["texts"][index])
            assert set(code) <= set("fdqcbt|0123456789")
    # The lossless arms share one text.
    assert {prompt["arms"][1][0] for prompt in page.data["prompts"]} == {0}


def test_without_room_the_numbers_stay_and_the_page_says_so(run):
    data = drilldown.drilldown(load(run), room=1)
    assert ["texts" in prompt for prompt in data["prompts"]] == [True, False, False, False]
    assert all(all(prompt["numbers"]) for prompt in data["prompts"])


def test_a_run_without_texts_of_tokens_still_has_its_page(tmp_path, written):
    old = load(record(tmp_path / "old", [AR, SD]))
    del old.sequences["pieces"]
    old.prompts.clear()
    page = Page(html_page([old], [written.parent / "figures"]))
    assert "did not record the text of each token" in page.text
    assert page.data["prompts"][0]["arms"][0][1] == token_origins.UNKNOWN


def test_several_runs_are_sections_of_one_page(run, written, tmp_path):
    other = record(tmp_path / "other", [AR, SD], "ba9876543210")
    page = Page(html_page([load(run), load(other)], [written.parent / "figures"] * 2))
    assert len(page.scripts) == 3
    assert json.loads(page.scripts[1])["arms"] == ["ar", "sd"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_marks_have_their_numbers(written):
    figures = {path.stem: path.read_text("utf-8") for path in (written.parent / "figures").glob("*.svg")}
    assert figures.keys() >= {
        "speedup",
        "tokens_per_target_call",
        "acceptance",
        "speed_quality",
        "round_time",
        "predicted",
    }
    assert "<title>sd: draft&gt;target, position 1: " in figures["acceptance"]
    for name, svg in figures.items():
        assert svg.count("<title>") >= len(ARMS) - 1, name
        assert svg_titles.PREFIX not in svg, name
