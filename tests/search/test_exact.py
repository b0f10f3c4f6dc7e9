"""Exact search against brute force, whatever the blocks, shards, threads and precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import NonFiniteError, UsageError
from rankwright.search import Exact, Vectors, products, shortlist
from rankwright.search import exact as module
from rankwright.search.products import Products, Rounding


def brute_force(queries, docs, ids, k):
    """Per query: (id, score) of the k best, scores summed exactly, ties by id descending bytewise."""
    ranking = []
    for query in queries.astype(np.float64).tolist():
        scores = [math.fsum(a * b for a, b in zip(query, doc)) for doc in docs.astype(np.float64).tolist()]
        order = sorted(range(len(ids)), key=lambda i: (scores[i], ids[i].encode()), reverse=True)
        ranking.append([(ids[i], scores[i]) for i in order[:k]])
    return ranking


def found(index, queries, k):
    run = index.search(queries, [f"q{i}" for i in range(len(queries))], k=k)
    return [list(zip(docs, scores.tolist())) for _, docs, scores in run]


@st.composite
def cases(draw, kind):
    seed, docs = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    rng, dim, queries = np.random.default_rng(seed), draw(st.sampled_from([1, 3, 8, 33, 70])), draw(st.integers(1, 5))
    if kind == "ties":  # small integers: equal scores are common and exact
        values = rng.integers(-1, 2, (docs + queries, dim))
    else:  # near-ties: float32 sees equal scores where float64 does not
        base = rng.standard_normal((1, dim))
        values = base + rng.standard_normal((docs + queries, dim)) * 10.0 ** draw(st.integers(-8, 1))
    values = values.astype(np.float32)
    ids = [f"{draw(st.sampled_from(['d', 'é', '']))}{i}" for i in rng.permutation(docs)]
    cuts = sorted(draw(st.lists(st.integers(0, docs), max_size=3)))
    return values[docs:], values[:docs], ids, cuts, draw(st.integers(1, docs + 2)), draw(st.integers(1, 70))


def check(case, agree):
    queries, docs, ids, cuts, k, rows = case
    expected = brute_force(queries, docs, ids, k)
    whole = found(Exact(Vectors(ids, [docs])), queries, k)
    cut = found(Exact(Vectors(ids, np.split(docs, cuts)), block_rows=rows), queries, k)
    assert cut == whole  # the same ids and the same bits
    for mine, theirs in zip(whole, expected, strict=True):
        agree(mine, theirs)


@settings(max_examples=150, deadline=None)
@given(cases("ties"))
def test_ties_follow_trec_eval(case):
    def same(mine, theirs):
        assert mine == theirs

    check(case, same)


@settings(max_examples=150, deadline=None)
@given(cases("near"))
def test_near_ties_follow_float64(case):
    def close(mine, theirs):
        assert len(mine) == len(theirs)
        for (_, a), (_, b) in zip(mine, theirs):
            assert a == pytest.approx(b, rel=1e-12, abs=1e-12)
        scores = [score for _, score in theirs]
        gaps = np.abs(np.diff(scores)) if len(scores) > 1 else np.array([np.inf])
        if (gaps > 1e-12 * (1 + abs(scores[0]))).all():
            assert [doc for doc, _ in mine][:-1] == [doc for doc, _ in theirs][:-1]

    check(case, close)


@pytest.fixture(params=["float32", "bfloat16 first"])
def coarse(request, monkeypatch) -> bool:
    """Both ways of scanning, whatever this processor does natively (emulation gives the same bits, slowly)."""
    first = request.param != "float32"
    monkeypatch.setattr(module, "_coarse", lambda device, queries: first)
    return first


def test_the_margin_is_needed(monkeypatch, coarse):
    """Bites: without the margin the candidates are the fast products' top k, which is not the float64 top k."""
    rng = np.random.default_rng(5)
    docs = (rng.standard_normal((1, 128)) + rng.standard_normal((1000, 128)) * (1e-2 if coarse else 1e-6)).astype("f4")
    queries, ids = rng.standard_normal((40, 128)).astype(np.float32), [f"d{i}" for i in range(1000)]
    exact = queries.astype(np.float64) @ docs.astype(np.float64).T  # gaps are far above float64's rounding

    def wrong():
        run = Exact(Vectors(ids, [docs]), block_rows=100).search(queries, [f"q{i}" for i in range(40)], k=50)
        best = np.sort(exact, axis=1)[:, -50:][:, ::-1]
        return sum(not np.allclose(row, scores, rtol=0, atol=1e-12) for row, (_, _, scores) in zip(best, run))

    assert wrong() == 0
    product = Products.of
    none = Rounding(np.zeros(40), 0.0)
    monkeypatch.setattr(Products, "of", lambda self, block, space: (product(self, block, space)[0], none))
    assert wrong() > 0


