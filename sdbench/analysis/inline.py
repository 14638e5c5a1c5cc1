"""A figure's SVG as a part of a page: no ids that clash, and colours that follow the page's light or dark scheme.

Each colour becomes a custom property of the page, named after itself. In the dark scheme a grey changes sides, so that black ink on
white paper is light ink on dark paper, and a hue is lightened until it stands out: an arm keeps its hue in both.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from sdbench.analysis.marks import SVG, XLINK

DARK_PAPER = "#15171a"
DARK_INK = "#e6e4e0"
_CONTRAST = 3.2  # WCAG 2.2 asks for 3 of graphics
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})\b")
_NAMED = re.compile(r"--c-([0-9a-f]{6})")
_REFERENCE = re.compile(r"#([\w.-]+)")
_GREY = 12  # how far the parts of a grey may be apart

Channels = tuple[int, int, int]


def inline(svg: str, prefix: str, label: str) -> str:
    """A titled SVG as an element of a page. prefix: unique in the page; label: what it shows, for those who cannot see it."""
    root = ElementTree.fromstring(svg)
    _drop(root, "metadata")
    _drop(root, "style")  # it would hold for the whole page
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        _settle(element, prefix, used)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.attrib |= {"role": "group", "aria-label": label, "tabindex": "0", "style": f"--width: {width * 4 / 3:.0f}px"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def variable(colour: str) -> str:
    """The custom property of a colour `#rrggbb`, as a CSS value."""
    return f"var(--c-{colour[1:].lower()})"


def scheme(page: str) -> str:
    """CSS that defines every colour which a page names, in both schemes."""
    names = sorted(set(_NAMED.findall(page)))
    return "\n".join(f"  --c-{name}: light-dark(#{name}, {dark(f'#{name}')});" for name in names)


def dark(colour: str) -> str:
    """A colour's counterpart on dark paper."""
    parts = _channels(colour)
    if max(parts) - min(parts) <= _GREY:
        return _mix(_channels(DARK_INK), _channels(DARK_PAPER), sum(parts) / 765)
    share = 0.0
    while contrast(_mix(parts, (255, 255, 255), share), DARK_PAPER) < _CONTRAST:
        share += 0.05
    return _mix(parts, (255, 255, 255), share)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _settle(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Rename what is referred to, drop the other ids, and name the colours."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}-{name}")
    link = element.attrib.pop(f"{{{XLINK}}}href", None)
    if link is not None:
        element.set("href", _REFERENCE.sub(rf"#{prefix}-\1", link) if link.startswith("#") else link)
    for key in ("clip-path", "mask"):
        if key in element.attrib:
            element.set(key, _REFERENCE.sub(rf"#{prefix}-\1", element.attrib[key]))
    if "style" in element.attrib:
        element.set("style", _COLOUR.sub(lambda found: variable(found[0]), element.attrib["style"]))


def _references(element: ElementTree.Element) -> list[str]:
    links = [element.get(key, "") for key in (f"{{{XLINK}}}href", "clip-path", "mask")]
    return [found[1] for link in links if link.startswith(("#", "url(#")) and (found := _REFERENCE.search(link))]


def _drop(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{SVG}}}{tag}"):
            parent.remove(child)


def _channels(colour: str) -> Channels:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(one: Channels, other: Channels, share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * min(share, 1)):02x}" for a, b in zip(one, other, strict=True))


def _luminance(colour: str) -> float:
    linear = [
        (c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in _channels(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
