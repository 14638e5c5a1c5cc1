"""Numbers on hover: a mark of a figure carries its text as an SVG `<title>`, and the arm's name as `data-arm`.

`describe` puts the texts on a matplotlib artist as its group id, the only attribute that its SVG writer passes on. `titled`
turns these ids into titles.
"""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from matplotlib.artist import Artist

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARK = "mark"
PREFIX = "described:"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(?!\d*e)")
_GEOMETRY = ("d", "x", "y", "transform", "width", "height")


def describe(artist: Artist, arm: str, *texts: str) -> None:
    """Give a mark its text on hover. Several texts belong to the points of one line, which must have markers."""
    artist.set_gid(PREFIX + json.dumps([arm, *texts]))


def titled(svg: str) -> str:
    """Put a `<title>` on each described mark of matplotlib's SVG, and round coordinates to a hundredth of a point."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for element in list(root.iter()):
        if element.get("id", "").startswith(PREFIX):
            arm, *texts = json.loads(element.attrib.pop("id")[len(PREFIX) :])
            points = list(element.iter(f"{{{SVG}}}use"))
            parts = points if len(points) == len(texts) else [element]
            titles = texts if len(points) == len(texts) else ["; ".join(texts)]
            for part, text in zip(parts, titles, strict=True):
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
