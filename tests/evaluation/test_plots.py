"""The plots: they leave no settings behind and stay small whatever is drawn."""

from __future__ import annotations

import math
import sys

import pytest

from rankwright.evaluation import plots


def test_plots_leave_matplotlib_as_it_was():
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    pyplot_was_there = "matplotlib.pyplot" in sys.modules
    svg = plots.differences("x", [0.5, 0.0, -0.25], y_label="difference")
    assert "3 queries, sorted" in svg
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_was_there


def test_long_curves_and_many_queries_stay_small():
    pytest.importorskip("matplotlib")
    n = 60_000
    assert len(plots.differences("x", [math.sin(i) for i in range(n)], y_label="y")) < 120_000
    noise = [i * 7919 % 1000 / 1000 + i * 4093 % 77 / 77 for i in range(n)]
    svg, remark = plots.curve("y", list(range(n)), noise, x_label="step", points=False)
    assert len(svg) < 60_000
    assert "60,000 values" in remark
    _, remark = plots.curve("z", list(range(100)), [i / 100 for i in range(100)], x_label="step", points=False)
    assert remark == ""  # a straight line needs no smoothing
