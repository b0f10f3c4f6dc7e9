"""Re-ranking: every ranker's own scores of a run's best documents, whatever the workers, chunks and interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import NonFiniteError, UsageError
from rankwright.models import Cross, Dense, Late
from rankwright.search import embed, rerank
from rankwright.types import Run, Texts

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
QUERIES = {"q1": "bread", "q2": "why does the moon have phases", "q3": "tea"}
DOCS = {f"d{i}": f"{word} " * (1 + 3 * i) for i, word in enumerate(["moon", "bread", "tea", "bees", "water", "sun"])}
RUN = Run.from_dict({
    "q1": {"d0": 9.0, "d1": 8.0, "d2": 7.0, "d3": 6.0},
    "q2": {"d5": 3.0, "d4": 2.0, "d0": 1.0},
    "q3": {"d2": 1.0},
})  # fmt: skip


class Rows:
    """Token rows of a few texts."""

    def __init__(self, texts: Texts, key: str) -> None:
        self._texts, self.key, self.lengths = texts, key, texts.lengths.numpy()

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, rows: np.ndarray) -> Texts:
        return self._texts.take(torch.from_numpy(rows))


def tokens(ranker):
    def of(side, ids):
        named = QUERIES if side == "query" else DOCS
        return Rows(ranker.tokenize([named[name] for name in ids], side), f"{side} {list(ids)}")

    return of


@pytest.fixture(scope="module")
def cross():
    return Cross(TINY, length=30).load(seed=4)


def plain(ranker, depth: int) -> dict[str, dict[str, float]]:
    """Each pair alone."""
    made: dict[str, dict[str, float]] = {}
    for query, docs, _ in RUN.ranked(depth):
        for doc in docs:
            with torch.no_grad():
                asked, text = ranker.tokenize([QUERIES[query]], "query"), ranker.tokenize([DOCS[doc]], "doc")
                if ranker.pairing is not None:
                    score = ranker.represent(ranker.pairing(asked, text), "doc").values
                else:
                    score = ranker.compare(ranker.represent(asked, "query"), ranker.represent(text, "doc"))
            made.setdefault(query, {})[doc] = float(score)
    return made


@pytest.mark.parametrize(
    "spec", [Cross(TINY, length=30), Dense(TINY), Late(TINY, dim=8)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("depth", [1, 3, 100])
def test_scores_are_those_of_each_pair_alone(spec, depth):
    ranker = spec.load(seed=4)
    found = rerank(ranker, RUN, tokens(ranker), depth=depth)
    expected = plain(ranker, depth)
    for query, docs, scores in found:
        assert {doc: pytest.approx(value, abs=2e-5) for doc, value in expected[query].items()} == dict(
            zip(docs, scores.tolist())
        )
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert list(found.queries) == list(RUN.queries)


def test_any_number_of_workers_gives_the_same_bits(cross):
    one, three = (rerank(cross, RUN, tokens(cross), workers=n, tokens_per_batch=40) for n in (1, 3))
    assert one.to_dict() == three.to_dict()


def test_the_tail_is_dropped_or_kept_in_its_order(cross):
    dropped, kept = (rerank(cross, RUN, tokens(cross), depth=2, tail=tail) for tail in ("drop", "keep"))
    assert [len(docs) for _, docs, _ in dropped] == [2, 2, 1]
    for (_, first, some), (_, docs, scores) in zip(dropped, kept):
        assert docs[: len(first)] == first
        assert scores[: len(some)].tolist() == some.tolist()
        assert (np.diff(scores) < 0).all()
    assert [docs[2:] for _, docs, _ in kept] == [["d2", "d3"], ["d0"], []]


def test_a_stopped_re_ranking_goes_on_where_it_was(cross, tmp_path, monkeypatch):
    expected = rerank(cross, RUN, tokens(cross), chunk=3, tokens_per_batch=40)
    joined, calls = type(cross).represent, []

    def failing(self, texts, side):
        calls.append(len(texts))
        if fail and len(calls) > fail:
            raise KeyboardInterrupt
        return joined(self, texts, side)

    monkeypatch.setattr(type(cross), "represent", failing)
    how = {"chunk": 3, "tokens_per_batch": 10**6, "folder": tmp_path / "scores", "workers": 1}
    fail = 2
    with pytest.raises(KeyboardInterrupt):
        rerank(cross, RUN, tokens(cross), **how)
    fail, calls = 0, []
    found = rerank(cross, RUN, tokens(cross), **how)
    assert sum(calls) == 8 - 2 * 3  # two chunks of three were there
    assert {q: list(d) for q, d in found.to_dict().items()} == {q: list(d) for q, d in expected.to_dict().items()}
    calls = []
    assert rerank(cross, RUN, tokens(cross), **how).to_dict() == found.to_dict()
    assert calls == []
    assert storage.verify(tmp_path / "scores", "pair-scores")
    other = Cross(TINY, length=30).load(seed=5)
    rerank(other, RUN, tokens(other), **how)
    assert sum(calls) == 8  # another model, other scores


def test_what_cannot_be_done_is_said(cross):
    with pytest.raises(UsageError, match="depth"):
        rerank(cross, RUN, tokens(cross), depth=0)
    with pytest.raises(UsageError, match="a cross-encoder reads pairs"):
        embed(cross, tokens(cross)("doc", ["d1"]), ids=["d1"], side="doc")
    broken = Cross(TINY, length=30).load()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="query 'q1' and document 'd0'"):
        rerank(broken, RUN, tokens(broken))
    assert len(rerank(cross, Run.from_dict({}), tokens(cross))) == 0
