"""Re-ranking: every ranker's own scores of a run's best documents, whatever the workers, chunks and interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import NonFiniteError, UsageError
from rankwright.models import Cross, Dense, Late
from rankwright.search import Fuse, embed, rerank, rerank_together
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


@pytest.mark.parametrize("spec", [None, Fuse("sum", "z-score", (0.25, 0.75)), Fuse("max", "rank"), Fuse("rrf", k=3)])
def test_an_ensemble_is_its_rankers_fused(spec):
    """Against plain Python over each ranker's own scores of the same documents."""
    rankers = [Cross(TINY, length=30).load(seed=4), Dense(TINY).load(seed=5)]
    found = rerank_together(iter(rankers), RUN, tokens, spec, depth=3)
    alone = [rerank(ranker, RUN, tokens(ranker), depth=3).to_dict() for ranker in rankers]
    spec = spec or Fuse("sum")
    for query, docs, scores in found:
        parts = [normalised(some[query], spec) for some in alone]
        combined = {doc: [part[doc] for part in parts] for doc in docs}
        weigh = [w * 1.0 for w in spec.weights or (1, 1)]
        expected = {
            doc: max(some) if spec.method == "max" else sum(w * s for w, s in zip(weigh, some))
            for doc, some in combined.items()
        }
        assert dict(zip(docs, scores.tolist())) == {doc: pytest.approx(value) for doc, value in expected.items()}
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert len(docs) == min(3, len(RUN.to_dict()[query]))
    assert list(found.queries) == list(RUN.queries)


def normalised(scores: dict[str, float], spec: Fuse) -> dict[str, float]:
    order = sorted(scores, key=lambda doc: -scores[doc])
    if spec.method == "rrf":
        return {doc: 1 / (spec.k + place) for place, doc in enumerate(order, start=1)}
    if spec.norm == "rank":
        return {doc: 1 - place / len(order) for place, doc in enumerate(order)}
    values = np.array(list(scores.values()))
    zero, unit = (values.mean(), values.std()) if spec.norm == "z-score" else (values.min(), np.ptp(values))
    return {doc: float((value - zero) / max(unit, 1e-9)) for doc, value in scores.items()}


def test_an_ensemble_keeps_the_tail_and_goes_on_where_it_was(cross, tmp_path, monkeypatch):
    other, calls = Cross(TINY, length=30).load(seed=5), []
    how = {"depth": 2, "tail": "keep", "folder": tmp_path / "scores"}
    found = rerank_together([cross, other], RUN, tokens, **how)
    assert [docs[2:] for _, docs, _ in found] == [["d2", "d3"], ["d0"], []]
    assert all((np.diff(scores) <= 0).all() for _, _, scores in found)  # of two documents each may be one's first
    assert all((scores[2:] < scores[:2].min()).all() for _, _, scores in found)
    monkeypatch.setattr(type(cross), "represent", lambda self, texts, side: calls.append(len(texts)))
    assert rerank_together([cross, other], RUN, tokens, **how).to_dict() == found.to_dict()
    assert calls == []
    with pytest.raises(UsageError, match="two runs or more"):
        rerank_together([cross], RUN, tokens, depth=2, folder=tmp_path / "scores")
    with pytest.raises(UsageError, match="3 weights for 2"):
        rerank_together([cross, other], RUN, tokens, Fuse("sum", weights=(1, 2, 3)), **how)


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
    assert len(rerank(cross, Run.from_dict({}), tokens(cross), tail="keep")) == 0
    assert len(rerank_together([cross, cross], Run.from_dict({}), tokens, tail="keep")) == 0
