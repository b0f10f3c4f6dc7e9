"""Damaged files: every reader ends in a typed error that names the file, or in something that can be written again."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.data._fields import is_clean_id
from rankwright.data.formats import read_corpus, read_qrels, read_queries, read_run, write_qrels, write_run
from rankwright.data.policy import POLICIES, Reading
from rankwright.errors import DataError
from rankwright.types import Qrels, Run


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.fs, "fsync", lambda fd: None)  # what is proved here is not durability


class Format(NamedTuple):
    """One kind of file: a valid example, how to read it, and what every successful reading must satisfy."""

    name: str
    valid: bytes
    read: Callable[[Path, Reading], Any]
    check: Callable[[Any, Path], None]


def _texts_are_sound(rows: Any, _: Path) -> None:
    ids = [row[0] for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(map(is_clean_id, ids))
    assert all("\0" not in text and text.encode() is not None for row in rows for text in row)


def _run_is_writable(run: Run, folder: Path) -> None:
    write_run(folder / "again.trec", run)
    again = read_run(folder / "again.trec", Reading(lenient=len(run) == 0))
    assert again.to_dict() == run.to_dict()


def _qrels_are_writable(qrels: Qrels, folder: Path) -> None:
    write_qrels(folder / "again.tsv", qrels)
    again = read_qrels(folder / "again.tsv", Reading(lenient=len(qrels) == 0))
    assert again.to_dict() == qrels.to_dict()


def _corpus(path: Path, reading: Reading) -> list[Any]:
    return list(read_corpus(path, reading))


def _queries(path: Path, reading: Reading) -> list[Any]:
    return list(read_queries(path, reading))


def _parquet(table: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, compression="none")
    return sink.getvalue()


JSONL = (
    '{"_id": "d1", "title": "A", "text": "one"}\n{"_id": "d2", "title": "", "text": "zw\\u00e9i ü", "n": [1, 2.5e3]}\n'
)
TREC = "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 -1e-3 tag\nq2 Q0 d1 1 7 tag\n"
FORMATS = {
    "corpus JSONL": Format("corpus.jsonl", JSONL.encode(), _corpus, _texts_are_sound),
    "corpus TSV": Format(
        "collection.tsv", "id\ttext\ttitle\nd1\tone\tA\nd2\tzwéi\t\n".encode(), _corpus, _texts_are_sound
    ),
    "queries JSONL": Format("queries.jsonl", JSONL.encode(), _queries, _texts_are_sound),
    "queries TSV": Format("queries", b"q1\twho?\nq2\twhy?\nq3\thow\n", _queries, _texts_are_sound),
    "qrels BEIR": Format(
        "test.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t3\n", read_qrels, _qrels_are_writable
    ),
    "qrels TREC": Format("qrels", b"q1 0 d1 1\nq1 0 d2 0\nq2\t0\td1\t3\n", read_qrels, _qrels_are_writable),
    "qrels grouped": Format(
        "test.jsonl",
        b'{"qid": "q1", "docid": ["d1", "d2"], "score": [1, 0]}\n{"qid": "q2", "docid": ["d1"], "score": [-1]}\n',
        read_qrels,
        _qrels_are_writable,
    ),
    "run TREC": Format("a.trec", TREC.encode(), read_run, _run_is_writable),
    "run MS MARCO": Format("a.tsv", b"q1\td1\t1\nq1\td2\t2\nq2\td1\t1\n", read_run, _run_is_writable),
    "run MS MARCO with scores": Format("a.tsv", b"q1\td1\t1\t0.5\nq1\td2\t2\t1e3\n", read_run, _run_is_writable),
    "run gzip": Format("a.trec.gz", gzip.compress(TREC.encode(), mtime=0), read_run, _run_is_writable),
    "run zstd": Format(
        "a.trec.zst",
        zstandard.ZstdCompressor(write_checksum=True).compress(TREC.encode()),
        read_run,
        _run_is_writable,
    ),
}
# what tends to be in bad files: separators, marks, numbers that are none, half characters, quotes and brackets
PIECES = [
    *(
        b"\t",
        b" ",
        b"\n",
        b"\r",
        b"\0",
        b"\x1c",
        b"\xc2\xa0",
        b"\xc2\x85",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ),
    *(
        b'"',
        b"\\",
        b"{",
        b"]",
        b"\\ud800",
        b"\\u0000",
        b"null",
        b"true",
        b'"_id": "d1", ',
        b"[" * 3000,
        b"q1",
        b"d1",
        b"",
    ),
    *(b"NaN", b"nan", b"-inf", b"1e999", b"0x1p3", b"1_0", b"-", b".", b"0.5", b"9" * 400, b"9" * 5000),
]

Edit = tuple[str, int, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "replace", "repeat line", "swap lines", "cut"]),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.sampled_from(PIECES) | st.binary(max_size=6),
    ),
    max_size=5,
)


def _mutated(data: bytes, edits: list[Edit]) -> bytes:
    for how, a, b, piece in edits:
        lines, i, n = data.splitlines(keepends=True) or [b""], a % (len(data) + 1), 1 + b % 8
        if how == "flip" and i < len(data):
            data = data[:i] + bytes([data[i] ^ (1 << b % 8)]) + data[i + 1 :]
        elif how == "delete":
            data = data[:i] + data[i + n :]
        elif how == "insert":
            data = data[:i] + piece + data[i:]
        elif how == "replace":
            words = re.split(rb"([ \t\n,:]+)", data)
            words[a % len(words)] = piece
            data = b"".join(words)
        elif how == "repeat line":
            lines.insert(b % len(lines), lines[a % len(lines)])
            data = b"".join(lines)
        elif how == "swap lines":
            j, k = a % len(lines), b % len(lines)
            lines[j], lines[k] = lines[k], lines[j]
            data = b"".join(lines)
        elif how == "cut":
            data = data[:i]
    return data


def _outcome(form: Format, path: Path, reading: Reading) -> Any:
    """What reading gives; the only failure allowed is a data error with file, sentence and fix."""
    try:
        return form.read(path, reading)
    except DataError as caught:
        error = caught
    assert re.fullmatch(re.escape(str(path)) + r"(:\d+)?", error.where or "")
    assert error.fix
    assert 0 < len(error.what) < 600
    assert str(error).encode()  # it can be printed
    return error


def _prove(form: Format, data: bytes, folder: Path) -> tuple[bool, bool]:
    """Read strictly and leniently; whether each succeeded."""
    path = folder / form.name
    path.write_bytes(data)
    lenient = Reading(lenient=True)
    strictly, kindly = _outcome(form, path, Reading()), _outcome(form, path, lenient)
    if not isinstance(kindly, DataError):
        form.check(kindly, folder)
    else:
        assert isinstance(strictly, DataError)  # lenient is never stricter
    if not isinstance(strictly, DataError):
        form.check(strictly, folder)
        assert not lenient.counts
        if isinstance(strictly, list):
            assert strictly == kindly
        else:
            assert strictly.to_dict() == kindly.to_dict()
    elif not isinstance(kindly, DataError):
        assert lenient.counts  # what strict refused was counted
    assert lenient.counts.keys() <= POLICIES.keys()
    return not isinstance(strictly, DataError), not isinstance(kindly, DataError)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_damaged_files(name: str, edits: list[Edit], tmp_path: Path) -> None:
    _prove(FORMATS[name], _mutated(FORMATS[name].valid, edits), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20_000, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_damaged_files_at_length(name: str, edits: list[Edit], tmp_path: Path) -> None:
    _prove(FORMATS[name], _mutated(FORMATS[name].valid, edits), tmp_path)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_noise(name: str, data: bytes, tmp_path: Path) -> None:
    _prove(FORMATS[name], data, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_the_valid_example_is_valid(name: str, tmp_path: Path) -> None:
    assert _prove(FORMATS[name], FORMATS[name].valid, tmp_path) == (True, True)


@pytest.mark.parametrize("name", ["run gzip", "run zstd"])
def test_every_cut_and_every_flip_of_a_packed_file(name: str, tmp_path: Path) -> None:
    """A compressed file that is cut anywhere is refused; a flipped bit is refused or changes nothing."""
    form = FORMATS[name]
    (tmp_path / form.name).write_bytes(form.valid)
    whole = read_run(tmp_path / form.name).to_dict()
    for i in range(1, len(form.valid)):
        assert _prove(form, form.valid[:i], tmp_path) == (False, False)
    for i in range(len(form.valid)):
        path = tmp_path / form.name
        path.write_bytes(form.valid[:i] + bytes([form.valid[i] ^ (1 << i % 8)]) + form.valid[i + 1 :])
        outcome = _outcome(form, path, Reading())
        assert isinstance(outcome, DataError) or outcome.to_dict() == whole


@pytest.mark.parametrize("kind", ["corpus", "qrels"])
def test_every_cut_of_a_parquet_file(kind: str, tmp_path: Path) -> None:
    table: dict[str, list[Any]] = {"_id": ["d1", "d2"], "text": ["one", "two"]}
    if kind == "qrels":
        table = {"qid": ["q1", "q2"], "docid": ["d1", "d2"], "score": [1, 2]}
    read = _corpus if kind == "corpus" else read_qrels
    form = Format(f"{kind}.parquet", _parquet(table), read, lambda *_: None)
    assert _prove(form, form.valid, tmp_path) == (True, True)
    for size in range(0, len(form.valid), 7):
        assert _prove(form, form.valid[:size], tmp_path) == (False, False)


def test_a_flipped_bit_in_a_parquet_page_with_a_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    table = pa.table({"_id": ["d1", "d2"], "text": ["one", "SECRET"]})
    pq.write_table(table, path, compression="none", write_page_checksum=True, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"SECRET", b"SECREU"))
    with pytest.raises(DataError, match="damaged"):
        _corpus(path, Reading(lenient=True))