def test_both_ways_find_the_same_bits(monkeypatch):
    rng = np.random.default_rng(9)
    docs, queries = rng.standard_normal((4000, 96)).astype(np.float32), rng.standard_normal((30, 96)).astype(np.float32)
    docs[2000:] = docs[:2000] + rng.standard_normal((2000, 96)).astype(np.float32) * 1e-3  # near-twins
    ways = []
    for first in (True, False):
        monkeypatch.setattr(module, "_coarse", lambda device, queries, first=first: first)
        ways.append(found(Exact(Vectors([f"d{i}" for i in range(4000)], [docs]), block_rows=500), queries, 40))
    assert ways[0] == ways[1]


def test_too_many_near_ties_end_the_coarse_look(monkeypatch):
    made = []
    create = Products.__init__
    monkeypatch.setattr(Products, "__init__", lambda self, *a, **k: (made.append(self), create(self, *a, **k))[1])
    monkeypatch.setattr(module, "_coarse", lambda device, queries: True)
    rng = np.random.default_rng(10)
    docs = (rng.standard_normal((1, 80)) + rng.standard_normal((3000, 80)) * 1e-5).astype(np.float32)
    queries, ids = rng.standard_normal((3, 80)).astype(np.float32), [f"d{i}" for i in range(3000)]
    mine = found(Exact(Vectors(ids, [docs]), block_rows=100), queries, 10)
    theirs = brute_force(queries, docs, ids, 10)
    assert [[doc for doc, _ in row] for row in mine] == [[doc for doc, _ in row] for row in theirs]
    assert not made[0].coarse


@pytest.mark.parametrize("precision", ["none", "bf16", "tf32"])
@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e12])
def test_true_scores_lie_within_the_rounding(precision, scale, coarse):
    rng = np.random.default_rng(6)
    docs = (rng.standard_normal((600, 96)) * scale).astype(np.float32)
    queries = rng.standard_normal((9, 96)).astype(np.float32)
    exact = queries.astype(np.float64) @ docs.astype(np.float64).T
    products = Products(queries, float(np.linalg.norm(docs.astype("f8"), axis=1).max()), "cpu", coarse=coarse)
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = precision
        scores, rounding = products.of(docs, products.space(600))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    scores = scores.numpy().astype(np.float64)
    within = rounding.absolute[:, None] + rounding.relative * np.abs(scores)
    assert (np.abs(scores - exact) <= within).all()
    kth = np.sort(scores, axis=1)[:, -20]
    assert (rounding.below(kth) <= np.sort(exact, axis=1)[:, -20]).all()
    out = scores < rounding.hopeless(rounding.below(kth))[:, None]
    assert out.any()
    assert (exact[out] < np.broadcast_to(rounding.below(kth)[:, None], exact.shape)[out]).all()


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_the_rounding_covers_what_torch_may_do_to_float32(precision):
    rng = np.random.default_rng(6)
    docs, queries = rng.standard_normal((600, 96)).astype(np.float32), rng.standard_normal((9, 96)).astype(np.float32)
    products = Products(queries, 20.0, "cpu", coarse=False)
    space = products.space(600)
    narrow = products.of(docs, space)[1].absolute
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = precision
        wide = products.of(docs, space)[1].absolute
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    kept = {"bf16": 8, "tf32": 11}[precision]  # significant bits; what such hardware does to the factors
    q, d = (np.round(np.ldexp(m, kept)) for m in [np.frexp(x.astype(np.float64))[0] for x in (queries, docs)])
    q, d = (np.ldexp(m, e - kept) for m, e in ((q, np.frexp(queries)[1]), (d, np.frexp(docs)[1])))
    off = np.abs(q @ d.T - queries.astype(np.float64) @ docs.astype(np.float64).T).max(axis=1)
    assert (off <= wide).all()
    assert (off > narrow).any()


