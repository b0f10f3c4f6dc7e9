"""Wanted passages of a large file: DPR's quoting, constant memory, kept for the next call."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from rankwright.data import Reading, read_corpus, wanted_passages
from rankwright.errors import DataError
from rankwright.types import Document

PSGS = (
    "id\ttext\ttitle\n"
    '1\t"Aaron ( or ; ""Ahärôn"" ) is a prophet"\tAaron\n'
    '2\tplain "text" here\t"""Hello"" song"\n'
    "3\tthird\tThree\n"
)


def test_the_fields_of_dprs_passages_are_unquoted(tmp_path: Path):
    path = tmp_path / "psgs.tsv"
    path.write_text(PSGS)
    assert list(read_corpus(path))[:2] == [
        Document("1", "Aaron", 'Aaron ( or ; "Ahärôn" ) is a prophet'),
        Document("2", '"Hello" song', 'plain "text" here'),
    ]
    other = tmp_path / "other.tsv"  # quotation marks of other files belong to the text
    other.write_text('1\t"said so"\n')
    assert list(read_corpus(other)) == [Document("1", "", '"said so"')]


def test_only_what_is_wanted_is_kept_and_found_again(tmp_path: Path, monkeypatch):
    path = tmp_path / "psgs.tsv.gz"
    path.write_bytes(gzip.compress(PSGS.encode()))
    corpus = wanted_passages(path, ["3", "1", "absent"], cache=tmp_path / "cache")
    assert [document.id for document in corpus] == ["1", "3"]
    assert [document.title for document in corpus.documents(["3", "1"])] == ["Three", "Aaron"]
    with pytest.raises(DataError, match="'absent' is not there"):
        corpus.documents(["1", "absent"])
    monkeypatch.setattr("rankwright.data.passages.read_texts", None)
    again = wanted_passages(path, {"1", "3", "absent"}, cache=tmp_path / "cache")
    assert again.fingerprint == corpus.fingerprint


def test_a_wanted_passage_twice_is_a_problem(tmp_path: Path):
    path = tmp_path / "psgs.tsv"
    path.write_text(PSGS + "3\tagain\tThree\n2\tnot wanted\tTwo\n")
    with pytest.raises(DataError, match="'3' was given before"):
        wanted_passages(path, ["3"], cache=tmp_path / "cache")
    assert len(wanted_passages(path, ["3"], Reading(lenient=True), cache=tmp_path / "cache")) == 1


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.tsv"
        path.write_text("id\ttext\ttitle\n" + "".join(f"{i}\t{'word ' * 20}\tt\n" for i in range(rows)))
        tracemalloc.start()
        try:
            assert len(wanted_passages(path, ["7", "11"], cache=tmp_path / "cache")) == 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is imported on the way
    small, large = peak(30_000), peak(120_000)
    assert large < 1.2 * small
