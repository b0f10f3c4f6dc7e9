"""Blocks of rows and rows one by one: the fast way takes no more than the exact one, and reads the same."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright.data import _ahead, _columns, _fields, _ids, _tables
from rankwright.data.formats import read_qrels, read_run
from rankwright.data.policy import Reading
from rankwright.errors import DataError


def _put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_blocks_and_rows_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lines = [f"q{i % 40} Q0 d{i} {i} {rng.normal()!r} tag" for i in range(60_000)]
    path = _put(tmp_path, "big.trec", "\n".join(lines))  # about 2 MiB: several blocks
    fast = read_run(path)
    blank = [lines[0], "", *lines[1:]]  # makes the first block the slow one
    mixed = read_run(_put(tmp_path, "mixed.trec", "\n".join(blank)))
    monkeypatch.setattr(_tables.Table, "_add_block", lambda *_: False)
    exact = read_run(path)
    for other in (mixed, exact):
        for name in ("offsets", "columns", "values"):
            np.testing.assert_array_equal(getattr(fast, name), getattr(other, name))
        assert (fast.queries, fast.docs) == (other.queries, other.docs)
    assert fast.to_dict()["q7"] == {f"d{i}": float(lines[i].split()[4]) for i in range(7, 60_000, 40)}


IDS_IN_FILES = st.sampled_from(
    ["d1", "d2", "q", "\ufeffd", "d\u00e9", "a\u00a0b", "a\u2028b", "a\x1fb", "a\0", '"', '"a', "\x7f", "\\", ""]
)
NUMBERS_IN_FILES = st.sampled_from(
    [
        "1",
        "2",
        "-3",
        "+4",
        "0",
        "1.5",
        "1e5",
        "1e400",
        "1e-400",
        ".5",
        "5.",
        "nan",
        "inf",
        "0x1",
        "1_0",
        "\u0661",
        "",
        "9" * 15,
        "9" * 16,
        "0" * 20,
    ]
)
ENDS_IN_FILES = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", " \n", "\n ", "\r", "\n\ufeff"])
BETWEEN = st.sampled_from(["\t", " ", " ", "  "])


@st.composite
def _files(draw: st.DrawFn) -> str:
    """Lines of one form, a few of them damaged."""
    columns, between = draw(st.sampled_from([3, 4, 6])), draw(BETWEEN)
    lines = []
    for i in range(draw(st.integers(1, 8))):
        fields = (
            [f"q{i % 3}", "Q0", f"d{i}", str(i), "1.25", "tag"]
            if columns == 6
            else [f"q{i % 3}", f"d{i}", str(i), "2"][:columns]
        )
        if columns == 4 and draw(st.booleans()):
            fields = [f"q{i % 3}", "0", f"d{i}", "1"]
        if draw(st.integers(0, 5)) == 0:
            fields[draw(st.integers(0, columns - 1))] = draw(IDS_IN_FILES | NUMBERS_IN_FILES)
        rare = draw(st.integers(0, 9)) == 0
        lines.append((draw(BETWEEN) if rare else between).join(fields) + (draw(ENDS_IN_FILES) if rare else "\n"))
    return "".join(lines)


def _outcome(read: Callable[[Path, Reading], Any], path: Path, lenient: bool) -> Any:
    reading = Reading(lenient=lenient)
    try:
        table = read(path, reading)
    except DataError as error:
        return str(error), error.where
    return (
        table.queries,
        table.docs,
        table.offsets.tolist(),
        table.columns.tolist(),
        repr(table.values.tolist()),
        dict(reading.counts),
        reading.examples,
    )


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_files(), lenient=st.booleans())
def test_the_fast_way_is_no_weaker_than_the_exact_one(text: str, lenient: bool, tmp_path: Path) -> None:
    path = _put(tmp_path, "some.txt", text)
    for read in (read_run, read_qrels):
        fast = _outcome(read, path, lenient)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_tables.Table, "_add_block", lambda *_: False)
            assert _outcome(read, path, lenient) == fast


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789+-.eEnaif_xX", min_size=1, max_size=24) | st.floats().map(repr))
def test_the_fast_way_reads_numbers_as_the_exact_one(text: str) -> None:
    columns = _columns._split(f"q Q0 d 1 {text} t\n".encode(), _columns.TREC_RUN)
    if columns is not None:
        assert _fields.NUMBER.fullmatch(text)
        assert columns[2][0] == float(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 3000).map(str) | st.sampled_from(["007", "0", "00", "0x1F", "-1", "d", "9" * 30]))
        | st.lists(st.integers(0, 40).map(str)),
        min_size=1,
    ).filter(lambda parts: bool(parts[0]))
)
def test_numeric_ids_are_numbered_as_others(parts: list[list[str]]) -> None:
    chunks = [pa.array(part, pa.large_string()) for part in parts]
    expected = {name: i for i, name in enumerate(dict.fromkeys(chain(*parts)))}
    for column in ([_ids.as_numbers(chunk) for chunk in chunks], chunks):
        codes, names = _ids.coded(column)
        assert names == list(expected)
        assert codes.dtype == np.int32
        assert codes.tolist() == [expected[name] for name in chain(*parts)]
    for chunk, part in zip(chunks, parts):
        named, sizes = _ids.stretches(chunk)
        assert [name for name, size in zip(named.to_pylist(), sizes) for _ in range(size)] == part


def test_the_table_of_numeric_ids_is_bounded() -> None:
    def numbered(*ids: str) -> bool:
        return _ids._numbers([_ids.as_numbers(pa.array(ids, pa.large_string()))]) is not None

    assert numbered("7", "0", "7", str(_ids._LEAST_TABLE))
    assert not numbered("7", str(_ids._LEAST_TABLE + 1))
    for odd in ("007", "0x1F", "-1", "9" * 19, "\u0661", "d"):
        assert not numbered("7", odd)
        assert not numbered(odd, "7")


def test_the_fast_way_takes_clean_files() -> None:
    for row in (
        "q Q0 d 1 2.5 tag",
        "q\tQ0\td\t1\t2.5\ttag",
        "q  Q0 d 1 2.5 tag",
        "q Q0 d 1 2.5 tag\r",
        "q Q0 d\u00e9 1 2.5 tag",
    ):
        assert _columns._split(f"{row}\n{row}\n".encode(), _columns.TREC_RUN) is not None
    assert _columns._split(b"q d 1\n", _columns.Dialect("\t", 3, 0, 1, 2)) is None
    assert _columns._split("\ufeffq Q0 d 1 2.5 tag\n".encode(), _columns.TREC_RUN) is None


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are damaged in several blocks and a file cut short: the same table, or the same first error."""
    rng = np.random.default_rng(1)
    lines = [f"q{i // 900} Q0 {rng.integers(0, 9999) * 1000 + i % 900} 1 {rng.normal()!r} tag" for i in range(90_000)]
    clean = _put(tmp_path, "clean.trec", "\n".join(lines))
    for at, damage in ((70_000, "q7 Q0 \u00e9 1 2"), (40_000, "q7 Q0 x 1 2.0 tag"), (40_001, "q7 Q0 x 1 3.0 tag")):
        lines[at] = damage
    damaged = _put(tmp_path, "damaged.trec", "\n".join(lines))
    cut = tmp_path / "cut.trec.gz"
    cut.write_bytes(gzip.compress("\n".join(lines).encode(), 1)[:-1000])
    outcomes = []
    for threads in (1, 4):
        monkeypatch.setattr(_tables, "ahead", partial(_ahead.ahead, threads=threads))
        outcomes.append([_outcome(read_run, path, lenient) for path in (clean, damaged, cut) for lenient in (0, 1)])
    assert outcomes[0] == outcomes[1]
    assert "damaged or cut short" in outcomes[0][-1][0]


def test_a_problem_far_into_a_file_names_its_line(tmp_path: Path) -> None:
    lines = [f"q{i} Q0 d{i} 1 1.5 tag" for i in range(100_000)]
    lines[98_765] = "q1 Q0 d1 1 abc tag"
    path = _put(tmp_path, "big.trec", "\n".join(lines))
    with pytest.raises(DataError, match="'abc' is not a number") as caught:
        read_run(path)
    assert caught.value.where == f"{path}:98766"
    lines[98_765] = "q5 Q0 d5 1 2 tag"
    with pytest.raises(DataError, match="query 'q5' and document 'd5' were paired in line 6") as caught:
        read_run(_put(tmp_path, "big.trec", "\n".join(lines)))
    assert caught.value.where == f"{path}:98766"
    lines[98_765] = "q5 Q0"
    reading = Reading(lenient=True)
    assert len(read_run(_put(tmp_path, "big.trec", "\n".join(lines)), reading)) == 99_999
    assert reading.counts == {"wrong number of columns": 1}
