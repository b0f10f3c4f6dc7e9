"""A picture of topics: how large they are, and where their queries lie in the plane of most variance."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .. import storage
from ..errors import UsageError
from ..evaluation.plots import GRID, INK, SERIES, available
from .topics import Clusters

_POINTS = 20_000  # more would only cover each other
SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """The gate before the work.

    Raises:
        UsageError: another suffix, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError("no picture of ours", where=path, fix=f"end its name in {', '.join(SUFFIXES)}")
    if not available():
        raise UsageError("--plot needs matplotlib", fix="pip install 'rankwright[plots]', or leave --plot out")


def plot_topics(path: Path, vectors: Float[np.ndarray, "rows dim"], found: Clusters) -> None:
    """Draw sizes (left) and the first two principal components (right, the largest topics in colour)."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": "rankwright topics", "axes.edgecolor": GRID, "axes.spines.top": False, "text.color": INK,
        "axes.spines.right": False, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip
    with style.context(["default", settings]):
        figure = Figure(figsize=(10, 4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        left.stairs(found.sizes, fill=True, color=SERIES[0])
        left.set_xlabel(f"{len(found.sizes):,} topics, largest first")
        left.set_ylabel("queries")
        rows = np.linspace(0, len(vectors) - 1, min(len(vectors), _POINTS)).astype(np.int64)
        x, y = _plane(vectors, rows)
        of = found.assigned[rows]
        right.scatter(x[of >= len(SERIES)], y[of >= len(SERIES)], s=4, color=GRID, linewidths=0)
        for topic, colour in enumerate(SERIES[: len(found.sizes)]):
            right.scatter(x[of == topic], y[of == topic], s=6, color=colour, linewidths=0, label=f"topic {topic}")
        right.set_xticks([])
        right.set_yticks([])
        right.set_xlabel("queries, first two principal components")
        right.legend(frameon=False, fontsize="small", markerscale=2)
        image = io.BytesIO()
        kind = path.suffix.removeprefix(".")
        figure.savefig(
            image, format=kind, dpi=150, metadata={"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        )
    storage.write_bytes(path, image.getvalue())


def _plane(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = vectors[rows].astype(np.float64)
    centred -= centred.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    largest = directions[:, ::-1][:, :2]
    largest = largest * np.where(largest[np.abs(largest).argmax(axis=0), np.arange(largest.shape[1])] < 0, -1, 1)
    plane = centred @ largest
    return plane[:, 0], plane[:, -1]