@pytest.mark.parametrize("zero", ["docs", "query"])
def test_masses_of_ties_are_decided_within_bounded_memory(monkeypatch, zero, coarse):
    docs = np.random.default_rng(0).integers(-2, 3, (3000, 5)).astype(np.float32)
    query = np.ones((1, 5), np.float32)
    if zero == "docs":
        docs[:] = 1
    else:
        query[:] = 0
    largest, add = [], shortlist._Shortlist.add

    def watched(self, *columns):
        add(self, *columns)
        largest.append(len(self))

    monkeypatch.setattr(shortlist._Shortlist, "add", watched)
    ids = [f"d{i:04}" for i in np.random.default_rng(1).permutation(3000)]
    ranking = found(Exact(Vectors(ids, [docs]), block_rows=100), query, 10)[0]
    assert [doc for doc, _ in ranking] == [f"d{i:04}" for i in range(2999, 2989, -1)]
    assert max(largest) <= (3 if coarse else 2) * 10 + 2 * 100


def test_threads_do_not_change_the_result(coarse):
    rng = np.random.default_rng(3)
    docs, queries = rng.standard_normal((5000, 64)).astype(np.float32), rng.standard_normal((50, 64)).astype(np.float32)
    index, threads = Exact(Vectors([f"d{i}" for i in range(5000)], [docs])), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = found(index, queries, 30)
        torch.set_num_threads(2)
        assert found(index, queries, 30) == one
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("at_once", [1, 7, 50, 1000])
def test_slices_of_queries_do_not_change_the_result(monkeypatch, at_once):
    """Float64 decides slice by slice, on one thread or three; ties are common, so that the order of ids counts."""
    rng = np.random.default_rng(11)
    docs, queries = (rng.integers(-1, 2, (rows, 12)).astype(np.float32) for rows in (900, 50))
    index, threads = Exact(Vectors([f"d{i}" for i in range(900)], [docs]), block_rows=100), torch.get_num_threads()
    whole = brute_force(queries, docs, [f"d{i}" for i in range(900)], 20)
    monkeypatch.setattr(shortlist, "_QUERIES_AT_ONCE", at_once)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert found(index, queries, 20) == whole
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [1, 512, 513, 1300])
def test_rounding_in_place_is_the_rounding_of_the_whole(rows):
    docs = torch.from_numpy(np.random.default_rng(12).standard_normal((rows, 20)).astype(np.float32))
    coarse, off = torch.full((rows, 20), torch.nan, dtype=torch.bfloat16), torch.full((512, 20), torch.nan)
    largest = products._rounded(docs, coarse, off)
    assert torch.equal(coarse, docs.bfloat16())
    assert largest == float((docs - docs.bfloat16()).norm(dim=1).max())


def test_a_block_leaves_nothing_to_the_next(coarse):
    rng = np.random.default_rng(13)
    docs, queries = rng.standard_normal((700, 80)).astype(np.float32), rng.standard_normal((6, 80)).astype(np.float32)
    made = Products(queries, 20.0, "cpu", coarse=coarse)
    space = made.space(700)
    made.of(docs * 3, space)
    for part in (docs[:33], docs[33:], docs[:1]):
        again, rounding = made.of(part, space)
        fresh, expected = made.of(part, made.space(len(part)))
        assert torch.equal(again, fresh)
        np.testing.assert_array_equal(rounding.absolute, expected.absolute)


