"""Topic batches: one topic a batch, drawn as paper or code draw, against plain references."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import ByTopic, write_topics
from rankwright.errors import DataError, RecipeError

_SIZES = {"a": 3, "b": 10, "c": 40, "d": 1}  # queries of each topic
_TOPIC = [topic for topic, size in _SIZES.items() for _ in range(size)]
_QUERIES = [f"q{i}" for i in range(len(_TOPIC))]


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("topics") / "topics.tsv"
    write_topics(path, [*zip(_QUERIES, _TOPIC), ("not trained on", "a")])
    return str(path)


def _plan(spec: ByTopic, lists: list[list[int]] | None = None, *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    made = lists or [[2 * i, 2 * i + 1] for i in range(len(_QUERIES))]
    plan = spec.plan(_QUERIES, made.__getitem__, seed=seed, epoch=epoch)
    return [plan.batch(i).tolist() for i in range(len(plan))]


def _many(spec: ByTopic, epochs: int) -> list[list[int]]:
    return [batch for epoch in range(epochs) for batch in _plan(spec, epoch=epoch)]


def _near(found: float, expected: float, draws: int) -> None:
    assert abs(found - expected) < 5 * (expected * (1 - expected) / draws) ** 0.5 + 1e-9, (found, expected)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12), per_batch=st.integers(1, 4), by_size=st.booleans(), repeats=st.booleans(),
    lists=st.lists(st.lists(st.integers(0, 60), max_size=3, unique=True), min_size=54, max_size=54),
    seed=st.integers(0, 99), epoch=st.integers(0, 9),
)  # fmt: skip
def test_paper_batches_repeat_neither_query_nor_document(
    topics, size, per_batch, by_size, repeats, lists, seed, epoch
) -> None:
    spec = ByTopic(topics, size, min(per_batch, size), by_size=by_size, repeats=repeats)
    batches = _plan(spec, lists, seed=seed, epoch=epoch)
    assert _plan(spec, lists, seed=seed, epoch=epoch) == batches
    assert len(batches) == max(1, 54 // size)
    share = size // spec.per_batch
    for batch in batches:
        assert len(set(batch)) == len(batch) <= size
        of_topic = Counter(_TOPIC[row] for row in batch)
        assert max(of_topic.values()) <= share
        docs = [doc for row in batch for doc in lists[row]]
        assert repeats or len(docs) == len(set(docs))
        if repeats and len(of_topic) < 4:  # full; a topic that gave less than its share has no more
            assert len(batch) == size
            short = [topic for topic, count in of_topic.items() if count < share]
            assert sum(of_topic[topic] < _SIZES[topic] for topic in short) <= 1  # the last one is cut


def test_paper_draws_every_topic_alike_and_every_query_of_it(topics) -> None:
    batches = _many(ByTopic(topics, 3), 120)
    firsts, rows = Counter(_TOPIC[batch[0]] for batch in batches), Counter(row for batch in batches for row in batch)
    for topic in _SIZES:
        _near(firsts[topic] / len(batches), 1 / 4, len(batches))
    share = 3 / 40  # of a query of the topic c, when its topic comes first (it fills up d too, one place in two)
    first = [batch for batch in batches if _TOPIC[batch[0]] == "c"]
    for row in range(13, 53):
        _near(sum(row in batch for batch in first) / len(first), share, len(first))
    assert set(rows) == set(range(54))


def test_by_size_makes_every_query_as_likely(topics) -> None:
    batches = _many(ByTopic(topics, 1, by_size=True), 60)
    for topic, size in _SIZES.items():
        _near(sum(_TOPIC[batch[0]] == topic for batch in batches) / len(batches), size / 54, len(batches))


def test_topics_of_a_batch_differ_in_the_paper(topics) -> None:
    batches = _many(ByTopic(topics, 2, 2), 60)
    pairs = Counter(tuple(sorted(_TOPIC[row] for row in batch)) for batch in batches)
    assert len(pairs) == 6
    for count in pairs.values():
        _near(count / len(batches), 1 / 6, len(batches))


def _as_matchmaker(rng: random.Random, size: int, per_batch: int) -> list[int]:
    """The published loop over lists of rows."""
    clusters = [[row for row, topic in enumerate(_TOPIC) if topic == name] for name in _SIZES]
    batch: list[int] = []
    while len(batch) < size:
        cluster = clusters[rng.randint(0, len(clusters) - 1)]
        share = int(size / per_batch)
        batch += rng.sample(cluster, share) if share < len(cluster) else cluster
    return batch[:size]


@pytest.mark.parametrize(("size", "per_batch"), [(8, 1), (9, 2)])
def test_code_draws_as_the_published_loop(topics, size: int, per_batch: int) -> None:
    ours = _many(ByTopic(topics, size, per_batch, variant="code"), 300)
    rng = random.Random(0)
    theirs = [_as_matchmaker(rng, size, per_batch) for _ in range(len(ours))]
    assert {len(batch) for batch in ours} == {size}

    def statistics(batches: list[list[int]]) -> np.ndarray:
        topics_of = [Counter(_TOPIC[row] for row in batch) for batch in batches]
        with_a_twin = np.mean([len(set(batch)) < len(batch) for batch in batches])
        held = [np.mean([counts[topic] > 0 for counts in topics_of]) for topic in _SIZES]
        return np.array([with_a_twin, *held, *(np.mean([counts[t] == size for counts in topics_of]) for t in "bc")])

    one, other = statistics(ours), statistics(theirs)
    assert one[0] > 0.01  # a query twice in a batch: as published
    sigma = (np.maximum(one * (1 - one), 0.01) * 2 / len(ours)) ** 0.5
    assert (np.abs(one - other) < 5 * sigma).all(), (one, other)


def test_drop_last_and_too_few_queries(topics) -> None:
    shared = [[0] for _ in _QUERIES]  # all lists share a document: batches of one
    assert {len(batch) for batch in _plan(ByTopic(topics, 4), shared)} == {1}
    with pytest.raises(RecipeError, match="54 queries fill no batch of 4"):
        _plan(ByTopic(topics, 4, drop_last=True), shared)
    with pytest.raises(RecipeError, match="5 topics"):
        _plan(ByTopic(topics, 10, 5))


def test_queries_without_a_topic_are_left_out_and_said(topics, capsys) -> None:
    spec = ByTopic(topics, 2)
    plan = spec.plan(["x", "q0", "y", "q1"], lambda row: [row], seed=0, epoch=0)
    assert set(plan.order.tolist()) == {1, 3}
    assert "2 of 4 queries have no topic" in capsys.readouterr().err
    with pytest.raises(DataError, match="names none of the training queries"):
        spec.plan(["x"], lambda row: [row], seed=0, epoch=0)


def test_arguments_are_checked_and_no_file_touched() -> None:
    assert ByTopic("nowhere.tsv").files() == ("nowhere.tsv",)
    with pytest.raises(RecipeError, match="paper, code"):
        ByTopic("t.tsv", variant="cod")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="lower per_batch"):
        ByTopic("t.tsv", 4, 5)
    with pytest.raises(RecipeError, match="name a file"):
        ByTopic("")
    with pytest.raises(DataError, match=r"nowhere\.tsv"):
        ByTopic("nowhere.tsv").plan(["q"], lambda row: [row], seed=0, epoch=0)


def test_the_file_is_a_path_of_tests(topics) -> None:
    assert Path(topics).read_text().startswith("query-id\ttopic\nq0\ta\n")
