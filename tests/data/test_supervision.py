"""Mixed sources against a slow dictionary: filters, relabels, selections, draws, later wins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Judged, Keep, Supervision
from rankwright.data.dataset import rows_where
from rankwright.data.supervision import Supply
from rankwright.types import Qrels

_DOCS = [f"d{i}" for i in range(8)]
_TABLE = st.dictionaries(
    st.sampled_from(["q1", "q2", "q10"]),
    st.dictionaries(st.sampled_from(_DOCS), st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0]), min_size=1),
    max_size=3,
)
_KEEP = st.one_of(
    st.none(), *(st.builds(Keep, **{name: st.integers(1, 4)}) for name in ("top", "bottom", "first", "random"))
)
_LABEL = st.one_of(
    st.fixed_dictionaries({"grade": st.sampled_from([0.0, 2.0])}),
    st.fixed_dictionaries({}, optional={
        "relabel": st.dictionaries(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 1.0, 5.0]), min_size=1),
        "floor": st.sampled_from([-0.5, 0.0]), "ceil": st.sampled_from([1.0, 2.5]),
    }),
)  # fmt: skip
_FILTER = st.fixed_dictionaries({}, optional={"min_grade": st.sampled_from([-1.0, 0.0]), "max_grade": st.just(2.0)})
_SOURCE = st.tuples(_TABLE, _FILTER, _LABEL, _KEEP)


def _supply(table: dict[str, dict[str, float]], spec: Judged) -> Supply:
    """What `Mixture.supply` makes of a source whose file holds this table."""
    qrels = Qrels.from_dict(table)
    low = -9 if spec.min_grade is None else spec.min_grade
    rows = rows_where(qrels, (qrels.values >= low) & (qrels.values <= (spec.max_grade or 9)))
    made = Qrels(rows.queries, rows.docs, rows.offsets, rows.columns, spec.targets(rows.values))
    keep = spec.keep
    return Supply(made, keep.fixed(rows) if keep else None, keep.random if keep else None)


def _target(spec: Judged, grade: float) -> float:
    if spec.grade is not None:
        return spec.grade
    made = (spec.relabel or {}).get(grade, grade)
    made = made if spec.floor is None else max(made, spec.floor)
    return made if spec.ceil is None else min(made, spec.ceil)


def _kept(docs: dict[str, float], keep: Keep | None) -> tuple[list[str], int]:
    """(the documents that may be chosen, how many of them in one epoch)."""
    if keep is None or keep.random is not None:
        return list(docs), len(docs) if keep is None else min(keep.random or 0, len(docs))
    if keep.top is not None:
        chosen = sorted(docs, key=lambda d: (-docs[d], d))[: keep.top]
    elif keep.bottom is not None:
        chosen = sorted(docs, key=lambda d: (docs[d], d))[: keep.bottom]
    else:
        chosen = list(docs)[: keep.first]
    return chosen, len(chosen)


@settings(max_examples=80, deadline=None)
@given(sources=st.lists(_SOURCE, min_size=1, max_size=4), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_a_mixture_is_what_dictionaries_say(sources, seed: int, epoch: int) -> None:
    specs = [Judged("x", **limits, **label, keep=keep) for _, limits, label, keep in sources]
    mixed = Supervision.of([_supply(table, spec) for (table, *_), spec in zip(sources, specs)])
    known: dict[str, dict[str, float]] = {}
    open_: dict[str, list[tuple[list[str], int]]] = {}
    for (table, *_), spec in zip(sources, specs):
        low = -9 if spec.min_grade is None else spec.min_grade
        for query, docs in table.items():
            left = {d: g for d, g in docs.items() if low <= g <= (spec.max_grade or 9)}
            known.setdefault(query, {}).update({d: _target(spec, g) for d, g in left.items()})
            open_.setdefault(query, []).append(_kept(left, spec.keep))
    useful = {q for q, parts in open_.items() if any(known[q][d] > 0 for docs, _ in parts for d in docs)}
    assert mixed.table.to_dict() == {q: dict(sorted(known[q].items())) for q in sorted(useful)}
    assert mixed.dropped == len(known) - len(useful)
    for row, query in enumerate(mixed.queries):
        rows = mixed.rows(row, seed=seed, epoch=epoch)
        found = mixed.candidates(row, rows)
        assert dict(zip(found.docs, found.targets)).items() <= known[query].items()
        assert (np.diff(rows) > 0).all()
        sure = {doc for docs, n in open_[query] if n == len(docs) for doc in docs}
        assert sure <= set(found.docs)
        drawn = [(set(docs), n) for docs, n in open_[query] if n < len(docs)]
        assert all(len(docs & set(found.docs)) >= n for docs, n in drawn)
        assert len(found.docs) <= len(sure) + sum(n for _, n in drawn)
        assert set(found.docs) <= sure.union(*(docs for docs, _ in drawn))
        if not any(target > 0 for target in found.targets):
            assert row in mixed.unsure


@settings(max_examples=30, deadline=None)
@given(sources=st.lists(_SOURCE, min_size=1, max_size=3), data=st.data())
def test_draws_and_fingerprints_do_not_depend_on_the_order_of_lines(sources, data) -> None:
    def mixed(shuffle: bool) -> Supervision:
        made = []
        for table, limits, label, keep in sources:
            rows = [(q, d, v) for q, docs in table.items() for d, v in docs.items()]
            rows = data.draw(st.permutations(rows)) if shuffle else rows
            again: dict[str, dict[str, float]] = {}
            for query, doc, value in rows:
                again.setdefault(query, {})[doc] = value
            keep = Keep(top=keep.first) if keep and keep.first else keep
            made.append(_supply(again, Judged("x", **limits, **label, keep=keep)))
        return Supervision.of(made)

    one, other = mixed(False), mixed(True)
    assert one.fingerprint == other.fingerprint
    for row in range(len(one)):
        assert all((one.rows(row, seed=1, epoch=e) == other.rows(row, seed=1, epoch=e)).all() for e in range(3))


def _two(keep: Keep | None) -> Supervision:
    table = {f"q{i}": {f"d{j}": float(j == 0) for j in range(20)} for i in range(9)}
    relevant = {q: {"d0": 1.0} for q in table}
    return Supervision.of([_supply(table, Judged("x", keep=keep)), _supply(relevant, Judged("x"))])


def test_draws_are_made_anew_each_epoch_and_reach_every_document() -> None:
    mixed = _two(Keep(random=3))
    seen = [mixed.rows(2, seed=7, epoch=epoch) for epoch in range(60)]
    assert {len(rows) for rows in seen} == {3, 4}  # three drawn, and d0, which may be one of them
    assert len(set().union(*(rows.tolist() for rows in seen))) == 20
    assert len({tuple(rows) for rows in seen}) > 50
    again = _two(Keep(random=3))
    assert (again.rows(2, seed=7, epoch=59) == seen[59]).all()  # epoch 59 needs none before it
    assert tuple(mixed.rows(2, seed=8, epoch=0)) != tuple(seen[0])
    assert [tuple(mixed.rows(q, seed=7) - 20 * q) for q in range(9)].count(tuple(seen[0] - 40)) == 1  # queries differ


def test_two_sources_draw_apart() -> None:
    table = {f"q{i}": {f"{side}{j}": 1.0 for j in range(9)} for i in range(30) for side in "a"}
    other = {q: {doc.replace("a", "b"): 1.0 for doc in docs} for q, docs in table.items()}
    mixed = Supervision.of([_supply(t, Judged("x", keep=Keep(random=2))) for t in (table, other)])
    found = [mixed.candidates(row, mixed.rows(row)).docs for row in range(30)]
    assert any({d[1:] for d in docs if d[0] == "a"} != {d[1:] for d in docs if d[0] == "b"} for docs in found)


def test_the_fingerprint_notices_what_may_be_chosen() -> None:
    keeps = [None, Keep(random=1), Keep(random=2), Keep(top=1), Keep(top=2), Keep(bottom=2), Keep(first=3)]
    assert len({_two(keep).fingerprint for keep in keeps}) == len(keeps)


@pytest.mark.parametrize(
    ("zeros", "size", "unsure"), [(5, 2, True), (1, 2, False), (2, 3, False), (0, 1, False), (2, 2, True)]
)
def test_who_may_be_left_without_a_relevant_document(zeros: int, size: int, unsure: bool) -> None:
    table = {"q": {"r": 1.0} | {f"d{i}": 0.0 for i in range(zeros)}}
    mixed = Supervision.of([_supply(table, Judged("x", keep=Keep(random=size)))])
    assert bool(len(mixed.unsure)) == unsure
    found = [mixed.candidates(0, mixed.rows(0, epoch=epoch)).targets for epoch in range(40)]
    assert any(1.0 not in targets for targets in found) == unsure
