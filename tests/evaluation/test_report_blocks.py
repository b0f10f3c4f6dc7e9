"""Every number and text of a report is written in one way."""

from __future__ import annotations

import math

from rankwright.evaluation.report_blocks import clean, compact, number, p_value, shorten, signed


def test_numbers_are_written_one_way():
    assert [number(v) for v in (0.70251, -0.05, 1234.5, None, math.nan)] == ["0.703", "−0.050", "1,234.5", "–", "–"]
    assert [signed(v) for v in (0.0584, -0.0584, 0.0)] == ["+0.058", "−0.058", "0.000"]
    assert [p_value(p) for p in (0.00001, 0.00042, 0.0123, 0.5, math.nan)] == [
        "< 0.0001", "0.0004", "0.012", "0.500", "–",
    ]  # fmt: skip
    assert [compact(v) for v in (2e-5, -1.5, math.inf)] == ["2e-05", "−1.5", "inf"]
    assert clean("a\tb\r\nc\x00\u202e\ud800é") == "a\tb\nc\ufffd\ufffd\ufffdé"
    assert shorten("a  b\nc") == "a b c"
    assert shorten("x" * 300) == "x" * 199 + "…"
