"""The corpus artefact: what goes in comes out by row and by id, whatever the ids; damage and duplicates are refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Corpus, Reading
from rankwright.data import corpus as corpus_module
from rankwright.errors import ArtefactError, DataError
from rankwright.types import Document

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_DOCUMENTS = st.lists(st.builds(Document, _TEXT, _TEXT, _TEXT), max_size=30, unique_by=lambda d: d.id)


def _build(documents: list[Document], folder: Path, **arguments: object) -> Corpus:
    return Corpus.build(folder, iter(documents), key="k", **arguments)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(documents=_DOCUMENTS, absent=st.lists(_TEXT, max_size=5))
def test_documents_come_back_by_row_and_by_id(documents: list[Document], absent: list[str]) -> None:
    ids = [d.id for d in documents]
    with tempfile.TemporaryDirectory() as folder:
        corpus = _build(documents, Path(folder) / "corpus")
        assert len(corpus) == len(documents)
        assert list(corpus) == documents
        assert corpus.documents(ids[::-1]) == documents[::-1]
        twice = np.arange(2 * len(ids)) // 2
        assert corpus.take(twice) == [documents[row] for row in twice]
        assert list(corpus.ids) == ids
        assert corpus.rows(ids).tolist() == list(range(len(ids)))
        assert [corpus.row(x) for x in absent] == [ids.index(x) if x in ids else None for x in absent]
        assert all((x in corpus.ids) == (x in ids) for x in absent)


@pytest.mark.parametrize("kinds", [1, 3])
def test_ids_that_share_a_hash_are_told_apart(kinds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "_hash", lambda identifier: len(identifier) % kinds)
    documents = [Document(f"{i:x}", "", str(i)) for i in range(40)]
    corpus = _build(documents, tmp_path / "corpus")
    assert corpus.rows([d.id for d in documents]).tolist() == list(range(40))
    assert corpus.rows(["zz", "z", ""]).tolist() == [-1, -1, -1]
    with pytest.raises(DataError, match="'7' occurs twice, in records 8 and 41"):
        _build([*documents, Document("7", "", "again")], tmp_path / "twice", where="corpus.jsonl")


def test_a_duplicate_id_names_file_and_records_and_leaves_nothing(tmp_path: Path) -> None:
    documents = [Document("a", "", "1"), Document("b", "", "2"), Document("a", "", "3")]
    with pytest.raises(DataError) as caught:
        _build(documents, tmp_path / "corpus", where="corpus.jsonl")
    assert str(caught.value) == "corpus.jsonl: the id 'a' occurs twice, in records 1 and 3\n  fix: remove one of them"
    assert not (tmp_path / "corpus").exists()
    assert not (tmp_path / ".corpus.draft").exists()


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="surrogate"):
        _build([Document("a", "", "\ud800")], tmp_path / "corpus")


def test_rows_count_from_the_end_and_have_bounds(tmp_path: Path) -> None:
    corpus = _build([Document("a", "t", "x"), Document("b", "", "y")], tmp_path / "corpus")
    assert corpus[-1] == corpus[1] == Document("b", "", "y")
    assert corpus[0:2] == list(corpus)
    assert corpus.ids[::-1] == ["b", "a"]
    assert corpus[int(np.int64(0))].title == "t"
    for row in (2, -3):
        with pytest.raises(IndexError):
            corpus[row]
        with pytest.raises(IndexError):
            corpus.id(row)


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    one = [Document("a", "t", "xy"), Document("b", "", "z")]
    others = [
        one[::-1], one[:1], [Document("a", "tx", "y"), one[1]], [Document("a", "", "txy"), one[1]],
        [Document("at", "", "xy"), one[1]], [one[0], Document("b", "", "Z")],
    ]  # fmt: skip
    first = _build(one, tmp_path / "0").fingerprint
    assert _build(one, tmp_path / "again").fingerprint == first == Corpus.open(tmp_path / "0").fingerprint
    made = [_build(documents, tmp_path / f"{i + 1}").fingerprint for i, documents in enumerate(others)]
    assert len({first, *made}) == len(others) + 1


def test_what_reading_counted_is_kept(tmp_path: Path) -> None:
    reading = Reading(lenient=True)

    def documents():
        yield Document("a", "", "x")
        reading.problem("empty text", "document 'b' is empty", where="f:2", fix="remove it")
        yield Document("b", "", "")

    Corpus.build(tmp_path / "corpus", documents(), key="k", reading=reading)
    assert Corpus.open(tmp_path / "corpus").problems == [["empty text", 1, ["f:2: document 'b' is empty"]]]


@pytest.mark.parametrize("name", ["texts.bin", "ids.bin", "ids.offsets.npy", "hashes.npy"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    _build([Document("a", "t", "x")], tmp_path / "corpus")
    (tmp_path / "corpus" / name).unlink()
    with pytest.raises(ArtefactError):
        Corpus.open(tmp_path / "corpus")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    _build([Document("a", "t", "xyz")], tmp_path / "corpus")
    path = tmp_path / "corpus" / "texts.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="do not fit"):
        Corpus.open(tmp_path / "corpus")
