"""Every dialect and compression reads as it should, and what is written reads back to the same bits."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright.data import _fields
from rankwright.data.formats import (
    JsonParser,
    read_corpus,
    read_jsonl,
    read_qrels,
    read_queries,
    read_run,
    write_qrels,
    write_run,
)
from rankwright.data.policy import Reading
from rankwright.data.scores import read_scores
from rankwright.errors import DataError, NonFiniteError, UsageError
from rankwright.types import Document, Qrels, Run

SHARED = Path(__file__).parents[3] / "shared" / "data"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
DOCS = [Document("d1", "A title", "one"), Document("d2", "", "two, «zwei»\u2028")]


def _put(folder: Path, name: str, text: str, packed: str = "") -> Path:
    path = folder / (name + packed)
    path.write_bytes(PACK[packed](text.encode()))
    return path


# --- dialects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("corpus.jsonl", '{"_id": "d1", "title": "A title", "text": "one"}\n{"_id": "d2", "text": "two, «zwei»\u2028"}'),
        ("corpus.jsonl", '{"id": "d1", "title": "A title", "contents": "one"}\n{"id": "d2", "contents": "two, «zwei»\\u2028"}\n'),
        ("dump", '{"_id": "d1", "title": "A title", "text": "one"}\n{"_id": "d2", "text": "two, «zwei»\u2028"}\n'),
        ("collection.tsv", "d1\tone\tA title\nd2\ttwo, «zwei»\u2028\t\n"),
        ("dump", "d1\tone\tA title\nd2\ttwo, «zwei»\u2028\t\n"),
        ("corpus.tsv", "url\ttitle\t_id\ttext\n/\tA title\td1\tone\n/\t\td2\ttwo, «zwei»\u2028\n"),
        ("corpus.tsv", "id\ttext\ttitle\nd1\tone\tA title\nd2\ttwo, «zwei»\u2028\t"),
    ],
)  # fmt: skip
def test_corpus_dialects(name: str, text: str, packed: str, tmp_path: Path) -> None:
    assert list(read_corpus(_put(tmp_path, name, text, packed))) == DOCS


def test_corpus_of_two_columns_has_no_titles_and_quotes_are_literal(tmp_path: Path) -> None:
    path = _put(tmp_path, "collection.tsv", '1\t"one\n2\ttwo" \n')
    assert list(read_corpus(path)) == [Document("1", "", '"one'), Document("2", "", 'two" ')]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_corpus(kind: Any, tmp_path: Path) -> None:
    columns = {"_id": [f"d{i}" for i in range(3000)], "text": ["x"] * 3000, "title": [None, "t"] * 1500}
    table = pa.table({name: pa.array(values).cast(kind) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=700)
    read = list(read_corpus(tmp_path / "corpus.parquet"))
    assert [d.id for d in read] == columns["_id"]
    assert read[:2] == [Document("d0", "", "x"), Document("d1", "t", "x")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "who?", "metadata": {}}\n{"_id": "q2", "text": "why?"}\n'),
        ("queries.tsv", "q1\twho?\nq2\twhy?\n"),
        ("queries.tsv", "qid\ttext\nq1\twho?\nq2\twhy?\n"),
    ],
)
def test_query_dialects(name: str, text: str, tmp_path: Path) -> None:
    assert list(read_queries(_put(tmp_path, name, text))) == [("q1", "who?"), ("q2", "why?")]


def test_parquet_queries(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["who?"], "_id": ["q1"]}), tmp_path / "queries.parquet")
    assert list(read_queries(tmp_path / "queries.parquet")) == [("q1", "who?")]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test.tsv", "query-id\tcorpus-id\tscore\nq2\td1\t1\nq1\td1\t0\nq2\td2\t3\n"),
        ("test.tsv", "score\tcorpus-id\tquery-id\n1\td1\tq2\n0\td1\tq1\n3\td2\tq2\n"),
        ("test.tsv", "query_id doc_id relevance\nq2 d1 1\nq1 d1 0\nq2 d2 3\n"),
        ("test.tsv", "q2\td1\t1\nq1\td1\t0\nq2\td2\t3\n"),
        ("test.txt", "q2 d1 1\nq1 d1 0\nq2 d2 3\n"),
        ("test.qrels", "q2 0 d1 1\nq1 0 d1 0\nq2 0 d2 3\n"),
        ("qrels.dl19", "  q2  Q0\td1   1 \nq1 0 d1 0\n\nq2 0 d2\t3\n"),
        ("test.tsv", "q2\t0\td1\t1\nq1\t0\td1\t0\nq2\t0\td2\t3"),
        ("test.jsonl", '{"qid": "q2", "docid": ["d1", "d2"], "score": [1, 3.0]}\n{"qid": "q1", "docid": ["d1"], "score": [0]}\n'),
        ("test.jsonl", '{"query-id": "q2", "corpus-id": "d1", "score": 1}\n{"query-id": "q1", "corpus-id": "d1", "score": 0}\n{"query-id": "q2", "corpus-id": "d2", "score": 3}\n'),
        ("test", '{"qid": "q2", "docid": ["d1", "d2"], "score": [1, 3]}\n{"qid": "q1", "docid": ["d1"], "score": [0]}\n'),
    ],
)  # fmt: skip
def test_qrels_dialects(name: str, text: str, packed: str, tmp_path: Path) -> None:
    read = read_qrels(_put(tmp_path, name, text, packed))
    assert isinstance(read, Qrels)
    assert read.to_dict() == {"q2": {"d1": 1, "d2": 3}, "q1": {"d1": 0}}
    assert list(read.queries) == ["q2", "q1"]
    assert (read.offsets.dtype, read.columns.dtype, read.values.dtype) == (np.int64, np.int32, np.float64)


@pytest.mark.parametrize("names", [("query-id", "corpus-id", "score"), ("qid", "docid", "rel")])
def test_parquet_qrels(names: tuple[str, ...], tmp_path: Path) -> None:
    columns = [["q2", "q1", "q2"], ["d1", "d1", "d2"], [1, 0, 3]]
    pq.write_table(pa.table(dict(zip(names, columns))), tmp_path / "test.parquet")
    assert read_qrels(tmp_path / "test.parquet").to_dict() == {"q2": {"d1": 1, "d2": 3}, "q1": {"d1": 0}}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.trec", "q2 Q0 d1 1 2.5 tag\nq1 Q0 d1 1 -1e-3 tag\nq2 Q0 d2 2 +.5 tag", {"q2": {"d1": 2.5, "d2": 0.5}, "q1": {"d1": -0.001}}),
        ("a.trec", " q2\tQ0  d1 1 2. tag \r\n", {"q2": {"d1": 2.0}}),
        ("a.tsv", "q2\td1\t1\nq1\td1\t1\nq2\td2\t2\n", {"q2": {"d1": -1, "d2": -2}, "q1": {"d1": -1}}),
        ("a.tsv", "q2\td1\t1\t7.5\nq1\td1\t1\t3\n", {"q2": {"d1": 7.5}, "q1": {"d1": 3}}),
    ],
)  # fmt: skip
def test_run_dialects(name: str, text: str, expected: dict[str, Any], packed: str, tmp_path: Path) -> None:
    read = read_run(_put(tmp_path, name, text, packed))
    assert isinstance(read, Run)
    assert read.to_dict() == expected


def test_a_qrels_file_is_no_run_and_a_run_no_qrels_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rank 'd1' is not a whole number"):
        read_run(_put(tmp_path, "a", "q1 0 d1 1\n"))
    with pytest.raises(DataError, match=r"6 columns, expected 3 .* or 4 .*"):
        read_qrels(_put(tmp_path, "b", "q1 Q0 d1 1 2.5 tag\n"))


def test_other_tools_read_our_run(tmp_path: Path) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    run = Run.from_dict({"q1": {"a": 1 / 3, "b": 0.1 + 0.2, "c": 1 / 3}, "q0": {"ü": -2e-30}})
    write_run(tmp_path / "a.run", run)
    rows = [(row.query_id, row.doc_id, row.score) for row in ir_measures.read_trec_run(str(tmp_path / "a.run"))]
    assert rows == [("q1", "c", 1 / 3), ("q1", "a", 1 / 3), ("q1", "b", 0.1 + 0.2), ("q0", "ü", -2e-30)]
    assert (tmp_path / "a.run").read_text().splitlines()[1] == "q1 Q0 a 2 0.3333333333333333 rankwright"


def test_duplicates_are_found_among_many_ids() -> None:
    seen = _fields.Seen()
    assert all(seen.add(str(i)) for i in range(20_000))
    assert not any(seen.add(str(i)) for i in range(20_000))
    assert seen.add("new")


# --- round trips -----------------------------------------------------------------------------------------------------

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(_fields.is_clean_id)
SCORES = st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False, allow_infinity=False)
GRADES = st.integers(-(2**31) + 1, 2**31 - 1).map(float)


def _tables_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, dict[str, float]]]:
    return st.dictionaries(IDS, st.dictionaries(IDS, values, min_size=1, max_size=6), min_size=1, max_size=6)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=_tables_of(SCORES), suffix=st.sampled_from([".trec", ".run.gz", ".zst"]), depth=st.none() | st.integers(1, 4)
)
def test_run_round_trip(table: dict[str, dict[str, float]], suffix: str, depth: int | None, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    run = Run.from_dict(table)
    write_run(path, run, depth=depth)
    read = read_run(path)
    expected = run.ranked(depth)
    assert list(read.queries) == list(expected.queries)
    for (_, docs, scores), (_, docs_again, scores_again) in zip(expected, read):
        assert docs == docs_again
        assert scores.tobytes() == scores_again.tobytes()  # the same bits, also of -0.0


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=_tables_of(GRADES),
    suffix=st.sampled_from([".tsv", ".tsv.gz", ".qrels.zst"]),
    dialect=st.sampled_from(["beir", "trec"]),
)
def test_qrels_round_trip(table: dict[str, dict[str, float]], suffix: str, dialect: Any, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_qrels(path, Qrels.from_dict(table), dialect=dialect)
    read = read_qrels(path)
    assert [(q, list(docs.items())) for q, docs in read.to_dict().items()] == [
        (q, list(docs.items())) for q, docs in table.items()
    ]


def test_msmarco_run_of_our_ranks_keeps_the_order(tmp_path: Path) -> None:
    run = Run.from_dict({"q1": {"a": 3.0, "b": 5.0, "c": 4.0}})
    write_run(tmp_path / "a.trec", run)
    fields = [line.split() for line in (tmp_path / "a.trec").read_text().splitlines()]
    path = _put(tmp_path, "a.tsv", "".join(f"{f[0]}\t{f[2]}\t{f[3]}\n" for f in fields))
    assert [docs for _, docs, _ in read_run(path).ranked()] == [["b", "c", "a"]]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_same_rows_make_the_same_bytes(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.from_dict({f"q{i}": {f"d{j}": j / 7 for j in range(100)} for i in range(300)})  # more than one batch
    write_run(tmp_path / f"a{suffix}", run)
    monkeypatch.setattr("time.time", lambda: 1.0)
    write_run(tmp_path / f"b{suffix}", run)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert len(read_run(tmp_path / f"a{suffix}")) == 30_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_writers_refuse_what_readers_refuse(tmp_path: Path) -> None:
    path = tmp_path / "a.trec"
    for bad in ("a b", "", "a\t", "\ufeffa", "\ud800", "a\0", "a\u00a0"):
        with pytest.raises(DataError, match="cannot be written"):
            write_run(path, Run.from_dict({"q": {bad: 1.0}}))
        with pytest.raises(DataError, match="cannot be written"):
            write_qrels(path, Qrels.from_dict({bad: {"d": 1.0}}))
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="query 'q2' and document 'd'"):
            write_run(path, Run.from_dict({"q1": {"c": 1.0}, "q2": {"d": value}}))
    for value in (math.nan, 0.5, 2.0**31):
        with pytest.raises(DataError, match="query 'q2' and document 'd'"):
            write_qrels(path, Qrels.from_dict({"q1": {"c": 1.0}, "q2": {"d": value}}))
    with pytest.raises(DataError, match="document 'd' occurs twice for query 'q'"):
        write_run(path, Run.from_rows(["q", "p", "q"], ["d", "d", "d"], [1.0, 1.0, 2.0]))
    with pytest.raises(UsageError):
        write_run(path, Run.from_dict({"q": {"d": 1.0}}), tag="two words")
    with pytest.raises(UsageError):
        write_qrels(path, Qrels.from_dict({"q": {"d": 1.0}}), dialect="csv")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_empty_run_can_be_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a.trec", Run.from_dict({}))
    assert (tmp_path / "a.trec").read_bytes() == b""


# --- JSON lines for others -------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    path = _put(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": {"b": 1.5}}\n')
    assert list(read_jsonl(path, Reading())) == [(1, {"a": 1}), (3, {"a": {"b": 1.5}})]
    with pytest.raises(DataError, match="the key 'b' occurs twice") as caught:
        JsonParser(Reading()).parse('{"a": [{"b": 1, "c": 2, "b": 1}]}', "x:7")
    assert caught.value.where == "x:7"
    assert JsonParser(Reading(lenient=True)).parse("[", "x:7") is None


# --- the page for users, and real collections ------------------------------------------------------------------------


def test_the_examples_of_the_page_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    examples = re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', page, re.DOTALL)
    assert len(examples) >= 9
    corpora, queries, qrels, runs = [], [], [], []
    for name, text in examples:
        path = _put(tmp_path, Path(name).name, text)
        kind = Path(name).stem
        if kind in ("corpus", "collection"):
            corpora.append([document.id for document in read_corpus(path)])
        elif kind == "queries":
            queries.append(list(read_queries(path)))
        elif kind == "scores":
            assert len(read_scores(path)) == 2 * len(text.splitlines())
        elif name.startswith("qrels/"):
            qrels.append(read_qrels(path).to_dict())
        else:
            runs.append([docs for _, docs, _ in read_run(path).ranked()])
    assert [len(group) for group in (corpora, queries, qrels, runs)] == [3, 2, 3, 2]
    assert all(group.count(group[0]) == len(group) for group in (corpora, queries, qrels, runs))


COUNTS = {
    "scifact": (5183, {"train": 919, "test": 339}),
    "medquad": (16316, {"train": 15948, "test": 386}),
    "squality": (127, {"train": 135, "dev": 64, "test": 127}),
    "limit-small": (46, {"test": 2000}),
    "cranfield": (1400, {"test": 1837}),
    "noveleval": (420, {"test": 420}),
}
FLAWS = {"cranfield": {"empty text": 2}, "limit-small": {"white space in id": 46 + 2000}}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared collections are not here")
@pytest.mark.parametrize("name", COUNTS)
def test_real_collections(name: str) -> None:
    docs, splits = COUNTS[name]
    reading = Reading(lenient=True)
    ids = {document.id for document in read_corpus(SHARED / name / "corpus.jsonl.gz", reading)}
    queries = dict(read_queries(SHARED / name / "queries.jsonl.gz", reading))
    assert len(ids) == docs
    for split, pairs in splits.items():
        qrels = read_qrels(SHARED / name / "qrels" / f"{split}.tsv", reading)
        assert len(qrels) == pairs
        assert set(qrels.docs) <= ids
        assert set(qrels.queries) <= queries.keys()
    assert reading.counts == FLAWS.get(name, {})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared collections are not here")
def test_real_runs() -> None:
    for year, queries, pairs in (("dl19", 43, 9260), ("dl20", 54, 11386)):
        assert len(read_qrels(SHARED / "trec-dl-passage" / "qrels" / f"{year}.tsv")) == pairs
        for system in ("bm25", "colbert"):
            run = read_run(SHARED / "trec-dl-passage" / "runs" / f"{system}.{year}.trec.gz")
            assert (len(run.queries), len(run)) == (queries, queries * 100)


def test_a_brace_is_an_id_like_another(tmp_path: Path) -> None:
    (tmp_path / "q.qrels").write_text("{ 0 d1 1\n{ 0 d2 0\n")
    assert read_qrels(tmp_path / "q.qrels").to_dict() == {"{": {"d1": 1.0, "d2": 0.0}}
