"""Names of points, placed so that they overlap neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

_OFFSETS = [
    (x * far, y * far, "left" if x > 0 else "right" if x < 0 else "center")
    for far in (1.0, 1.9, 3.0, 4.5, 6.5)
    for x, y in ((6, 4), (6, -9), (-6, 4), (-6, -9), (0, 8), (0, -13))
]
_CLEARANCE = 7.0  # pixels kept free around a point


def place(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[tuple[int, str]]) -> None:
    """Write each name at the first free place near its point; leave out a name without a place.

    Call it when the limits of the axes are final. names: (index of the point, text).
    """
    made = axes.figure.get_figure(root=True)
    assert made is not None
    assert isinstance(made.canvas, FigureCanvasAgg)
    made.canvas.draw()
    frame = axes.get_window_extent()
    taken = [_around(*axes.transData.transform(point)) for point in points]
    for index, name in names:
        for x, y, side in _OFFSETS:
            far = abs(x) > 12 or abs(y) > 18
            text = axes.annotate(
                name,
                points[index],
                xytext=(x, y),
                textcoords="offset points",
                ha=side,
                fontsize=7.5,
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5} if far else None,
                zorder=6,
                path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
            )
            box = text.get_window_extent(made.canvas.get_renderer())
            if frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()


def _around(x: float, y: float) -> Bbox:
    return Bbox.from_extents(x - _CLEARANCE, y - _CLEARANCE, x + _CLEARANCE, y + _CLEARANCE)
