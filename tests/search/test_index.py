"""Document ids, the order of hits, and searches that restart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.errors import ArtefactError, DataError, NonFiniteError, Stopped, UsageError
from rankwright.search import Exact, Vectors, open_ranking, search_into
from rankwright.search.index import DocIds
from rankwright.types import Qrels, Run

names = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=4)


def vectors_of(docs: int, dim: int = 4, seed: int = 0) -> Vectors:
    values = np.random.default_rng(seed).integers(-2, 3, (docs, dim)).astype(np.float32)
    return Vectors([f"d{i}" for i in range(docs)], [values])


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*")}


@settings(max_examples=25, deadline=None)
@given(st.lists(names, unique=True, min_size=1, max_size=12), st.lists(names, max_size=4))
def test_ids_round_trip_and_know_their_bytewise_order(tmp_path_factory, ids, others):
    folder = tmp_path_factory.mktemp("ids") / "x"
    with storage.publish(folder, "test") as draft:
        DocIds.of(ids).write(draft)
    for made in (DocIds.of(ids), DocIds.open(folder)):
        assert list(made) == ids
        assert made[-1] == ids[-1]
        assert made[1:] == ids[1:]
        by_bytes = sorted(range(len(ids)), key=lambda i: ids[i].encode("utf-8", "surrogatepass"))
        assert [int(made.ranks[i]) for i in by_bytes] == list(range(len(ids)))
        wanted = ids[::-1] + others
        assert made.rows(wanted).tolist() == [ids.index(x) if x in ids else -1 for x in wanted]
        assert made.digest() == DocIds.of(ids).digest()


def test_ids_must_be_unique_and_not_empty():
    with pytest.raises(DataError, match="'b' occurs twice \\(rows 1 and 3\\)"):
        DocIds.of(["a", "b", "c", "b"])
    with pytest.raises(DataError, match="row 1 has an empty"):
        DocIds.of(["a", ""])
    assert DocIds.of(["ab", "c"]).digest() != DocIds.of(["a", "bc"]).digest()


@settings(max_examples=50, deadline=None)
@given(st.lists(names, max_size=12), st.integers(1, 5))
def test_many_ids_are_packed_in_parts(ids, at_once):
    def packed():
        try:
            made = DocIds.of(ids)
        except DataError as error:
            return str(error)
        return made.digest(), list(made), made.ranks.tolist()

    whole = packed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankwright.search.index._IDS_AT_ONCE", at_once)
        assert packed() == whole
    assert isinstance(whole, str) == (len(set(ids)) < len(ids))


def test_ids_that_are_not_ids_are_refused(tmp_path):
    with storage.publish(tmp_path / "x", "test") as draft:
        DocIds.of(["a", "b"]).write(draft)
        storage.write_npy(draft.file("ids.offsets.npy"), np.array([0, 5, 2], np.int64))
    with pytest.raises(ArtefactError, match="damaged"):
        DocIds.open(tmp_path / "x")


def test_search_gives_the_order_that_run_ranked_gives():
    vectors = vectors_of(200)
    queries = np.random.default_rng(1).integers(-2, 3, (7, 4)).astype(np.float32)
    run = Exact(vectors).search(queries, [f"q{i}" for i in range(7)], k=40)
    again = run.ranked()
    assert list(run.queries) == [f"q{i}" for i in range(7)]
    assert np.diff(run.offsets).tolist() == [40] * 7
    assert run.columns.tolist() == again.columns.tolist()
    assert run.columns.dtype == np.int32
    assert run.scores.dtype == np.float64


def test_bad_queries_are_refused():
    index, queries = Exact(vectors_of(5)), np.ones((2, 4), np.float32)
    with pytest.raises(UsageError, match="k must be at least 1"):
        index.search(queries, ["a", "b"], k=0)
    with pytest.raises(UsageError, match="2 queries but 1 query ids"):
        index.search(queries, ["a"], k=1)
    with pytest.raises(UsageError, match="'a' occurs twice"):
        index.search(queries, ["a", "a"], k=1)


def test_score_finds_pairs_outside_any_run_and_leaves_out_unknown_ones():
    vectors = vectors_of(50)
    queries = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    known = Qrels.from_dict({"q2": {"d7": 1, "nowhere": 1}, "stranger": {"d1": 1}, "q0": {"d49": 2, "d7": 0}})
    scored = Exact(vectors).score(queries, ["q0", "q1", "q2"], pairs=known).to_dict()
    matrix = queries.astype(np.float64) @ vectors.take(np.arange(50)).astype(np.float64).T
    assert scored == {
        "q2": {"d7": pytest.approx(matrix[2, 7])},
        "stranger": {},
        "q0": {"d49": pytest.approx(matrix[0, 49]), "d7": pytest.approx(matrix[0, 7])},
    }


class Killed(Exception):
    """Stands for a kill: ends the search without any clean-up of ours."""


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_killed_search_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch, finished):
    vectors, ids = vectors_of(60), [f"q{i}" for i in range(10)]
    queries = np.random.default_rng(2).standard_normal((10, 4)).astype(np.float32)
    asked = {"queries": queries, "query_ids": ids, "k": 5, "chunk_queries": 4}
    index = Exact(vectors)
    search_into(tmp_path / "whole", index, **asked)

    done, hits = [], Exact.hits

    def dying(self, queries, *, k, bar):
        if len(done) == finished:
            raise Killed
        done.append(len(queries))
        return hits(self, queries, k=k, bar=bar)

    monkeypatch.setattr(Exact, "hits", dying)
    with pytest.raises(Killed):
        search_into(tmp_path / "cut", index, **asked)
    redone = []

    def counting(self, queries, *, k, bar):
        redone.append(len(queries))
        return hits(self, queries, k=k, bar=bar)

    monkeypatch.setattr(Exact, "hits", counting)
    run = search_into(tmp_path / "cut", index, **asked)
    assert redone == [4, 4, 2][finished:]
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    direct = index.search(queries, ids, k=5)
    assert run.to_dict() == direct.to_dict() == open_ranking(tmp_path / "cut").to_dict()
    redone.clear()
    search_into(tmp_path / "cut", index, **asked)
    assert redone == []  # reused


@pytest.mark.parametrize("change", ["queries", "ids", "k", "index"])
def test_a_ranking_is_not_reused_for_another_question(tmp_path, change):
    queries, ids, k, index = np.ones((2, 4), np.float32), ["a", "b"], 3, Exact(vectors_of(20))
    search_into(tmp_path / "r", index, queries=queries, query_ids=ids, k=k)
    if change == "queries":
        queries = -queries
    elif change == "ids":
        ids = ["a", "c"]
    elif change == "k":
        k = 4
    else:
        index = Exact(vectors_of(20, seed=1))
    run = search_into(tmp_path / "r", index, queries=queries, query_ids=ids, k=k)
    assert run.to_dict() == index.search(queries, ids, k=k).to_dict()


def test_a_search_stops_at_a_signal(monkeypatch):
    from rankwright import signals

    monkeypatch.setattr(signals._requested, "is_set", lambda: True)
    with pytest.raises(Stopped):
        Exact(vectors_of(5)).search(np.ones((1, 4), np.float32), ["a"], k=1)


def test_a_damaged_ranking_is_refused(tmp_path):
    search_into(tmp_path / "r", Exact(vectors_of(9)), queries=np.ones((1, 4), np.float32), query_ids=["a"], k=3)
    path = tmp_path / "r" / "hits-000000.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtefactError, match="damaged"):
        open_ranking(tmp_path / "r")


def test_a_search_without_queries_is_an_empty_run():
    run = Exact(vectors_of(5)).search(np.ones((0, 4), np.float32), [], k=3)
    assert isinstance(run, Run)
    assert len(run) == 0
    assert list(run.queries) == []


def test_queries_that_are_not_finite_are_named():
    queries = np.ones((3, 4), np.float32)
    queries[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="query 'b' \\(row 1\\)"):
        Exact(vectors_of(5)).search(queries, ["a", "b", "c"], k=1)
