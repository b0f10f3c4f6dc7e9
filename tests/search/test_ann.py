"""Approximate indexes against exact search: order, recall, reopening, damage."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rankwright import assemble, storage
from rankwright.cli import main
from rankwright.errors import ArtefactError, NonFiniteError, RecipeError, UsageError
from rankwright.search import Ann, AnnIndex, Exact, Vectors, recall

KINDS = ["flat", "ivf", "hnsw", "pq"]
NAMES = [f"q{i}" for i in range(20)]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2000, 32)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Vectors([f"d{i}" for i in rng.permutation(2000)], [values[:700], values[700:]])


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((20, 32)).astype(np.float32)


@pytest.fixture(autouse=True)
def faiss():
    return pytest.importorskip("faiss")


def test_flat_has_the_order_and_the_scores_of_exact_search(tmp_path, vectors, queries):
    index = Ann("flat").build(tmp_path / "i", vectors)
    expected = Exact(vectors).search(queries, NAMES, k=50)
    found = index.search(queries, NAMES, k=50)
    assert list(found.to_dict()["q3"]) == list(expected.to_dict()["q3"])
    assert found.to_dict() == expected.to_dict()


def test_ties_follow_the_ids(tmp_path):
    same = Vectors(["b", "é", "a"], [np.ones((3, 4), np.float32)])
    run = Ann("flat").build(tmp_path / "i", same).search(np.ones((1, 4), np.float32), ["q"], k=2)
    assert list(run.to_dict()["q"]) == ["é", "b"]


def test_every_cell_probed_is_exact(tmp_path, vectors, queries):
    index = Ann("ivf", nlist=30, nprobe=30).build(tmp_path / "i", vectors)
    assert index.search(queries, NAMES, k=10).to_dict() == Exact(vectors).search(queries, NAMES, k=10).to_dict()


@pytest.mark.parametrize(
    ("kind", "least"), [("flat", 1), ("ivf", 0.9), ("hnsw", 0.95), pytest.param("pq", 0.5, marks=pytest.mark.soak)]
)
def test_the_report_shows_what_effort_buys(tmp_path, vectors, queries, kind, least):
    table = recall(Ann(kind).build(tmp_path / "i", vectors), Exact(vectors), queries, k=10)
    found = [row["recall@10"] for row in table]
    assert table[-1]["setting"] == "exact"
    assert found[-1] == 1
    assert found[-2] >= least
    assert found[:-1] == sorted(found[:-1]) or kind == "pq"
    assert kind == "flat" or found[0] < found[-2]
    assert all(row["queries/s"] > 0 for row in table)


@pytest.mark.parametrize("kind", KINDS)
def test_reopened_it_answers_the_same(tmp_path, vectors, queries, kind):
    made = Ann(kind, pq_bits=4).build(tmp_path / "i", vectors)
    opened = AnnIndex.open(tmp_path / "i")
    run = made.search(queries, NAMES, k=7)
    assert opened.search(queries, NAMES, k=7).to_dict() == run.to_dict()
    assert opened.fingerprint == made.fingerprint
    scored = opened.score(queries, NAMES, pairs=run).to_dict()
    assert scored == run.to_dict()  # the same bits
    assert [dict(opened.search(queries[i : i + 1], ["q"], k=7).to_dict()["q"]) for i in range(3)] == [
        run.to_dict()[f"q{i}"] for i in range(3)
    ]


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
def test_an_index_built_twice_has_the_same_bytes(tmp_path, vectors, kind):
    for name in ("i", "j"):
        Ann(kind, pq_bits=4).build(tmp_path / name, vectors)
    for path in (tmp_path / "i").iterdir():
        assert path.read_bytes() == (tmp_path / "j" / path.name).read_bytes()


def test_effort_is_no_reason_to_build_again(tmp_path, vectors, monkeypatch):
    first = Ann("hnsw", ef_search=8).build(tmp_path / "i", vectors)
    monkeypatch.setattr(Ann, "_empty", None)
    again = Ann("hnsw", ef_search=64).build(tmp_path / "i", vectors)
    assert (first.spec.ef_search, again.spec.ef_search) == (8, 64)
    assert first.fingerprint != again.fingerprint


def test_the_blas_threshold_is_set_and_restored(tmp_path, vectors, queries, faiss):
    index, before = Ann("flat").build(tmp_path / "i", vectors), faiss.cvar.distance_compute_blas_threshold
    seen = []

    class Watched:
        d = 32

        def search(self, part, k, params):
            seen.append(faiss.cvar.distance_compute_blas_threshold)
            raise KeyboardInterrupt

    index._index = Watched()
    with pytest.raises(KeyboardInterrupt):
        index.search(queries, NAMES, k=1)
    assert seen == [128]
    assert faiss.cvar.distance_compute_blas_threshold == before


def test_without_faiss_the_extra_is_named(tmp_path, vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"faiss-cpu") as caught:
        Ann().build(tmp_path / "i", vectors)
    assert "rankwright[ann]" in str(caught.value)


def test_damage_is_noticed(tmp_path, vectors):
    Ann("ivf", nlist=4).build(tmp_path / "i", vectors)
    path = tmp_path / "i" / "index.npy"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtefactError, match="damaged"):
        AnnIndex.open(tmp_path / "i")


def test_the_commands_index_report_and_search(tmp_path, vectors, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vectors.quantised(tmp_path / "v")
    main(["index", "v", "--ann", "ivf", "--out", "i", "--report"])
    assert "nprobe 16" in capsys.readouterr().out
    table = storage.read_json(tmp_path / "i.recall.json")
    assert table[-1]["setting"] == "exact"
    again = assemble.recall_report(tmp_path / "i", tmp_path / "v", seed=0)
    assert [row["recall@10"] for row in table] == [row["recall@10"] for row in again]
    with pytest.raises(SystemExit) as caught:
        main(["index", "v", "--int8", "--report", "--out", "k"])
    assert caught.value.code == 2


@pytest.mark.parametrize("wrong", [{"kind": "lsh"}, {"nlist": 0}, {"ef_search": 0}, {"hnsw_m": 1}, {"pq_bits": 16}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(RecipeError):
        Ann(**wrong)


def test_what_does_not_fit_is_refused(tmp_path, vectors):
    few = Vectors(["a", "b"], [np.eye(2, dtype=np.float32)])
    with pytest.raises(UsageError, match="2 vectors are too few"):
        Ann("pq").build(tmp_path / "i", few)
    with pytest.raises(UsageError, match="pq_m 5 does not divide 32"):
        Ann("pq", pq_m=5).build(tmp_path / "i", vectors)
    index = Ann("flat").build(tmp_path / "i", few)
    with pytest.raises(NonFiniteError, match="'q'"):
        index.search(np.full((1, 2), np.nan, np.float32), ["q"], k=1)
    assert len(index.search(np.ones((1, 2), np.float32), ["q"], k=9)) == 2


def test_recall_over_no_query_is_refused(tmp_path, vectors, queries):
    with pytest.raises(UsageError, match="at least one query"):
        recall(Ann(kind="flat").build(tmp_path / "index", vectors), Exact(vectors), queries[:0])
