"""Topics and query ids: written and read back, wrong lines named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankwright.data import read_query_ids, read_topics, write_topics
from rankwright.errors import DataError


@pytest.mark.parametrize("name", ["topics.tsv", "topics.tsv.gz", "topics.tsv.zst"])
def test_topics_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    rows = [("q1", "0"), ("q2", "1"), ("q3", "0")]
    write_topics(tmp_path / name, rows)
    assert read_topics(tmp_path / name) == dict(rows)


def test_a_header_is_not_needed_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("q1\tsports\n\nq2\tnews of today\nq1\tsports\n")
    assert read_topics(path) == {"q1": "sports", "q2": "news of today"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0\n", r"t\.tsv:1"), ("q1\t0\nq2\t1\t2\n", r"t\.tsv:2"), ("q1\t\n", "a tab and a topic"),
        ("q1\t0\nq1\t1\n", "two topics"), ("", "holds no query"), ("query-id\ttopic\n", "holds no query"),
    ],
)  # fmt: skip
def test_wrong_topics_are_named_by_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_topics(path)


def test_ids_come_from_lists_queries_and_judgements(tmp_path: Path) -> None:
    for name, text in (
        ("ids.txt", "q1\nq2\n"), ("queries.tsv", "q1\twho is it?\nq2\twhy?\n"),
        ("train.qrels", "q1 0 d1 1\nq2 0 d2 1\n"),
        ("pairs.tsv", "q1\td1\t1\nq1\td2\t0\nq2\td1\t1\n"),
        ("queries.jsonl", '{"_id": "q1", "text": "who?"}\n{"_id": "q2", "text": "why?"}\n'),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert read_query_ids(tmp_path / name) == ["q1", "q2"]
    with pytest.raises(DataError):
        read_query_ids(tmp_path / "nowhere.tsv")