def test_queries_do_not_influence_each_other(monkeypatch):
    rng = np.random.default_rng(4)
    docs, queries = rng.standard_normal((800, 16)).astype(np.float32), rng.standard_normal((23, 16)).astype(np.float32)
    index = Exact(Vectors([f"d{i}" for i in range(800)], [docs]), block_rows=90)
    together = found(index, queries, 7)
    assert together == [found(index, queries[i : i + 1], 7)[0] for i in range(23)]
    monkeypatch.setattr(module, "_QUERY_ROWS", 5)
    assert found(index, queries, 7) == together


def test_half_precision_vectors_are_searched_as_stored(coarse):
    rng = np.random.default_rng(7)
    docs = rng.standard_normal((300, 24)).astype(np.float16)
    queries, ids = rng.standard_normal((4, 24)).astype(np.float32), [f"d{i}" for i in range(300)]
    mine = found(Exact(Vectors(ids, [docs])), queries, 10)
    theirs = brute_force(queries, docs.astype(np.float32), ids, 10)
    assert [[doc for doc, _ in row] for row in mine] == [[doc for doc, _ in row] for row in theirs]


@pytest.mark.parametrize("scale", [1e-30, 3e-23, 1e17])
def test_tiny_and_huge_vectors_keep_their_order(scale, coarse):
    rng = np.random.default_rng(8)
    docs = (rng.standard_normal((1000, 200)) * scale).astype(np.float32)
    queries = (rng.standard_normal((20, 200)) * scale).astype(np.float32)
    ids = [f"d{i}" for i in range(1000)]
    mine = found(Exact(Vectors(ids, [docs]), block_rows=100), queries, 50)
    theirs = brute_force(queries, docs, ids, 50)
    assert [[doc for doc, _ in row] for row in mine] == [[doc for doc, _ in row] for row in theirs]


def test_scores_that_would_overflow_are_refused():
    docs = np.full((2, 4), 1e30, np.float32)
    with pytest.raises(NonFiniteError, match="query 'q0'"):
        found(Exact(Vectors(["a", "b"], [docs])), docs[:1], 1)


@pytest.mark.parametrize("queries", [np.ones((1, 3), np.float32), np.ones((1, 4)), np.ones((1, 4, 1), np.float32)])
def test_query_vectors_must_fit(queries):
    with pytest.raises(UsageError, match="the index holds 4 dimensions"):
        Exact(Vectors(["a"], [np.ones((1, 4), np.float32)])).search(queries, ["q"], k=1)


def test_k_beyond_the_corpus_returns_the_corpus():
    index = Exact(Vectors(["a", "b"], [np.eye(2, dtype=np.float32)]))
    assert [doc for doc, _ in found(index, np.array([[1, 2]], np.float32), 9)[0]] == ["b", "a"]
    with pytest.raises(UsageError, match="block_rows"):
        Exact(index.vectors, block_rows=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_bits():
    rng = np.random.default_rng(9)
    docs, queries = rng.standard_normal((5000, 64)).astype(np.float32), rng.standard_normal((50, 64)).astype(np.float32)
    vectors = Vectors([f"d{i}" for i in range(5000)], [docs])
    assert found(Exact(vectors, "cuda"), queries, 30) == found(Exact(vectors), queries, 30)


@pytest.mark.soak
@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(["ties", "near"]).flatmap(cases), st.sampled_from([1, 2]))
def test_a_thousand_configurations(case, threads):
    queries, docs, ids, cuts, k, rows = case
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        cut = found(Exact(Vectors(ids, np.split(docs, cuts)), block_rows=rows), queries, k)
    finally:
        torch.set_num_threads(before)
    assert cut == found(Exact(Vectors(ids, [docs])), queries, k)
