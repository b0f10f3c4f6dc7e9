"""Sources merged part by part on disk are what they are when merged at once in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rankwright import storage
from rankwright.data import (
    Judged,
    Keep,
    Mixture,
    Ranking,
    Reading,
    Scored,
    Supervision,
    Triples,
    _tables,
    merging,
    supervise,
    supervision,
)
from rankwright.data.dataset import Dataset
from rankwright.errors import DataError, RecipeError

QUERIES, DOCS = 40, 60
TINY = 200  # bytes in a part
GRADES = ((), (2.0,), (3.0, 0.0))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets that share ids, and files of every kind over the first, rows shuffled."""
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    draw = random.Random(7)
    for name, what in (("real", "text"), ("made", "written")):
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        corpus = [f'{{"_id": "d{i}", "text": "{what} {i}"}}\n' for i in range(DOCS)]
        (folder / "corpus.jsonl").write_text("".join(corpus))
        (folder / "queries.jsonl").write_text(
            "".join(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(QUERIES))
        )
        rows = [
            (f"q{q}", f"d{d}", draw.choice([0, 1, 2, 3])) for q in range(QUERIES) for d in draw.sample(range(DOCS), 7)
        ]
        draw.shuffle(rows)
        lines = [f"{q}\t{d}\t{grade}\n" for q, d, grade in rows]
        (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    pairs = [(q, d) for q in range(QUERIES) for d in draw.sample(range(DOCS), 5)]
    draw.shuffle(pairs)
    (tmp_path / "scores.tsv").write_text("".join(f"q{q}\td{d}\t{draw.random():.3f}\n" for q, d in pairs))
    ranked = [(q, d, rank) for q in range(QUERIES) for rank, d in enumerate(draw.sample(range(DOCS), 8), start=1)]
    (tmp_path / "run.trec").write_text("".join(f"q{q} Q0 d{d} {rank} {9 - rank} tag\n" for q, d, rank in ranked))
    (tmp_path / "triples.tsv").write_text("".join(f"q{q}\td{d}\td{(d + 1) % DOCS}\n" for q, d in pairs[::9]))
    return tmp_path


def _sources(place: Path) -> dict[str, list]:
    real, made = str(place / "real"), str(place / "made")
    return {
        "judged": [Judged(real)],
        "shared ids": [Judged(real), Judged(made, namespace="made", relabel={1: 3}, keep=Keep(random=2))],
        "drawn": [
            Ranking(real, run=str(place / "run.trec"), depth=6, grade=0, keep=Keep(random=3)),
            Judged(real, min_grade=1, keep=Keep(top=2)),
            Judged(made, namespace="made", query_namespace="made", queries=0.5),
        ],
        "scored": [
            Scored(real, scores=str(place / "scores.tsv"), relevant_from=0.5, keep=Keep(first=3)),
            Triples(real, triples=str(place / "triples.tsv")),
        ],
        "ranked": [Ranking(real, run=str(place / "run.trec")), Judged(real, min_grade=2)],
    }


def _both(sources: list, part: int = TINY) -> tuple[Supervision, Supervision]:
    mixture = Mixture.open(sources, Dataset.open)
    return supervise(mixture, sources), supervise(mixture, sources, part=part)


@pytest.mark.parametrize("kind", ["judged", "shared ids", "drawn", "scored", "ranked"])
@pytest.mark.parametrize("held", [1, 50, 1 << 21])
def test_on_disk_it_is_what_it_is_in_memory(place: Path, monkeypatch, kind: str, held: int) -> None:
    monkeypatch.setattr(_tables, "_HELD", held)
    monkeypatch.setattr(merging, "_AT_ONCE", 13)
    memory, disk = _both(_sources(place)[kind])
    at_once = memory.unsure, memory.judged.to_dict(), [memory.having(grades) for grades in GRADES]
    monkeypatch.setattr(supervision, "_AT_ONCE", 13)
    assert isinstance(disk.table.columns.base, np.memmap) or isinstance(disk.table.columns, np.memmap)
    assert disk.fingerprint == memory.fingerprint
    assert (disk.dropped, disk.outside, disk.remarks) == (memory.dropped, memory.outside, memory.remarks)
    assert list(disk.queries) == list(memory.queries)
    assert np.array_equal(disk.unsure, at_once[0])
    assert disk.judged.to_dict() == at_once[1]
    for grades, expected in zip(GRADES, at_once[2]):
        assert np.array_equal(disk.having(grades), expected)
    for row in range(len(memory)):
        for epoch in range(2):
            assert np.array_equal(disk.rows(row, epoch=epoch), memory.rows(row, epoch=epoch))
        assert disk.candidates(row) == memory.candidates(row)


def test_it_is_kept_until_a_file_changes(place: Path, monkeypatch) -> None:
    sources = [Judged(str(place / "real"))]
    _, first = _both(sources)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "_Merge", None)  # nothing is merged again
        assert _both(sources)[1].fingerprint == first.fingerprint
    path = place / "real" / "qrels" / "train.tsv"
    path.write_text(
        path.read_text() + "q0\td0\t3\n" if "q0\td0\t" not in path.read_text() else path.read_text()[:-4] + "0\n"
    )
    memory, again = _both(sources)
    assert again.fingerprint == memory.fingerprint != first.fingerprint


