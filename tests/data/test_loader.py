"""The loader: a batch depends on (seed, step) alone - not on ranks, workers, or where the run was resumed."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import (
    Batches,
    ByLength,
    ByTopic,
    Group,
    HardMargin,
    Loader,
    MarginBins,
    Mixed,
    OneRelevant,
    Part,
    PerGrade,
    Random,
    Shuffled,
    Supervision,
    TokenStore,
    Top,
    Window,
    write_topics,
)
from rankwright.types import Batch, Candidates, Example, Qrels, Texts

_DOCS = 60  # document "d7" has the tokens 7, 7, 1007: its text tells its id


@pytest.fixture(scope="module")
def stores():
    def tokenize(texts: list[str]) -> Texts:
        rows = [[int(t)] * (int(t) % 3) + [1000 + int(t)] for t in texts]
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        return Texts(torch.tensor([v for row in rows for v in row]), torch.tensor(offsets))

    with tempfile.TemporaryDirectory() as folder:
        yield [
            TokenStore.build(Path(folder) / side, [str(i) for i in range(_DOCS)], tokenize, key=side, vocabulary=2000)
            for side in ("query", "doc")
        ]


_TABLE = st.dictionaries(
    st.sampled_from([f"q{i}" for i in range(40)]),
    st.dictionaries(
        st.sampled_from([f"d{i}" for i in range(_DOCS)]), st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=5
    ),
    min_size=1,
    max_size=25,
).filter(lambda table: any(grade > 0 for docs in table.values() for grade in docs.values()))
_GROUPS = st.sampled_from([Random(3), Top(2), OneRelevant(2), OneRelevant(0)])
_BATCHES = st.builds(Shuffled, st.integers(1, 9), st.booleans())


def _numbers(ids: tuple[str, ...] | list[str]) -> np.ndarray:
    return np.array([int(name[1:]) for name in ids], np.int64)


def _loader(stores, supervision: Supervision, group: Group, batches: Batches, **arguments: Any) -> Loader:
    return Loader(
        supervision, group=group, batches=batches, query_tokens=stores[0], doc_tokens=stores[1],
        query_rows=_numbers(list(supervision.queries)), doc_rows=_numbers(list(supervision.docs)),
        **{"seed": 5, "workers": 0, **arguments},
    )  # fmt: skip


def _same(one: Batch, other: Batch) -> bool:
    def equal(a: object, b: object) -> bool:
        if isinstance(a, Texts) and isinstance(b, Texts):
            return equal(a.values, b.values) and equal(a.offsets, b.offsets)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return a == b

    return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch))


def _lists(batch: Batch, own_docs: tuple[str, ...]) -> list[tuple[str, dict[str, float]]]:
    """(query, doc -> target) by id, in order."""
    made = []
    for i, query in enumerate(batch.query_ids):
        docs = [own_docs[c] for c, there in zip(batch.lists[i].tolist(), batch.mask[i].tolist()) if there]
        made.append((query, dict(zip(docs, batch.targets[i].tolist()))))
    return made


def _ids_of(texts: Texts) -> list[int]:
    return (texts.values[texts.offsets[1:] - 1] - 1000).tolist()


def _check_batch(parts: list[Batch], supervision: Supervision) -> list[tuple[str, dict[str, float]]]:
    """Everything that must hold of the parts of one global batch; returns its lists by id."""
    known = supervision.table.to_dict()
    sizes = [len(part.docs) for part in parts]
    everything = parts[0].doc_ids
    lists = []
    for r, part in enumerate(parts):
        own_docs = everything[sum(sizes[:r]) : sum(sizes[: r + 1])]
        assert part.doc_ids == everything
        assert len(set(own_docs)) == len(own_docs)
        assert _ids_of(part.docs) == _numbers(own_docs).tolist()
        assert _ids_of(part.queries) == _numbers(part.query_ids).tolist()
        assert part.lists.shape == part.targets.shape == part.mask.shape
        assert part.lists[~part.mask].sum() == 0
        assert {doc for _, docs in _lists(part, own_docs) for doc in docs} == set(own_docs)
        triples = zip(part.known_queries.tolist(), part.known_docs.tolist(), part.known_targets.tolist())
        assert {(i, j): t for i, j, t in triples} == {
            (i, j): known[query][doc]
            for i, query in enumerate(part.query_ids)
            for j, doc in enumerate(everything)
            if doc in known[query]
        }
        lists += _lists(part, own_docs)
    assert len({part.lists.shape[1] for part in parts}) == 1
    return lists


def _check_ranks_and_epochs(stores, table, group: Group, batches: Shuffled, seed: int) -> None:
    supervision = Supervision.merge([Qrels.from_dict(table)])
    one = _loader(stores, supervision, group, batches, seed=seed)
    steps = one.steps_per_epoch(0) + one.steps_per_epoch(1)
    whole = [_check_batch([one.batch(step)], supervision) for step in range(steps)]
    for epoch, begin in ((0, 0), (1, one.steps_per_epoch(0))):
        seen = [q for lists in whole[begin : begin + one.steps_per_epoch(epoch)] for q, _ in lists]
        assert sorted(seen) == sorted(supervision.queries)  # no query lost or repeated
        assert one.position(begin) == (epoch, 0)
    for lists in whole:
        docs = [doc for _, chosen in lists for doc in chosen]
        assert batches.repeats or len(docs) == len(set(docs))
    for world in (2, 4):
        ranks = [_loader(stores, supervision, group, batches, seed=seed, rank=r, world=world) for r in range(world)]
        for step in range(steps):
            parts = [rank.batch(step) for rank in ranks]
            assert _check_batch(parts, supervision) == whole[step]
            counts = [len(part.query_ids) for part in parts]
            assert max(counts) - min(counts) <= 1


@settings(max_examples=25, deadline=None)
@given(table=_TABLE, group=_GROUPS, batches=_BATCHES, seed=st.integers(0, 999))
def test_global_batches_are_the_same_for_any_number_of_ranks(stores, table, group, batches, seed) -> None:
    _check_ranks_and_epochs(stores, table, group, batches, seed)


def _joined(queries: Texts, docs: Texts) -> Texts:
    """The last token of each side: who they are."""
    values = torch.stack([queries.values[queries.offsets[1:] - 1], docs.values[docs.offsets[1:] - 1]], 1)
    return Texts(values.flatten(), torch.arange(len(docs) + 1) * 2)


@settings(max_examples=15, deadline=None)
@given(table=_TABLE, group=_GROUPS, batches=_BATCHES, seed=st.integers(0, 999))
def test_pairs_are_the_documents_of_a_batch_one_for_each_place_of_a_list(stores, table, group, batches, seed) -> None:
    supervision = Supervision.merge([Qrels.from_dict(table)])
    plain = _loader(stores, supervision, group, batches, seed=seed)
    for world in (1, 2):
        ranks = [
            _loader(stores, supervision, group, batches, seed=seed, rank=r, world=world, pair=_joined)
            for r in range(world)
        ]
        for step in range(plain.steps_per_epoch(0)):
            parts, lists, first = [rank.batch(step) for rank in ranks], [], 0
            for part in parts:
                assert len(part.queries) == len(part.query_ids)
                assert len(part.queries.values) == len(part.known_docs) == 0
                assert part.lists[part.mask].tolist() == list(range(len(part.docs)))
                assert part.pair_queries is not None
                names = list(zip(part.pair_queries, part.doc_ids))[first : first + len(part.docs)]
                first += len(part.docs)
                assert (part.docs.values - 1000).view(-1, 2).tolist() == [[int(q[1:]), int(d[1:])] for q, d in names]
                whose = [part.query_ids[row] for row in part.mask.nonzero()[:, 0].tolist()]
                assert [query for query, _ in names] == whose
                lists += _lists(part, tuple(doc for _, doc in names))
            whole = plain.batch(step)
            assert lists == _lists(whole, whole.doc_ids)
            assert first == len(parts[0].doc_ids) == len(set(parts[0].doc_names))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@settings(max_examples=5000, deadline=None)
@given(table=_TABLE, group=_GROUPS, batches=_BATCHES, seed=st.integers(0, 999))
def test_global_batches_are_the_same_for_any_number_of_ranks_soak(stores, table, group, batches, seed) -> None:
    _check_ranks_and_epochs(stores, table, group, batches, seed)


@settings(max_examples=15, deadline=None)
@given(table=_TABLE, group=_GROUPS, batches=_BATCHES, data=st.data())
def test_resuming_at_any_step_with_any_workers_gives_the_rest(stores, table, group, batches, data) -> None:
    supervision = Supervision.merge([Qrels.from_dict(table)])
    straight = _loader(stores, supervision, group, batches)
    stop = 3 * straight.steps_per_epoch(0)
    whole = [straight.batch(step) for step in range(stop)]
    for workers in (0, 1, 3):
        start = data.draw(st.integers(0, stop))
        fresh = _loader(stores, supervision, group, batches, workers=workers)
        rest = list(fresh.iterate(start, stop))
        assert len(rest) == stop - start
        assert all(_same(a, b) for a, b in zip(rest, whole[start:]))


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> tuple[str, list[str]]:
    """A file of topics and two files of query ids, over all the queries there may be."""
    folder = tmp_path_factory.mktemp("named")
    write_topics(folder / "topics.tsv", [(f"q{i}", str(i % 3)) for i in range(40)])
    parts = [folder / "even.txt", folder / "odd.txt"]
    for odd, path in enumerate(parts):
        path.write_text("".join(f"q{i}\n" for i in range(odd, 40, 2)))
    return str(folder / "topics.tsv"), list(map(str, parts))


@settings(max_examples=30, deadline=None)
@given(
    grades=st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=2, max_size=4), min_size=4, max_size=24),
    group=st.sampled_from([PerGrade(1), MarginBins(3), HardMargin(1.0), Window((1, 3), 2)]),
    which=st.sampled_from(["paper", "code", "mixed", "one part", "length"]),
    size=st.integers(2, 9),
    data=st.data(),
)
def test_drawn_batches_are_the_same_for_any_ranks_workers_and_start(
    stores, named, grades, group, which, size, data
) -> None:
    table = {
        f"q{i}": {f"d{(2 * i + j) % _DOCS}": grade for j, grade in enumerate([1.0, *row])}
        for i, row in enumerate(grades)
    }
    supervision = Supervision.merge([Qrels.from_dict(table)])
    parts = tuple(Part(path, 1.5 + i) for i, path in enumerate(named[1]))
    batches = {
        "paper": ByTopic(named[0], size, 2), "code": ByTopic(named[0], size, 1, variant="code"),
        "mixed": Mixed(parts, size, homogeneous=False), "one part": Mixed(parts, size), "length": ByLength(size),
    }[which]  # fmt: skip
    one = _loader(stores, supervision, group, batches)
    stop = one.steps_per_epoch(0) + one.steps_per_epoch(1)
    straight = [one.batch(step) for step in range(stop)]
    whole = [_check_batch([batch], supervision) for batch in straight]
    for lists in whole:
        docs = [doc for _, chosen in lists for doc in chosen]
        assert which == "code" or len(set(docs)) == len(docs)
        assert which == "code" or len({query for query, _ in lists}) == len(lists)
    for world in (2, 4):
        ranks = [_loader(stores, supervision, group, batches, rank=r, world=world) for r in range(world)]
        for step in range(stop):
            assert _check_batch([rank.batch(step) for rank in ranks], supervision) == whole[step]
    for workers in (0, 1, 3):
        start = data.draw(st.integers(0, stop))
        rest = list(_loader(stores, supervision, group, batches, workers=workers).iterate(start, stop))
        assert len(rest) == stop - start
        assert all(_same(a, b) for a, b in zip(rest, straight[start:]))


def _supervision(queries: int = 20) -> Supervision:
    return Supervision.merge([Qrels.from_dict({f"q{i}": {f"d{i}": 1.0, f"d{i + 20}": 0.0} for i in range(queries)})])


def test_tensors_have_the_types_of_a_batch(stores) -> None:
    batch = _loader(stores, _supervision(), OneRelevant(1), Shuffled(4)).batch(0)
    integers = (batch.queries.values, batch.docs.offsets, batch.lists, batch.known_queries, batch.known_docs)
    assert all(tensor.dtype == torch.int64 for tensor in integers)
    assert batch.targets.dtype == batch.known_targets.dtype == torch.float32
    assert batch.mask.dtype == torch.bool
    assert batch.queries.keys is None
    assert batch.lists.shape == (4, 2)
    assert batch.lists[0].tolist() == [0, 1]  # documents come in order of first appearance


def test_a_rank_without_queries_has_an_empty_batch(stores) -> None:
    loader = _loader(stores, _supervision(1), OneRelevant(1), Shuffled(4), rank=0, world=2)
    batch = loader.batch(0)
    assert (len(batch.queries), len(batch.docs), batch.lists.shape) == (0, 0, (0, 2))
    assert batch.query_ids == ()
    assert len(batch.doc_ids) == 2  # the other rank's


class _Fails(Group):
    """Goes wrong at one query of the second epoch."""

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        if epoch == 1 and candidates.query == "q7":
            raise LookupError("q7 is ill")
        return Example(candidates.query, candidates.docs, candidates.targets)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_goes_wrong_in_a_worker_is_raised_when_its_batch_is_due(stores, workers: int) -> None:
    supervision = _supervision()
    loader = _loader(stores, supervision, _Fails(), Shuffled(5, repeats=True), workers=workers)
    row = supervision.queries.index("q7")
    due = next(step for step in range(4, 8) if row in loader._plan(1).batch(step - 4))
    batches = loader.iterate(0, 12)
    assert len([next(batches) for _ in range(due)]) == due
    with pytest.raises(LookupError, match="q7 is ill"):
        next(batches)


def test_leaving_early_ends_the_workers(stores) -> None:
    before = threading.active_count()
    batches = _loader(stores, _supervision(), OneRelevant(1), Shuffled(2), workers=3).iterate(0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_far_steps_do_not_need_the_near_ones(stores) -> None:
    loader = _loader(stores, _supervision(), OneRelevant(1), Shuffled(3))
    far = loader.batch(701)
    assert loader.position(701) == (100, 1)  # 7 batches an epoch
    again = _loader(stores, _supervision(), OneRelevant(1), Shuffled(3))
    for step in (3, 350, 0):
        again.batch(step)
    assert _same(again.batch(701), far)
    assert len(again._plans) <= 3
