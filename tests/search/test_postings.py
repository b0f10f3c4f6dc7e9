"""Impacts and scores against bm25s; damage that checksums cannot see."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from rankwright import storage
from rankwright.errors import ArtefactError
from rankwright.search.postings import Postings


def documents(seed: int, docs: int = 300, terms: int = 90) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    rows = [(rng.zipf(1.3, rng.integers(0, 40)) % terms).tolist() for _ in range(docs)]
    return [*rows, list(range(terms))]  # every term occurs, as in what `BM25.build` makes


def indexed(rows: list[list[int]], **settings: float) -> Postings:
    return Postings.of(np.array(list(chain(*rows)), np.int32), [len(row) for row in rows], **settings)


@pytest.mark.oracle
@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 1.0), (2.0, 0.0)])
def test_impacts_are_those_of_bm25s(k1, b):
    bm25s = pytest.importorskip("bm25s")
    rows = documents(3)
    theirs = bm25s.BM25(k1=k1, b=b, method="lucene")
    theirs.index((rows, {str(i): i for i in range(90)}), create_empty_token=False, show_progress=False)
    mine = indexed(rows, k1=k1, b=b)
    assert np.array_equal(mine.offsets, theirs.scores["indptr"])
    assert np.array_equal(mine.docs, theirs.scores["indices"])
    assert np.allclose(mine.impacts, theirs.scores["data"], rtol=1e-6, atol=0)
    for query in ([5], [1, 2, 2, 60], list(range(90))):
        assert np.allclose(mine.scores([query])[0], theirs.get_scores_from_ids(query), rtol=1e-5, atol=1e-6)


def test_a_query_has_the_same_bits_whatever_else_is_asked():
    mine, rng = indexed(documents(4), k1=0.9, b=0.4), np.random.default_rng(0)
    queries = [rng.integers(0, 90, rng.integers(0, 12)).tolist() for _ in range(30)]
    together = mine.scores(queries)
    for query, row in zip(queries, together):
        assert np.array_equal(mine.scores([query])[0], row)


@pytest.mark.parametrize("wrong", ["document", "offsets", "impacts"])
def test_what_does_not_fit_together_is_refused(tmp_path, wrong):
    made = indexed([[0, 1, 1], [1]], k1=0.9, b=0.4)
    if wrong == "document":
        made.docs = made.docs + 1
    elif wrong == "offsets":
        made.offsets = made.offsets[:-1]
    else:
        made.impacts = made.impacts.astype(np.float64)
    with storage.publish(tmp_path / "i", "bm25") as draft:
        made.write(draft)
    with pytest.raises(ArtefactError, match="do not fit"):
        Postings.open(tmp_path / "i", size=2)
