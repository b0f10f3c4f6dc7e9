"""Opening data sets: every layout, the cache, missing and ambiguous files, ids that do not fit, the hub."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from rankwright.data import Dataset, Reading, file_hash
from rankwright.data import dataset as dataset_module
from rankwright.errors import DataError, RemoteError
from rankwright.types import Document

DOCS = [
    Document("d1", "One", "first text"),
    Document("d2", "", "second"),
    Document("dü 3".replace(" ", "_"), "", "äöü"),
]
QUERIES = [("q1", "what is first"), ("q2", "what is second"), ("q3", "unjudged")]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td1\t0\n"


def _jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zst":
        import zstandard

        path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def _folder(root: Path, *, packed: str = "", qrels: str = QRELS, qrels_name: str = "train.tsv") -> Path:
    _write(root / f"corpus.jsonl{packed}", _jsonl([{"_id": d.id, "title": d.title, "text": d.text} for d in DOCS]))
    _write(root / f"queries.jsonl{packed}", _jsonl([{"_id": key, "text": text} for key, text in QUERIES]))
    _write(root / "qrels" / qrels_name, qrels)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_beir_folder(packed: str, tmp_path: Path, cache: Path) -> None:
    dataset = Dataset.open(_folder(tmp_path / "set", packed=packed, qrels_name=f"train.tsv{packed}"))
    assert list(dataset.corpus) == DOCS
    assert list(dataset.queries) == [Document(key, "", text) for key, text in QUERIES]
    assert dataset.splits == ["train"]
    assert dataset.qrels("train").to_dict() == {"q1": {"d1": 1.0}, "q2": {"d2": 2.0, "d1": 0.0}}


def test_tab_separated_files_and_trec_qrels(tmp_path: Path, cache: Path) -> None:
    _write(tmp_path / "set/collection.tsv.gz", "1\tfirst\n2\tsecond\n")
    _write(tmp_path / "set/queries.tsv", "7\twhat\n")
    _write(tmp_path / "set/qrels/dev.txt", "7 0 2 1\n")
    _write(tmp_path / "set/qrels/test.qrels", "7 0 1 3\n")
    _write(tmp_path / "set/qrels/README.md", "not a split")
    dataset = Dataset.open(tmp_path / "set")
    assert list(dataset.corpus) == [Document("1", "", "first"), Document("2", "", "second")]
    assert dataset.splits == ["dev", "test"]
    assert dataset.qrels("test").to_dict() == {"7": {"1": 3.0}}


def test_parquet(tmp_path: Path, cache: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "set").mkdir()
    columns = {"_id": [d.id for d in DOCS], "title": [d.title for d in DOCS], "text": [d.text for d in DOCS]}
    pq.write_table(pa.table(columns), tmp_path / "set/corpus.parquet")
    pq.write_table(pa.table({"_id": ["q1"], "text": ["what"]}), tmp_path / "set/queries.parquet")
    assert list(Dataset.open(tmp_path / "set").corpus) == DOCS
    assert Dataset.open(tmp_path / "set").splits == []


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_file_is_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path / "set")
    first = Dataset.open(folder)
    monkeypatch.setattr(dataset_module, "read_corpus", lambda *_: pytest.fail("read again"))
    assert Dataset.open(folder).fingerprint == first.fingerprint
    os.utime(folder / "corpus.jsonl", ns=(1, 1))  # touched, not changed
    assert list(Dataset.open(folder).corpus) == DOCS
    elsewhere = _folder(tmp_path / "copy")
    assert Dataset.open(elsewhere).fingerprint == first.fingerprint


def test_a_changed_file_is_read_again(tmp_path: Path, cache: Path) -> None:
    folder = _folder(tmp_path / "set")
    first = Dataset.open(folder)
    text = (folder / "corpus.jsonl").read_text().replace("second", "Second")
    (folder / "corpus.jsonl").write_text(text)
    second = Dataset.open(folder)
    assert second.corpus[1].text == "Second"
    assert first.corpus[1].text == "second"
    assert first.fingerprint != second.fingerprint


def test_damage_in_the_cache_is_repaired(tmp_path: Path, cache: Path) -> None:
    folder = _folder(tmp_path / "set")
    path = Dataset.open(folder).corpus.folder / "texts.bin"
    path.write_bytes(path.read_bytes()[::-1])
    assert list(Dataset.open(folder).corpus) == DOCS


def test_another_cache_folder(tmp_path: Path, cache: Path) -> None:
    Dataset.open(_folder(tmp_path / "set"), cache=tmp_path / "other")
    assert not cache.exists()
    assert (tmp_path / "other" / "corpus").is_dir()


def test_the_fingerprint_covers_the_judgements(tmp_path: Path, cache: Path) -> None:
    one = Dataset.open(_folder(tmp_path / "one")).fingerprint
    other = Dataset.open(_folder(tmp_path / "two", qrels=QRELS.replace("\t2\n", "\t1\n"))).fingerprint
    assert one != other


def test_file_hashes_follow_the_content(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = file_hash(path)
    assert file_hash(path) == first
    state = path.stat()
    path.write_text("two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file_hash(path) == first  # same path, size and time: not read again
    os.utime(path, ns=(5, 5))
    assert file_hash(path) != first
    for note in (cache / "hashes").glob("*.json"):
        note.write_text("{broken")
    path.write_text("one")
    assert file_hash(path) == first
    with pytest.raises(DataError, match="cannot be read"):
        file_hash(tmp_path / "absent")


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_a_missing_split_names_those_there_are(tmp_path: Path, cache: Path) -> None:
    dataset = Dataset.open(_folder(tmp_path / "set"))
    with pytest.raises(DataError, match="no split 'trian'; splits: train") as caught:
        dataset.qrels("trian")
    assert caught.value.fix == "did you mean 'train'?"


def test_unknown_ids_are_errors(tmp_path: Path, cache: Path) -> None:
    dataset = Dataset.open(_folder(tmp_path / "a", qrels=QRELS + "q1\td9\t1\nq1\td8\t1\n"))
    with pytest.raises(
        DataError, match=r"train.tsv: the judged document 'd9' is not among the corpus \(nor 1 others\)"
    ):
        dataset.qrels("train")
    dataset = Dataset.open(_folder(tmp_path / "b", qrels=QRELS + "q9\td1\t1\n"))
    with pytest.raises(DataError, match=r"train.tsv: the judged query 'q9' is not among the queries"):
        dataset.qrels("train")


def test_unknown_ids_are_counted_when_lenient(tmp_path: Path, cache: Path) -> None:
    rows = "q9\td1\t1\nq1\td9\t1\nq1\td8\t1\nq2\td9\t1\n"
    reading = Reading(lenient=True)
    dataset = Dataset.open(_folder(tmp_path / "set", qrels=QRELS + rows), reading=reading)
    expected = {"q1": {"d1": 1.0, "d9": 1.0, "d8": 1.0}, "q2": {"d2": 2.0, "d1": 0.0, "d9": 1.0}}
    assert dataset.qrels("train").to_dict() == expected
    assert reading.counts == {"missing document": 2, "missing query": 1}
    with pytest.raises(DataError):
        dataset.qrels("train", reading=Reading())


def test_problems_are_counted_again_from_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = _folder(tmp_path / "set")
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d1", "title": "", "text": "again"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl"):
        Dataset.open(folder)
    for _ in range(2):
        reading = Reading(lenient=True)
        assert list(Dataset.open(folder, reading=reading).corpus) == DOCS
        assert reading.counts == {"duplicate id": 1}
        assert len(reading.examples["duplicate id"]) == 1
    with pytest.raises(DataError, match=r"corpus\.jsonl"):
        Dataset.open(folder)


def test_missing_and_ambiguous_files(tmp_path: Path, cache: Path) -> None:
    folder = _folder(tmp_path / "set")
    (folder / "corpus.jsonl").rename(folder / "docs.jsonl")
    with pytest.raises(DataError, match=r"no corpus file\n.*corpus.jsonl, corpus.tsv, corpus.parquet, collection.tsv"):
        Dataset.open(folder)
    for name in ("corpus.tsv", "corpus.jsonl.gz"):
        _write(folder / name, "d1\ttext\n")
    with pytest.raises(DataError, match=r"corpus.jsonl.gz and corpus.tsv are both there"):
        Dataset.open(folder)
    folder = _folder(tmp_path / "splits")
    _write(folder / "qrels/train.tsv.gz", QRELS)
    with pytest.raises(DataError, match=r"train.tsv and train.tsv.gz are both there"):
        Dataset.open(folder)


def test_no_such_folder(tmp_path: Path, cache: Path) -> None:
    folder = _folder(tmp_path / "scifact")
    with pytest.raises(DataError, match="no such folder") as caught:
        Dataset.open(tmp_path / "scifcat")
    assert caught.value.fix == f"did you mean '{folder}'?"
    with pytest.raises(DataError, match="is a file"):
        Dataset.open(folder / "corpus.jsonl")


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_downloaded(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder, asked = _folder(tmp_path / "snapshot"), []

    def download(repo: str, **arguments: object) -> str:
        asked.append((repo, arguments["repo_type"], arguments["revision"]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert list(Dataset.open("org/name@v1.0").corpus) == DOCS
    assert Dataset.open("org/name").name == "org/name"
    assert asked == [("org/name", "dataset", "v1.0"), ("org/name", "dataset", None)]


def test_a_hub_that_does_not_answer(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def download(repo: str, **_: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection\nmore words")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoteError, match="org/name: no such folder, and no data set from the hub: no connection\n"):
        Dataset.open("org/name")