def test_problems_are_counted_again_when_what_they_made_is_used_again(place: Path) -> None:
    path = place / "real" / "qrels" / "train.tsv"
    path.write_text(path.read_text() + "q1\td1\tmuch\n")
    sources = [Judged(str(place / "real"))]
    mixture = Mixture.open(sources, Dataset.open)
    with pytest.raises(DataError, match=r"train\.tsv:282: .*much"):
        supervise(mixture, sources, part=TINY)
    for _ in range(2):
        reading = Reading(lenient=True)
        supervise(mixture, sources, reading=reading, part=TINY)
        assert dict(reading.counts) == {"not a number": 1}


def test_a_pair_named_twice_is_found_in_its_part(place: Path) -> None:
    path = place / "real" / "qrels" / "train.tsv"
    row = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DataError, match=r":282: .*line 2 already"):
        _both([Judged(str(place / "real"))])


def test_nothing_is_left_when_it_fails(place: Path) -> None:
    """Neither an artefact nor scratch: the cache holds what it held before."""
    path = place / "real" / "qrels" / "train.tsv"
    path.write_text(path.read_text().replace("\t1\n", "\t0\n").replace("\t2\n", "\t0\n").replace("\t3\n", "\t0\n"))
    sources = [Judged(str(place / "real"))]
    with pytest.raises(RecipeError, match="40 queries have none"):
        supervise(Mixture.open(sources, Dataset.open), sources, part=TINY)
    names = [Judged(str(place / "real"), queries=str(place / "ids"))]
    (place / "ids").write_text("nobody\n")
    with pytest.raises(RecipeError, match="names none of its 40 queries"):
        supervise(Mixture.open(names, Dataset.open), names, part=TINY)
    left = [path.name for path in (place / "cache" / merging.KIND).iterdir()]
    assert all(storage.read_manifest(place / "cache" / merging.KIND / name) for name in left)


_PEAK = """
import resource, sys
from rankwright.data import Dataset, Mixture, Scored, supervise
sources = [Scored(sys.argv[1], scores=sys.argv[2])]
mixture = Mixture.open(sources, Dataset.open)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
supervise(mixture, sources, part=4 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_rows(place: Path) -> None:
    """Four times the rows over the same queries and documents take the memory of one times the rows."""
    folder, queries, docs, peaks = place / "real", 2000, 4000, []
    (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text {i}"}}\n' for i in range(docs)))
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(queries)))
    for each in (300, 1200):
        path = place / f"scores{each}.tsv"
        path.write_text("".join(f"q{q}\td{(q * 7 + d) % docs}\t{d}\n" for q in range(queries) for d in range(each)))
        run = [sys.executable, "-c", _PEAK, str(folder), str(path)]
        peaks.append(int(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.2 * peaks[0]
