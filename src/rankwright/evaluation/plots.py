"""Small plots as inline SVG: transparent, coloured by the page's CSS variables, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .report_blocks import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every kind of colour vision. The page replaces each by a variable of its style,
# which has a lighter twin for dark screens; ink and grid follow the text colour.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("", "7 3", "2 2", "7 2 2 2", "10 3", "4 4")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GRID = "#101418", "#d0d4d8"
WIDTH, HEIGHT = 460, 270  # CSS pixels at which the text has its natural size
_MOST = 400  # points of a line; more would not be seen, only weigh
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def available() -> bool:
    """Whether matplotlib (extra `plots`) can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def differences(name: str, values: Sequence[float], *, y_label: str) -> str:
    """Bars of per-query differences, largest gain first, with the mean as a dashed line."""
    with _axes(name) as (ax, result):
        _bars(ax, values, y_label)
    return result[0]


def differences_pdf(values: Sequence[float], *, y_label: str) -> bytes:
    """The same bars as a figure for a paper; the same bytes for the same numbers."""
    from matplotlib import style
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    with style.context(["default", _settings("pdf") | {"pdf.fonttype": 42}]):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        FigureCanvasPdf(figure)
        _bars(figure.add_subplot(), values, y_label)
        data = io.BytesIO()
        figure.savefig(data, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return data.getvalue()


def _bars(ax: Axes, values: Sequence[float], y_label: str) -> None:
    ordered = np.sort(np.asarray(values, np.float64))[::-1]
    drawn = ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), 2 * _MOST)).astype(np.int64)]
    edges = np.linspace(0, len(ordered), len(drawn) + 1)
    for part, colour in ((drawn.clip(min=0), SERIES[0]), (drawn.clip(max=0), SERIES[1])):
        ax.stairs(part, edges, fill=True, color=colour, linewidth=0)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.axhline(float(ordered.mean()), color=INK, linewidth=1.1, dashes=(5, 3))
    room = 0.06 * max(float(ordered[0] - ordered[-1]), 1e-3)
    ax.set_ylim(min(float(ordered[-1]), 0) - room, max(float(ordered[0]), 0) + room)
    ax.set_xlim(0, len(ordered))
    _labels(ax, f"{len(ordered):,} queries, sorted", y_label)


def recall(name: str, lines: Sequence[Sequence[tuple[int, float]]]) -> str:
    """R@k over k (log scale) for several systems, each a list of (k, recall)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with _axes(name) as (ax, result):
        for i, line in reversed(list(enumerate(lines))):  # the first system is drawn on top
            k, values = zip(*line)
            style = (0, tuple(float(d) / 1.6 for d in DASHES[i % 6].split())) if DASHES[i % 6] else "-"
            ax.plot(k, values, color=SERIES[i % 6], linestyle=style, linewidth=2.2 if i == 0 else 1.6)
            ax.plot(k, values, color=SERIES[i % 6], linestyle="", marker=MARKERS[i % 6], markersize=4)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
        ax.set_ylim(top=min(ax.get_ylim()[1], 1.02))
        _labels(ax, "depth k", "R@k")
    return result[0]


def curve(name: str, steps: Sequence[float], values: Sequence[float], *, x_label: str, points: bool) -> tuple[str, str]:
    """One curve and a remark on how to read it; `points` marks every value, else a noisy curve is smoothed."""
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    logged = len(x)
    if logged > _MOST:  # means of equal runs of points
        cuts = np.linspace(0, len(x), _MOST + 1).astype(np.int64)[:-1]
        sizes = np.diff([*cuts, len(x)])
        x, y = np.add.reduceat(x, cuts) / sizes, np.add.reduceat(y, cuts) / sizes
    turns = np.diff(np.sign(np.diff(y))) != 0
    smooth = not points and len(x) >= 40 and turns.mean() > 0.3  # a schedule turns once, a noisy loss all the time
    with _axes(name) as (ax, result):
        if smooth:
            ax.plot(x, y, color=SERIES[0], linewidth=0.8, alpha=0.4)
            ax.plot(x, _running_mean(y, len(y) // 20), color=SERIES[0], linewidth=2.2)
        else:
            ax.plot(x, y, color=SERIES[0], linewidth=2, marker="o" if points or len(x) < 40 else "", markersize=4)
        _labels(ax, x_label, "")
    if not smooth:
        return result[0], ""
    thin = f"Thin: {logged:,} values as {_MOST} means" if logged > _MOST else "Thin: as logged"
    return result[0], f"{thin}; thick: running mean over a tenth of the curve."


def _running_mean(values: np.ndarray, half: int) -> np.ndarray:
    """The mean with `half` values on either side; fewer at the ends, so that a slope is not bent flat there."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    reach = np.clip(np.minimum(i, len(values) - 1 - i), half // 4, half)
    low, high = np.maximum(i - reach, 0), np.minimum(i + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


@contextmanager
def _axes(name: str) -> Any:
    """Axes to draw on and a list that holds the finished SVG after the block; no pyplot, no settings left behind."""
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", _settings(name)]):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.add_subplot()
        result: list[str] = []
        yield ax, result
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_METADATA)
    result.append(_inline(text.getvalue(), name))


def _settings(name: str) -> dict[str, Any]:
    return {
        "svg.hashsalt": f"rankwright {name}", "svg.fonttype": "none", "font.size": 12, "axes.edgecolor": GRID,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.labelcolor": INK,
        "text.color": INK, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8,
        "ytick.left": False, "axes.formatter.use_mathtext": False, "lines.solid_capstyle": "round",
    }  # fmt: skip


def _labels(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(clean(x), parse_math=False)
    ax.set_ylabel(clean(y), parse_math=False)


def _inline(svg: str, name: str) -> str:
    """What a browser needs of matplotlib's SVG: no prolog, ids of its own, the page's fonts and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"|\sversion="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="|(?<=href=")#|(?<=url\()#', lambda found: f"{found.group()}{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for i, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--s{i})")
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--line)")
    return re.sub(r"\n\s*", "\n", svg).strip()
