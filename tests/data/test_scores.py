"""Teacher scores, triples and lists of ids: every layout to the same table, problems with their line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwright.data import Reading, _tables, read_query_ids, read_scores, read_triples
from rankwright.errors import DataError

_SINGLE = '{"qid": "q2", "docid": "d1", "score": 0}\n'
EXPECTED = {"q1": {"d1": 9.5, "d2": -1.25}, "q2": {"d1": 0.0}}


def _put(place: Path, text: str) -> Path:
    place.write_text(text)
    return place


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.tsv", "q1\td1\t9.5\nq1\td2\t-1.25\nq2\td1\t0\n"),
        ("s.txt", "q1 d1 9.5\nq1  d2 -1.25\nq2 d1 0\n"),
        ("h.tsv", "score\tqid\tdocid\n9.5\tq1\td1\n-1.25\tq1\td2\n0\tq2\td1\n"),
        ("r.trec", "q1 Q0 d1 1 9.5 t\nq1 Q0 d2 2 -1.25 t\nq2 Q0 d1 1 0 t\n"),
        ("l.jsonl", '{"qid": "q1", "docid": ["d1", "d2"], "score": [9.5, -1.25]}\n' + _SINGLE),
    ],
)
def test_every_layout_gives_the_same_scores(tmp_path: Path, name: str, text: str) -> None:
    assert read_scores(_put(tmp_path / name, text)).to_dict() == EXPECTED


def test_parquet(tmp_path: Path) -> None:
    columns = {"qid": ["q1", "q1", "q2"], "docid": ["d1", "d2", "d1"], "score": [9.5, -1.25, 0.0]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    assert read_scores(tmp_path / "s.parquet").to_dict() == EXPECTED


@pytest.mark.parametrize("slow", [False, True])
def test_pairs_of_a_teacher_in_file_order(tmp_path: Path, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if slow:
        monkeypatch.setattr(_tables.Table, "_add_block", lambda *_: False)
    path = _put(tmp_path / "p.tsv", "11.5\t-2\tq1\td7\td2\n11.52\t3e-1\tq1\td7\td1\n1 2 q2 d1 d7\n")
    table = read_scores(path)
    assert table.to_dict() == {"q1": {"d7": 11.52, "d2": -2.0, "d1": 0.3}, "q2": {"d1": 1.0, "d7": 2.0}}
    assert [docs for _, docs, _ in table] == [["d2", "d7", "d1"], ["d1", "d7"]]  # d7 where its highest score stands
    _put(path, "11.5\t-2\tq1\td7\td2\n8\t0.3\tq1\td7\td1\n")
    with pytest.raises(DataError, match=r"p\.tsv:2.*another score"):
        read_scores(path)
    assert read_scores(path, Reading(lenient=True)).to_dict()["q1"]["d7"] == 11.5


@pytest.mark.parametrize("slow", [False, True])
def test_triples_are_grades(tmp_path: Path, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if slow:
        monkeypatch.setattr(_tables.Table, "_add_block", lambda *_: False)
    path = _put(tmp_path / "t.tsv", "q1\td1\td2\nq1\td1\td3\nq2\td3\td1\n")
    table = read_triples(path)
    assert table.to_dict() == {"q1": {"d1": 1.0, "d2": 0.0, "d3": 0.0}, "q2": {"d3": 1.0, "d1": 0.0}}
    assert [docs for _, docs, _ in table] == [["d1", "d2", "d3"], ["d3", "d1"]]
    _put(path, "qid\tpos\tneg\nq1\td1\td2\nq1\td2\td3\n")
    with pytest.raises(DataError, match=r"t\.tsv:3.*'d2' were paired in line 2 already, with another grade"):
        read_triples(path)
    _put(path, "q1\td1\td2\nq1\td1\n")
    with pytest.raises(DataError, match=r"t\.tsv:2.*2 columns, expected 3"):
        read_triples(path)


def test_wrong_scores_name_their_line(tmp_path: Path) -> None:
    for text, words in (("q\td\t1\nq\te\tnan\n", r":2.*NaN"), ("q\td\t1\nq\te\tx\n", r":2.*'x' is not a number"),
                        ("a b c d e\n", ":1.*5 columns")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            read_scores(_put(tmp_path / "s.tsv", text))


def test_ids_are_the_first_column_or_the_id_field(tmp_path: Path) -> None:
    for name, text in (("a.txt", "1\n2 x\n\n2\n"), ("b.tsv", "query-id\tcorpus-id\tscore\n1\tx\t1\n2\ty y\t0\n"),
                       ("c", '{"qid": "1", "docid": ["a"]}\n{"_id": "2"}\n')):  # fmt: skip
        assert read_query_ids(_put(tmp_path / name, text)) == ["1", "2"]
    with pytest.raises(DataError, match="holds no id"):
        read_query_ids(_put(tmp_path / "e.txt", "\n"))
