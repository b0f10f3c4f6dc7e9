"""The golden table: every edge case of policy.py, strict and lenient, with exact results and counts."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwright.data import _lines
from rankwright.data.dialects._records import records
from rankwright.data.dialects.trove import SyDir
from rankwright.data.formats import read_corpus, read_qrels, read_queries, read_run
from rankwright.data.policy import POLICIES, Reading, policy_table, shown
from rankwright.data.scores import read_scores
from rankwright.errors import DataError
from rankwright.types import Document

LARGEST = 1.7976931348623157e308
GOOD = '{"_id": "d1", "title": "", "text": "one"}\n'
DEEP = '{"_id": "d2", "text": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
HUGE = '{"_id": "d2", "text": "two", "n": ' + "9" * 5000 + "}\n"


def _corpus(path: Path, reading: Reading) -> list[tuple[str, ...]]:
    return [tuple(document) for document in read_corpus(path, reading)]


def _queries(path: Path, reading: Reading) -> list[tuple[str, str]]:
    return list(read_queries(path, reading))


def _qrels(path: Path, reading: Reading) -> dict[str, dict[str, float]]:
    return read_qrels(path, reading).to_dict()


def _scores(path: Path, reading: Reading) -> dict[str, dict[str, float]]:
    return read_scores(path, reading).to_dict()


def _csv(path: Path, reading: Reading) -> list[dict[str, Any]]:
    return [record for _, record in records(path, reading)]


def _synthetic(path: Path, reading: Reading) -> list[str]:
    return [item.id for _, item in SyDir().read(path, reading) if isinstance(item, Document)]


def _run(path: Path, reading: Reading) -> dict[str, dict[str, float]]:
    return read_run(path, reading).to_dict()


def _parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


ONE = [("d1", "", "one")]
TWO = [*ONE, ("d2", "", "two")]
PACKED = gzip.compress(GOOD.encode() * 50)
IDS = pa.array(["d1", "d2"])
BAD_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0\6\0\0\0"), pa.py_buffer(b"onet\xffo")]
)

# kind, reader, file name, content, line of the problem, lenient result (None: an error too), lenient count
CASES: list[tuple[str, Any, str, str | bytes | None, int | None, Any, int]] = [
    ("missing file", _corpus, "corpus.jsonl", None, None, None, 0),
    ("missing file", _run, "r.trec.gz", None, None, None, 0),
    ("missing file", _qrels, "q.parquet", None, None, None, 0),
    ("corrupt file", _corpus, "corpus.jsonl.gz", PACKED[:-9], None, None, 0),
    ("corrupt file", _corpus, "corpus.jsonl.gz", PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:], None, None, 0),
    ("corrupt file", _corpus, "corpus.jsonl.gz", GOOD, None, None, 0),
    ("corrupt file", _qrels, "q.tsv.zst", b"(\xb5/\xfd\x04", None, None, 0),
    ("corrupt file", _corpus, "corpus.parquet", _parquet(id=IDS, text=IDS)[:-20], None, None, 0),
    ("corrupt file", _qrels, "q.parquet", b"", None, None, 0),
    ("unknown format", _corpus, "corpus.parquet.gz", b"", None, None, 0),
    ("empty file", _corpus, "corpus.jsonl", "", None, [], 1),
    ("empty file", _queries, "queries.tsv", "\n \n", None, [], 1),
    ("empty file", _qrels, "q.tsv", "query-id\tcorpus-id\tscore\n", None, {}, 1),
    ("empty file", _run, "r.trec", "", None, {}, 1),
    ("empty file", _corpus, "corpus.parquet", _parquet(id=pa.array([], "string"), text=pa.array([], "string")), None, [], 1),
    ("malformed CSV", _csv, "t.csv", 'a,b\n1,"2"3\n4,5\n', 2, [{"a": "4", "b": "5"}], 1),
    ("malformed CSV", _csv, "t.csv", "a,a\n1,2\n", 1, [{"a": "2"}], 1),
    ("id without grade", _synthetic, "c.jsonl", '{"_id": "q_l_1_d_2", "text": "x"}\n{"_id": "q", "text": "y"}\n', None, ["q_l_1_d_2"], 1),
    ("long line", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "' + "x" * 1000 + '"}\n', 2, None, 0),
    ("long line", _run, "r.trec", "q1 Q0 d1 1 " + "1" * 1000, 1, None, 0),
    ("invalid UTF-8", _corpus, "corpus.jsonl", GOOD.encode() + b'{"_id": "d2", "text": "t\xffo"}', 2, [*ONE, ("d2", "", "t\ufffdo")], 1),
    ("invalid UTF-8", _queries, "queries.tsv", "q1\tété\n".encode() + "q2\tété\n".encode("latin-1"), 2, [("q1", "été"), ("q2", "\ufffdt\ufffd")], 1),
    ("invalid UTF-8", _corpus, "corpus.parquet", _parquet(id=IDS, text=BAD_UTF8), 2, [*ONE, ("d2", "", "t\ufffdo")], 1),
    ("NUL", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "t\0wo"}\n', 2, TWO, 1),
    ("NUL", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2\\u0000", "text": "two"}\n', 2, TWO, 1),
    ("NUL", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "title": "\\u0000", "text": "two\\u0000"}\n', 2, TWO, 2),
    ("lone surrogate", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "\\ud800!"}\n', 2, [*ONE, ("d2", "", "\ufffd!")], 1),
    ("lone surrogate", _queries, "queries.jsonl", '{"_id": "\\udfff", "text": "x"}\n', 1, [("\ufffd", "x")], 1),
    ("malformed JSON", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "two"\n', 2, ONE, 1),
    ("malformed JSON", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "a\tb"}\n', 2, ONE, 1),
    ("malformed JSON", _corpus, "corpus.jsonl", GOOD + GOOD.replace("d1", "d2").strip() + GOOD, 2, ONE, 1),
    ("JSON nesting", _corpus, "corpus.jsonl", GOOD + DEEP, 2, ONE, 1),
    ("huge integer", _corpus, "corpus.jsonl", GOOD + HUGE, 2, ONE, 1),
    ("NaN in JSON", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "title": NaN, "text": "two", "x": -Infinity}\n', 2, TWO, 2),
    ("NaN in JSON", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "two", "x": [1e999]}\n', 2, TWO, 1),
    ("duplicate JSON key", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "text": "one", "text": "two"}\n', 2, TWO, 1),
    ("missing field", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2"}\n{"text": "two"}\n{"_id": null, "text": "x"}\n', 2, ONE, 3),
    ("missing field", _corpus, "corpus.parquet", _parquet(id=pa.array(["d1", None]), text=pa.array(["one", "two"])), 2, ONE, 1),
    ("missing field", _qrels, "q.jsonl", '{"qid": "q1", "docid": ["d1"], "score": [null]}\n{"docid": ["d1"], "score": [1]}\n{"qid": "q1"}\n{"qid": "q2", "docid": "d1", "score": 1}', 1, {"q2": {"d1": 1}}, 3),
    ("wrong type", _corpus, "corpus.jsonl", '[1]\n"x"\n' + GOOD, 1, ONE, 2),
    ("wrong type", _corpus, "corpus.jsonl", GOOD + '{"_id": 2, "text": 3}\n{"_id": true, "text": "x"}\n{"_id": "d3", "text": ["x"]}\n', 2, [*ONE, ("2", "", "3")], 4),
    ("wrong type", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "title": [], "text": "two"}\n', 2, TWO, 1),
    ("wrong type", _queries, "queries.parquet", _parquet(id=pa.array([7]), text=pa.array(["x"])), 1, [("7", "x")], 1),
    ("wrong type", _qrels, "q.jsonl", '{"qid": "q1", "docid": ["d1", "d2"], "score": ["1", 2]}\n', 1, {"q1": {"d2": 2}}, 1),
    ("wrong type", _qrels, "q.jsonl", '{"qid": "q1", "docid": ["d1"], "score": 1}\n{"qid": "q1", "docid": "d1", "score": true}\n{"qid": "q", "docid": "d", "score": 0}', 1, {"q": {"d": 0}}, 2),
    ("missing column", _corpus, "corpus.parquet", _parquet(id=IDS, body=IDS), None, None, 0),
    ("missing column", _qrels, "q.parquet", _parquet(qid=IDS, score=pa.array([1, 1])), None, None, 0),
    ("wrong number of columns", _corpus, "collection.tsv", "d1\tone\nd2\nd3\ta\tb\n", 2, ONE, 2),
    ("wrong number of columns", _corpus, "collection.tsv", "d0\n\n1\t2\t3\t4\nd1\tone\n", 1, ONE, 2),
    ("wrong number of columns", _corpus, "c.tsv", "id\ttitle\ttext\nd1\t\tone\nd2\ttwo\n", 3, ONE, 1),
    ("wrong number of columns", _qrels, "q.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\n", 3, {"q1": {"d1": 1}}, 1),
    ("wrong number of columns", _qrels, "q.qrels", "q1 d1\nq1 0 d1 1\n\nq1 0 d2\nq1 0 d 3 1 x\n", 1, {"q1": {"d1": 1}}, 3),
    ("wrong number of columns", _qrels, "q.jsonl", '{"qid": "q1", "docid": ["d1", "d2"], "score": [1]}\n{"qid": "q", "docid": ["d"], "score": [0]}', 1, {"q": {"d": 0}}, 1),
    ("wrong number of columns", _qrels, "q.qrels", "q0 0 d0 1\nq1\nd1 1 x q2 0 d2 1\n", 2, {"q0": {"d0": 1}}, 2),
    ("wrong number of columns", _run, "r.trec", "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 2.5\n", 2, {"q1": {"d1": 2.5}}, 1),
    ("wrong number of columns", _run, "r.tsv", "q1\td1\t1\nq1\td2\t2\t9\n", 2, {"q1": {"d1": -1}}, 1),
    ("wrong number of columns", _run, "r.tsv", "q1\nq1 d2\nq1\td1\t1\n", 1, {"q1": {"d1": -1}}, 2),
    ("empty id", _corpus, "corpus.jsonl", GOOD + '{"_id": "", "text": "x"}\n{"_id": " \\t", "text": "x"}\n', 2, ONE, 2),
    ("empty id", _queries, "queries.tsv", "q1\tx\n\ty\n", 2, [("q1", "x")], 1),
    ("empty id", _qrels, "q.tsv", "q1\td1\t1\nq1\t\t1\n\td1\t1\n", 2, {"q1": {"d1": 1}}, 2),
    ("white space in id", _corpus, "corpus.jsonl", GOOD + '{"_id": "d 2\\t", "text": "two"}\n', 2, [*ONE, ("d_2_", "", "two")], 1),
    ("white space in id", _qrels, "q.tsv", "q1\td 2\t1\nq\u00a01\td2\t1\n", 1, {"q1": {"d_2": 1}, "q_1": {"d2": 1}}, 2),
    ("duplicate id", _corpus, "corpus.jsonl", GOOD + GOOD.replace("one", "two"), 2, ONE, 1),
    ("duplicate id", _queries, "queries.tsv", "q1\tx\nq2\ty\nq1\tx\n", 3, [("q1", "x"), ("q2", "y")], 1),
    ("empty text", _corpus, "corpus.jsonl", GOOD + '{"_id": "d2", "title": " ", "text": "\\n"}\n', 2, [*ONE, ("d2", " ", "\n")], 1),
    ("empty text", _queries, "queries.tsv", "q1\t\n", 1, [("q1", "")], 1),
    *[
        ("not a number", _run, "r.trec", f"q1 Q0 d1 1 2.5 t\nq1 Q0 d2 2 {text} t\n", 2, {"q1": {"d1": 2.5}}, 1)
        for text in ("xyz", "1_0", "0x1p3", "1,5", "1e", ".", "--1", "١", "nan1", "++inf")
    ],
    *[
        ("not a number", _qrels, "q.tsv", f"q1\td1\t1\nq1\td2\t{text}\n", 2, {"q1": {"d1": 1}}, 1)
        for text in ("xyz", "", " 1", "1_0", "0x1", "Inf", "1e999")
    ],
    ("not a number", _qrels, "q.parquet", _parquet(qid=IDS, docid=IDS, score=pa.array([1, float("inf")])), 2, {"d1": {"d1": 1}}, 1),
    *[("NaN score", _run, "r.trec", f"q1 Q0 d1 1 2.5 t\nq1 Q0 d2 2 {text} t\n", 2, None, 0) for text in ("nan", "NaN", "-NAN")],
    ("not a number", _qrels, "q.jsonl", '{"qid": "q", "docid": ["a", "b"], "score": [-' + "9" * 400 + ", 1]}", 1, {"q": {"b": 1}}, 1),
    ("NaN score", _qrels, "q.qrels", "q1 0 d1 nan\n", 1, None, 0),
    ("NaN score", _qrels, "q.parquet", _parquet(qid=IDS, docid=IDS, score=pa.array([1, float("nan")])), 2, None, 0),
    ("infinite score", _run, "r.trec", "q1 Q0 d1 1 Inf t\nq1 Q0 d2 2 1e999 t\nq1 Q0 d3 3 -infinity t\n", 1, {"q1": {"d1": LARGEST, "d2": LARGEST, "d3": -LARGEST}}, 3),
    ("fractional grade", _qrels, "q.tsv", "q1\td1\t0.5\nq1\td2\t-1.5\nq1\td3\t2.9\n", 1, {"q1": {"d1": 0, "d2": -1, "d3": 2}}, 3),
    ("huge grade", _qrels, "q.tsv", "q1\td1\t1\nq1\td2\t2147483648\nq1\td3\t1e300\n", 2, {"q1": {"d1": 1}}, 2),
    ("huge grade", _qrels, "q.jsonl", '{"qid": "q1", "docid": ["d1", "d2"], "score": [1, 1' + "0" * 300 + "]}\n", 1, {"q1": {"d1": 1}}, 1),
    ("duplicate pair", _qrels, "q.tsv", "q1\td1\t1\nq2\td1\t1\nq1\td1\t1\nq1\td1\t1\n", 3, {"q1": {"d1": 1}, "q2": {"d1": 1}}, 2),
    ("duplicate pair", _qrels, "q.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\n", 3, {"q1": {"d1": 1}}, 1),
    ("contradicting grades", _qrels, "q.qrels", "q1 0 d1 0\nq1 0 d1 2\nq1 0 d1 1\n", 2, {"q1": {"d1": 2}}, 2),
    ("contradicting scores", _scores, "s.tsv", "q1\td1\t10\nq1\td1\t10.05\nq1\td1\t9\n", 3, {"q1": {"d1": 10.05}}, 1),
    ("duplicate document", _run, "r.trec", "q1 Q0 d1 1 3 t\nq1 Q0 d2 2 2 t\nq1 Q0 d1 3 4 t\n", 3, {"q1": {"d2": 2, "d1": 4}}, 1),
    ("bad rank", _run, "r.trec", "q1 Q0 d1 1 3 t\nq1 Q0 d2 x 2 t\nq1 Q0 d3 1.5 1 t\n", 2, {"q1": {"d1": 3, "d2": 2, "d3": 1}}, 2),
    ("bad rank", _run, "r.tsv", "q1\td1\t1\nq1\td2\tx\nq1\td3\t1e2\n", 2, {"q1": {"d1": -1}}, 2),
    ("bad rank", _run, "r.tsv", "q1\td1\tx\t0.5\n", 1, {"q1": {"d1": 0.5}}, 1),
]  # fmt: skip

# kind, reader, file name, content, what both modes read
ACCEPTED: list[tuple[str, Any, str, str | bytes, Any]] = [
    ("byte order mark", _corpus, "corpus.jsonl", "\ufeff" + GOOD, ONE),
    ("byte order mark", _run, "r.trec", "\ufeffq1 Q0 d1 1 2 t", {"q1": {"d1": 2}}),
    ("CRLF", _corpus, "collection.tsv", "d1\tone\r\nd2\ttwo\r\n", TWO),
    ("CRLF", _qrels, "q.tsv", "query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\n", {"q1": {"d1": 1}}),
    ("CRLF", _run, "r.trec", "q1 Q0 d1 1 2 t\r\n", {"q1": {"d1": 2}}),
    ("blank line", _corpus, "corpus.jsonl", "\n" + GOOD + " \n\n", ONE),
    ("blank line", _run, "r.trec", "\n\nq1 Q0 d1 1 2 t\n\t\nq1 Q0 d2 1 2 t", {"q1": {"d1": 2, "d2": 2}}),
    ("unknown field", _corpus, "corpus.jsonl", '{"_id": "d1", "text": "one", "metadata": {"a": [null]}}', ONE),
    ("unknown field", _corpus, "corpus.parquet", _parquet(url=IDS, id=IDS, text=pa.array(["one", "two"])), TWO),
    ("missing title", _corpus, "corpus.jsonl", '{"_id": "d1", "title": null, "text": "one"}\n{"_id": "d2", "text": "two"}', TWO),
    ("missing header", _qrels, "q.tsv", "q1\td1\t1\n", {"q1": {"d1": 1}}),
    ("missing header", _corpus, "collection.tsv", "d1\tone\nd2\ttwo\n", TWO),
    ("negative grade", _qrels, "q.qrels", "q1 0 d1 -1\nq1 0 d2 -2147483647\n", {"q1": {"d1": -1, "d2": -2147483647}}),
    ("grade with a point", _qrels, "q.tsv", "q1\td1\t1.0\nq1\td2\t2e0\n", {"q1": {"d1": 1, "d2": 2}}),
    ("grade with a point", _qrels, "q.parquet", _parquet(qid=IDS, docid=IDS, score=pa.array([1.0, 2.0])), {"d1": {"d1": 1}, "d2": {"d2": 2}}),
]  # fmt: skip

BETWEEN = {kind for kind, policy in POLICIES.items() if policy.applies == "between files"}
BETWEEN_ACCEPTED = {kind for kind in BETWEEN if POLICIES[kind].strict == "accepted"}  # evaluation tests them


def _name(case: tuple[Any, ...]) -> str:
    return f"{case[0]}-{case[2]}"


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(kind: str, name: str, content: str | bytes | None) -> Path:
        if kind == "long line":
            monkeypatch.setattr(_lines, "MAX_LINE", 1000)
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_strict_stops_with_file_line_and_fix(case: tuple[Any, ...], put: Any) -> None:
    kind, reader, name, content, line, _, _ = case
    path = put(kind, name, content)
    reading = Reading()
    with pytest.raises(DataError) as caught:
        reader(path, reading)
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.fix
    assert len(caught.value.what) < 400
    assert not reading.counts
    assert ("--lenient" in caught.value.fix) == (POLICIES[kind].lenient != "error")


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_lenient_repairs_and_counts(case: tuple[Any, ...], put: Any) -> None:
    kind, reader, name, content, line, expected, count = case
    path = put(kind, name, content)
    reading = Reading(lenient=True)
    if expected is None:
        assert POLICIES[kind].lenient == "error"
        with pytest.raises(DataError) as caught:
            reader(path, reading)
        assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
        assert "--lenient" not in str(caught.value)
        return
    assert reader(path, reading) == expected
    also = {"wrong type": 1} if '"title": NaN' in str(content) else {}  # kept as a number, then refused as a title
    assert dict(reading.counts) == {kind: count} | also
    assert 0 < len(reading.examples[kind]) <= 3
    assert all(example.startswith(str(path)) for example in reading.examples[kind])


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("case", ACCEPTED, ids=_name)
def test_accepted_in_silence(case: tuple[Any, ...], lenient: bool, put: Any) -> None:
    kind, reader, name, content, expected = case
    reading = Reading(lenient=lenient)
    assert reader(put(kind, name, content), reading) == expected
    assert not reading.counts
    assert POLICIES[kind].strict == POLICIES[kind].lenient == "accepted"


def test_every_policy_has_a_case() -> None:
    assert {case[0] for case in CASES} | {case[0] for case in ACCEPTED} | BETWEEN == set(POLICIES)
    assert {case[0] for case in CASES}.isdisjoint(case[0] for case in ACCEPTED)


@pytest.mark.parametrize("kind", sorted(BETWEEN - BETWEEN_ACCEPTED))
def test_problems_between_files(kind: str) -> None:
    with pytest.raises(DataError, match="no 'd9'"):
        Reading().problem(kind, "no 'd9'", where="q.tsv", fix="add it")
    reading = Reading(lenient=True)
    for i in range(5):
        reading.problem(kind, f"no 'd{i}'", where="q.tsv", fix="add it")
    assert reading.counts == {kind: 5}
    assert reading.examples == {kind: [f"q.tsv: no 'd{i}'" for i in range(3)]}


def test_an_accepted_kind_is_no_problem() -> None:
    with pytest.raises(AssertionError):
        Reading().problem("CRLF", "what", where="x", fix="y")
    with pytest.raises(KeyError):
        Reading().problem("made up", "what", where="x", fix="y")


def test_a_real_100_mb_line_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "corpus.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(GOOD.encode() + b'{"_id": "d2", "text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    tracemalloc.start()
    with pytest.raises(DataError, match="longer than") as caught:
        list(read_corpus(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.where == f"{path}:2"
    assert peak < 100e6


def test_quoted_values_are_short() -> None:
    for value in ("x" * 10_000, list(range(10_000)), 10**4000, b"\0" * 1000, json.loads("[" * 90 + "]" * 90)):
        assert len(shown(value)) < 260
    assert shown("d 1") == "'d 1'"


def test_the_page_for_users_holds_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert page.split("<!-- policies -->\n")[1].split("<!-- /policies -->")[0].strip() == policy_table().strip()
