"""The random pool of a batch and the queries that lack a grade, against SR-DPR's sampling written out plainly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.data import Drawn, Loader, PerGrade, Shuffled, Supervision, TokenStore
from rankwright.data.drawn import endless, following
from rankwright.errors import RecipeError
from rankwright.types import Qrels, Texts

_DOCS = 90


@pytest.fixture(scope="module")
def stores():
    def tokenize(texts: list[str]) -> Texts:
        return Texts(torch.tensor([int(t) for t in texts]), torch.arange(len(texts) + 1))

    with tempfile.TemporaryDirectory() as folder:
        yield [
            TokenStore.build(Path(folder) / side, [str(i) for i in range(_DOCS)], tokenize, key=side, vocabulary=100)
            for side in ("query", "doc")
        ]


def table() -> dict[str, dict[str, float]]:
    """20 queries with two positives each; three of four have two hard negatives; each has one of grade 0."""
    made = {}
    for i in range(20):
        made[f"q{i}"] = {f"d{i}": 2.0, f"d{i + 20}": 2.0, f"d{(i + 1) % 20 + 40}": 0.0}
        if i % 4:
            made[f"q{i}"] |= {f"d{i + 60}": 1.0, f"d{(i + 1) % 20 + 60}": 1.0}
    return made


def loader(stores, counts: dict[int, int], *, every: bool = False, size: int = 3, **arguments) -> Loader:
    supervision = Supervision.merge([Qrels.from_dict(table())])
    return Loader(
        supervision, group=PerGrade(counts, every=every), batches=Shuffled(size, repeats=True), query_tokens=stores[0],
        doc_tokens=stores[1], query_rows=np.array([int(q[1:]) for q in supervision.queries]),
        doc_rows=np.array([int(d[1:]) for d in supervision.docs]), **{"seed": 3, "workers": 0, **arguments},
    )  # fmt: skip


def test_each_of_the_next_queries_of_the_stream_gives_one_document_above_0(stores):
    made = loader(stores, {2: 1}, drawn=Drawn(5))
    stream: list[str] = []
    for epoch in range(4):
        plan = made._plan(epoch)
        stream += [made.supervision.queries[row] for row in plan.order.tolist()]
    begin, known = 0, table()
    for step in range(21):  # three epochs, each of seven batches: 6 x 3 + 2
        batch = made.batch(step)
        assert list(batch.query_ids) == stream[begin : begin + len(batch.query_ids)]
        begin += len(batch.query_ids)
        ahead = stream[begin : begin + 5]
        givers = [{doc for doc, grade in known[query].items() if grade > 0} for query in ahead]
        assert 1 <= len(batch.drawn) <= 5
        assert len(set(batch.drawn)) == len(batch.drawn)
        assert all(any(doc in some for some in givers) for doc in batch.drawn)
        assert all(some & set(batch.drawn) for some in givers)
        assert set(batch.drawn) <= set(batch.doc_ids)


def test_both_strata_of_the_other_queries_are_drawn_and_anew_each_time(stores):
    made = loader(stores, {2: 1}, drawn=Drawn(5))
    again = loader(stores, {2: 1}, drawn=Drawn(5))
    known, grades = table(), set()
    for step in range(30):
        batch = made.batch(step)
        assert batch.drawn == again.batch(step).drawn
        grades |= {known[query][doc] for query in known for doc in batch.drawn if known[query].get(doc, 0) > 0}
    assert grades == {1.0, 2.0}
    assert len({made.batch(step).drawn for step in range(30)}) > 25


def test_queries_that_lack_a_grade_are_not_trained_on_and_may_give_documents(stores):
    made = loader(stores, {2: 0, 1: 1}, every=True, drawn=Drawn(8, rest=True))
    with_hard = {query for query, docs in table().items() if 1.0 in docs.values()}
    assert made.queries == len(with_hard) == 15
    assert "5 queries lack a grade" in made.remarks[-1]
    without = [{d for d, g in docs.items() if g > 0} for query, docs in table().items() if query not in with_hard]
    turns: list[int] = []
    for step in range(10):
        batch = made.batch(step)
        assert set(batch.query_ids) <= with_hard
        rows = batch.lists[batch.mask].tolist()
        assert all(60 <= int(batch.doc_ids[row][1:]) < 80 for row in rows)  # hard ones play the relevant part
        turns += [i for i, some in enumerate(without) for doc in batch.drawn if doc in some]
    assert "leaves no query out" in loader(stores, {2: 1}, drawn=Drawn(8, rest=True)).remarks[-1]
    assert Drawn(8, rest=True).shares(15, 5) == (6, 2)  # int(8 * 15 / 20), the rest
    assert np.bincount(turns).tolist() == [4] * 5  # 10 x 2 documents, of each in turn


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_pool_out_and_all_know_it(stores, world: int):
    whole = loader(stores, {2: 1, 1: 2}, drawn=Drawn(7), size=5)
    parts = [loader(stores, {2: 1, 1: 2}, drawn=Drawn(7), size=5, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        expected, found = whole.batch(step), [part.batch(step) for part in parts]
        assert {part.drawn for part in found} == {expected.drawn}
        assert set(found[0].doc_ids) == set(expected.doc_ids)
        own = [len(part.docs) for part in found]
        assert sum(own) == len(found[0].doc_ids)
        texts = [v for part in found for v in part.docs.values.tolist()]
        assert [f"d{v}" for v in texts] == list(found[0].doc_ids)


def test_streams_go_on_for_ever():
    orders = [np.array([3, 1, 2]), np.array([2, 3, 1]), np.array([1, 2, 3])]
    assert following(orders.__getitem__, 0, 2, 6) == [(2, 0), (2, 1), (3, 1), (1, 1), (1, 2), (2, 2)]
    assert following(orders.__getitem__, 0, 3, 0) == []
    first, second = endless(4, 0, 6, seed=1), endless(4, 6, 6, seed=1)
    assert sorted(first[:4]) == [(i, 0) for i in range(4)]
    assert sorted([*first[4:], *second[:2]]) == [(i, 1) for i in range(4)]
    assert endless(4, 2, 3, seed=1) == [*first[2:], *second][:3]


def test_a_grade_that_no_query_has_is_refused(stores):
    with pytest.raises(RecipeError, match="each of the grades 2, 3"):
        loader(stores, {2: 1, 3: 1}, every=True)
    with pytest.raises(RecipeError, match="every needs the grades"):
        PerGrade(2, every=True)
    with pytest.raises(RecipeError):
        Drawn(0)
