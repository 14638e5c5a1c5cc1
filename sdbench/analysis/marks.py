"""Numbers on hover: a mark of a figure carries its text as an SVG `<title>`, and an arm's mark the arm's name.

`tell` puts the texts on a matplotlib artist as its group id, the one thing that its SVG writer passes on; `titled` turns those ids
into titles.
"""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from matplotlib.artist import Artist

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARK = "mark"
_PREFIX = "told:"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(?!\d*e)")
_GEOMETRY = ("d", "x", "y", "transform", "width", "height")


def tell(artist: Artist, arm: str, *texts: str) -> None:
    """Have a mark say a text on hover; with several texts its points, markers of one line, say one each."""
    artist.set_gid(_PREFIX + json.dumps([arm, *texts]))


def titled(svg: str) -> str:
    """matplotlib's SVG with a `<title>` on each mark that was told something; coordinates at a hundredth of a point."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for element in list(root.iter()):
        if element.get("id", "").startswith(_PREFIX):
            arm, *texts = json.loads(element.attrib.pop("id")[len(_PREFIX) :])
            points = list(element.iter(f"{{{SVG}}}use"))
            parts = points if len(points) == len(texts) else [element]
            spoken = texts if len(points) == len(texts) else ["; ".join(texts)]
            for part, text in zip(parts, spoken, strict=True):
                _title(part, arm, text)
        for name in _GEOMETRY:
            if name in element.attrib:
                element.set(name, _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", element.attrib[name]))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _title(element: ElementTree.Element, arm: str, text: str) -> None:
    element.set("class", MARK)
    if arm:
        element.set("data-arm", arm)
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = f"{arm}: {text}" if arm else text
    element.insert(0, title)
