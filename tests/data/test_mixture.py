"""Several data sets in one stage: ids kept apart or joined, texts where they were, draws and ranks as with one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.data import (
    Collection,
    Dataset,
    Judged,
    Keep,
    Loader,
    Mixture,
    OneRelevant,
    Random,
    Shuffled,
    Supervision,
    TokenStore,
    TokenStores,
    supervise,
)
from rankwright.errors import DataError, RecipeError
from rankwright.types import Qrels, Texts

REAL = {"d1": "one", "d2": "two", "d3": "three", "same": "shared text"}
WRITTEN = {"d1": "another one", "s1": "made up", "s2": "made up too", "same": "shared text"}


def _folder(place: Path, docs: dict[str, str], queries: dict[str, str], qrels: str) -> str:
    (place / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in docs.items()]
    (place / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    (place / "queries.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in queries.items()))
    (place / "qrels/train.tsv").write_text(qrels)
    return str(place)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    queries = {"q1": "first", "q2": "second"}
    real = _folder(tmp_path / "real", REAL, queries, "q1\td1\t1\nq1\td2\t0\nq2\td3\t1\n")
    written = _folder(tmp_path / "written", WRITTEN, queries, "q1\td1\t0\nq1\ts1\t2\nq2\ts2\t3\nq2\tsame\t0\n")
    return real, written


def _mixed(*sources: Judged) -> tuple[Mixture, Supervision]:
    opened: dict[str, Dataset] = {}
    mixture = Mixture.open(sources, lambda name: opened.setdefault(name, Dataset.open(name)))
    return mixture, supervise(mixture, sources)


def test_a_namespace_keeps_equal_ids_apart(names: tuple[str, str]) -> None:
    mixture, found = _mixed(Judged(names[0], grade=3, min_grade=1), Judged(names[1], namespace="syn"))
    assert found.table.to_dict() == {
        "q1": {"d1": 3, "syn:d1": 0, "syn:s1": 2}, "q2": {"d3": 3, "syn:s2": 3, "syn:same": 0},
    }  # fmt: skip
    rows = mixture.corpus.rows(found.docs)
    texts = [mixture.corpus[row] for row in rows.tolist()]
    assert [text.id for text in texts] == list(found.docs)
    assert [text.text for text in texts[:3]] == ["one", "three", "another one"]
    assert len(mixture.queries) == 2  # equal queries stand there once
    assert (mixture.corpus.rows(["syn:d3", "syn", "", "x"]) == -1).all()


def test_without_a_namespace_one_id_must_be_one_text(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"'d1' stands for two texts.*'one' and 'another one'") as caught:
        _mixed(Judged(names[0]), Judged(names[1]))
    assert "namespace" in str(caught.value.fix)
    second = str(Path(names[0]).parent / "second.txt")
    Path(second).write_text("q2\n")
    _, found = _mixed(Judged(names[0], queries=second), Judged(names[1], queries=second))  # no id in use clashes
    assert found.table.to_dict() == {"q2": {"d3": 1, "s2": 3, "same": 0}}


def test_one_text_in_two_corpora_is_one_document_and_the_later_source_wins(names: tuple[str, str]) -> None:
    extra = Path(names[0]).parent / "more.tsv"
    extra.write_text("q2\tsame\t2\n")
    second = str(extra)
    more, written = Judged(names[0], qrels=second), Judged(names[1], max_grade=0, queries=second)
    real = Judged(names[0], queries=second)
    assert _mixed(more, written, real)[1].table.to_dict() == {"q2": {"d3": 1, "same": 0}}
    assert _mixed(written, more, real)[1].table.to_dict() == {"q2": {"d3": 1, "same": 2}}


def test_queries_of_their_own(names: tuple[str, str], tmp_path: Path) -> None:
    other = _folder(tmp_path / "other", {"x": "ex"}, {"q1": "not the first"}, "q1\tx\t1\n")
    with pytest.raises(DataError, match="'q1' stands for two texts"):
        _mixed(Judged(names[0]), Judged(other))
    mixture, found = _mixed(Judged(names[0]), Judged(other, query_namespace="o"))
    assert list(found.queries) == ["o:q1", "q1", "q2"]
    assert mixture.queries[int(mixture.queries.rows(["o:q1"])[0])].text == "not the first"


def test_one_data_set_is_as_it_is_alone(names: tuple[str, str]) -> None:
    mixture, _ = _mixed(Judged(names[0], grade=0), Judged(names[0]))
    alone = Dataset.open(names[0])
    assert len(mixture.parts) == 1
    assert mixture.corpus.fingerprint == alone.corpus.fingerprint
    assert mixture.corpus.fingerprint != Collection([("n", alone.corpus)]).fingerprint
    with pytest.raises(RecipeError, match="no source"):
        Mixture.open([], Dataset.open)


def test_what_a_mixture_says_about_its_first_data_set(names: tuple[str, str]) -> None:
    mixture, found = _mixed(Judged(names[0], namespace="real"), Judged(names[1], grade=1, namespace="syn"))
    assert mixture.of_first(found.table).to_dict() == {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 1}}
    mixture, found = _mixed(Judged(names[1], namespace="syn"), Judged(names[0]))
    assert mixture.of_first(found.table).to_dict() == {"q1": {"d1": 0, "s1": 2}, "q2": {"s2": 3, "same": 0}}


# --- batches ---------------------------------------------------------------------------------------------------------


def _tokenize(texts: list[str]) -> Texts:
    rows = [[len(text)] * (len(text) % 3) + [int(text)] for text in texts]
    offsets = np.cumsum([0, *map(len, rows)])
    return Texts(torch.tensor([v for row in rows for v in row]), torch.tensor(offsets))


def _store(folder: Path, numbers: range) -> TokenStore:
    return TokenStore.build(folder, [str(i) for i in numbers], _tokenize, key=folder.name, vocabulary=2000)


def test_stores_side_by_side_are_one_store(tmp_path: Path) -> None:
    parts = [range(40), range(40, 41), range(41, 90)]
    whole, beside = _store(tmp_path / "all", range(90)), TokenStores([_store(tmp_path / str(p), p) for p in parts])
    assert len(beside) == len(whole)
    assert (beside.lengths == whole.lengths).all()
    for rows in (np.random.default_rng(0).integers(0, 90, 200), np.array([40]), np.zeros(0, np.int64)):
        one, other = whole.take(rows), beside.take(rows)
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.offsets, other.offsets)


def _mixed_stage() -> Supervision:
    """Real documents d0 .., drawn negatives n0 .., written ones syn:0 .. for thirty queries."""
    from rankwright.data.supervision import Supply

    queries = [f"q{i}" for i in range(30)]
    real = Qrels.from_dict({q: {f"d{i}": 3.0} for i, q in enumerate(queries)})
    others = Qrels.from_dict({q: {f"n{(7 * i + j) % 40}": 1.0 for j in range(9)} for i, q in enumerate(queries)})
    made = Qrels.from_dict({q: {f"syn:{4 * i + j}": float(j) for j in range(4)} for i, q in enumerate(queries[:20])})
    return Supervision.of([Supply(others, draw=2, kept=Keep(random=2).fixed(others)), Supply(made), Supply(real)])


@pytest.mark.parametrize("group", [Random(7), OneRelevant(2)])
def test_a_mixed_stage_is_the_same_for_any_number_of_ranks_and_workers(tmp_path: Path, group) -> None:
    found = _mixed_stage()
    store = TokenStores([_store(tmp_path / "a", range(60)), _store(tmp_path / "b", range(60, 200))])

    def loader(rank: int = 0, world: int = 1, workers: int = 0) -> Loader:
        rows = np.arange(len(found.docs))
        return Loader(
            found, group=group, batches=Shuffled(6), query_tokens=store, doc_tokens=store,
            query_rows=np.arange(len(found)), doc_rows=rows, seed=4, rank=rank, world=world, workers=workers,
        )  # fmt: skip

    whole = [loader().batch(step) for step in range(12)]
    drawn = set()
    for batch in whole:
        known = found.table.to_dict()
        triples = {(i, j) for i, j in zip(batch.known_queries.tolist(), batch.known_docs.tolist())}
        assert triples == {
            (i, j) for i, q in enumerate(batch.query_ids) for j, d in enumerate(batch.doc_ids) if d in known[q]
        }  # also what this epoch did not draw
        for q, row, mask in zip(batch.query_ids, batch.lists.tolist(), batch.mask.tolist()):
            drawn |= {(q, batch.doc_ids[c]) for c, there in zip(row, mask) if there and batch.doc_ids[c][0] == "n"}
            assert sum(batch.doc_ids[c][0] == "n" for c, there in zip(row, mask) if there) <= 2
    if isinstance(group, Random):
        assert len(drawn) > 2 * 30  # another epoch, other negatives
    for workers in (1, 3):
        for one, other in zip(loader(workers=workers).iterate(0, 12), whole):
            assert one.doc_ids == other.doc_ids
            assert torch.equal(one.targets, other.targets)
            assert torch.equal(one.docs.values, other.docs.values)
    for world in (2, 4):
        ranks = [loader(rank, world) for rank in range(world)]
        for step, batch in enumerate(whole):
            parts = [rank.batch(step) for rank in ranks]
            assert sum((part.query_ids for part in parts), ()) == batch.query_ids
            assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
            assert set(parts[0].doc_ids) == set(batch.doc_ids)


def test_a_group_that_needs_a_relevant_document_is_told_before_training(tmp_path: Path) -> None:
    found = Supervision.of([_one(Keep(random=1))])
    store = _store(tmp_path / "t", range(9))
    rows = np.arange(len(found.docs))
    arguments = {"batches": Shuffled(1), "query_tokens": store, "doc_tokens": store, "query_rows": rows[:1]}
    Loader(found, group=Random(2), doc_rows=rows, seed=0, **arguments)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"OneRelevant needs a document.*e\.g\. 'q'"):
        Loader(found, group=OneRelevant(1), doc_rows=rows, seed=0, **arguments)  # type: ignore[arg-type]


def _one(keep: Keep):
    from rankwright.data.supervision import Supply

    table = Qrels.from_dict({"q": {"a": 1.0, "b": 0.0, "c": 0.0}})
    return Supply(table, keep.fixed(table), keep.random)
