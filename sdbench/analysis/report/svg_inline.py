"""Put a figure's SVG into a page: without ids that clash with other figures, and with a label for screen readers.

A figure keeps the colours that matplotlib gave it. The page shows it on white, in the dark scheme too.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from sdbench.analysis.figures.svg_titles import SVG, XLINK

_REFERENCE = re.compile(r"#([\w.-]+)")
_URLS = ("clip-path", "mask")


def inline(svg: str, prefix: str, label: str) -> str:
    """Make a titled SVG an element of a page.

    Args:
        svg: the text of the file.
        prefix: of the ids that the figure refers to; unique in the page.
        label: a name of the figure for those who cannot see it.
    """
    root = ElementTree.fromstring(svg)
    for unwanted in ("metadata", "style"):  # a style element would apply to the whole page
        _drop(root, unwanted)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        _rename_ids(element, prefix, used)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.attrib |= {"role": "group", "aria-label": label, "tabindex": "0", "style": f"--width: {width * 4 / 3:.0f}px"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _rename_ids(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Prefix the ids that the figure refers to, and drop the others."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}-{name}")
    link = element.attrib.pop(f"{{{XLINK}}}href", None)
    if link is not None:
        element.set("href", _REFERENCE.sub(rf"#{prefix}-\1", link) if link.startswith("#") else link)
    for key in _URLS:
        if key in element.attrib:
            element.set(key, _REFERENCE.sub(rf"#{prefix}-\1", element.attrib[key]))


def _references(element: ElementTree.Element) -> list[str]:
    links = [element.get(key, "") for key in (f"{{{XLINK}}}href", *_URLS)]
    return [found[1] for link in links if link.startswith(("#", "url(#")) and (found := _REFERENCE.search(link))]


def _drop(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{SVG}}}{tag}"):
            parent.remove(child)
