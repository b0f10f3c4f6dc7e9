"""Exact MaxSim against float64 loops; token vectors on disk: restartable, gated, the same bytes for any workers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import ArtefactError, NonFiniteError, UsageError
from rankwright.search import LateIndex, TokenVectors, Vectors, embed, encode, exact_index, search_into
from rankwright.types import Reps, Run, Side, Texts

IDS = [f"d{i}" for i in range(60)]
SETTINGS = {"ids": IDS, "shard_rows": 16, "tokens_per_batch": 64}


class Ranker(torch.nn.Module):
    """A vector per token, which depends on its text's length; odd tokens are masked but for the first."""

    vectors_per_text, best_of = "many", 1

    def __init__(self) -> None:
        super().__init__()
        table = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
        self.table, self.calls, self.fail_at = torch.nn.Embedding.from_pretrained(table), 0, 10**9

    def represent(self, texts: Texts, side: Side) -> Reps:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        rows = list(texts.values.split(texts.lengths.tolist()))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = torch.arange(ids.shape[1]) < texts.lengths[:, None]
        values = self.table(ids) + texts.lengths[:, None, None] / 100
        values[ids == 49] = torch.nan
        mask = real & (ids % 2 == 0)
        mask[:, 0] = True
        return Reps(values * real[..., None], mask)

    def fingerprint(self, side: Side) -> str:
        return f"fake {side}"


class Tokens:
    """A token store in memory."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(1)
        self.lengths = rng.integers(1, 12, rows)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.values, self.key = rng.integers(0, 49, self.offsets[-1]), str(rows)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> Texts:
        return Texts(torch.from_numpy(self.values), torch.from_numpy(self.offsets)).take(torch.from_numpy(rows))


def expected(rows: int) -> list[np.ndarray]:
    ranker, tokens, made = Ranker(), Tokens(rows), []
    for row in range(rows):
        reps = ranker.represent(tokens.take(np.array([row])), "doc")
        made.append(reps.values[reps.mask].numpy())
    return made


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# --- encoding ---


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_holds_the_unmasked_tokens_of_every_text(tmp_path, dtype):
    made = encode(Ranker(), Tokens(60), tmp_path / "v", dtype=dtype, **SETTINGS)
    assert isinstance(made, TokenVectors)
    assert made.dim == 8
    for row, values in enumerate(expected(60)):
        assert np.array_equal(made.take(row), values.astype(dtype))
    padded = made.padded()
    assert padded.shape == (60, int(made.lengths.max()), 8)
    for row in range(60):
        assert np.array_equal(padded[row, : made.lengths[row]], made.take(row))
        assert not padded[row, made.lengths[row] :].any()
    assert made.max_norm == pytest.approx(max(np.linalg.norm(v, axis=1).max() for v in expected(60)), rel=1e-3)


def test_a_killed_encoding_goes_on_and_ends_in_the_same_bytes(tmp_path):
    encode(Ranker(), Tokens(60), tmp_path / "whole", workers=2, **SETTINGS)
    ranker = Ranker()
    ranker.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        encode(ranker, Tokens(60), tmp_path / "v", workers=1, **SETTINGS)
    again = Ranker()
    encode(again, Tokens(60), tmp_path / "v", workers=1, **SETTINGS)
    first = Ranker()
    encode(first, Tokens(60), tmp_path / "third", workers=1, **SETTINGS)
    assert again.calls < first.calls
    assert digests(tmp_path / "v") == digests(tmp_path / "whole")
    encode(unused := Ranker(), Tokens(60), tmp_path / "v", **SETTINGS)
    assert unused.calls == 0


def test_nan_is_named_and_not_written(tmp_path):
    tokens = Tokens(60)
    tokens.values[tokens.offsets[37]] = 49
    with pytest.raises(NonFiniteError, match="'d37'"):
        encode(Ranker(), tokens, tmp_path / "v", **SETTINGS)
    assert not (tmp_path / "v").exists()


def test_a_damaged_or_foreign_store_is_refused(tmp_path):
    encode(Ranker(), Tokens(60), tmp_path / "v", **SETTINGS)
    with pytest.raises(ArtefactError):
        Vectors.open(tmp_path / "v")
    path = tmp_path / "v" / "lengths-000001.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\x09\0\0\0")
    with pytest.raises(ArtefactError):
        TokenVectors.open(tmp_path / "v")
    values = np.zeros((3, 8), np.float32)
    for lengths in ([3, 0], [2, 2], [3]):
        with pytest.raises(UsageError):
            TokenVectors(["a", "b"], [(values, np.array(lengths))])


def test_blocks_cover_every_text_within_the_budget(tmp_path):
    made = encode(Ranker(), Tokens(60), tmp_path / "v", **SETTINGS)
    assert isinstance(made, TokenVectors)
    for budget in (1, 7, 30, 10**6):
        row = 0
        for first, (values, lengths) in made.blocks(budget):
            assert first == row
            assert len(values) == lengths.sum()
            assert len(values) <= budget or len(lengths) == 1
            assert np.array_equal(values[: lengths[0]], made.take(first))
            row += len(lengths)
        assert row == 60


# --- search ---


def store(rng: np.random.Generator, rows: int, *, shards: int = 3, dim: int = 6) -> TokenVectors:
    made = []
    for part in np.array_split(np.arange(rows), shards):
        lengths = rng.integers(1, 9, len(part))
        made.append((rng.normal(size=(int(lengths.sum()), dim)).astype(np.float32), lengths))
    return TokenVectors([f"d{i}" for i in range(rows)], made)


def queries_of(rng: np.random.Generator, rows: int, dim: int = 6) -> np.ndarray:
    queries = rng.normal(size=(rows, 5, dim)).astype(np.float32)
    queries[0, 3:] = 0  # a shorter one
    return queries


def brute(vectors: TokenVectors, queries: np.ndarray) -> np.ndarray:
    """float64 [q, docs]."""
    docs, wide = [vectors.take(row).astype(np.float64) for row in range(len(vectors))], queries.astype(np.float64)
    return np.array([[(query @ doc.T).max(1).sum() for doc in docs] for query in wide])


@pytest.mark.parametrize("block_tokens", [1, 13, None])
def test_the_best_are_those_of_a_loop_in_float64(block_tokens):
    rng = np.random.default_rng(0)
    vectors, queries = store(rng, 80), queries_of(rng, 7)
    run = LateIndex(vectors, block_tokens=block_tokens).search(queries, [f"q{i}" for i in range(7)], k=10)
    scores = brute(vectors, queries)
    for row, (_, docs, found) in enumerate(run):
        best = sorted(range(80), key=lambda d: (scores[row, d], f"d{d}"), reverse=True)[:10]
        assert docs == [f"d{d}" for d in best]
        assert np.abs(found - scores[row, best]).max() <= 1e-12


def test_ties_go_by_document_id_descending():
    values = np.ones((6, 2), np.float32)
    vectors = TokenVectors(["b", "a", "d", "c"], [(values, np.array([1, 2, 2, 1]))])
    run = LateIndex(vectors).search(np.ones((1, 3, 2), np.float32), ["q"], k=3)
    assert [docs for _, docs, _ in run] == [["d", "c", "b"]]


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (3e-5, 1.0, 4e6)])  # vectors of Late with similarity: dot
def test_near_ties_are_decided_in_float64(scales):
    rng = np.random.default_rng(2)
    base = (rng.normal(size=(3, 16)) * np.array(scales)[:, None]).astype(np.float32)
    docs = [(base * (1 + 1e-7 * rng.normal(size=base.shape))).astype(np.float32) for _ in range(200)]
    vectors = TokenVectors([f"d{i:03}" for i in range(200)], [(np.concatenate(docs), np.full(200, 3))])
    queries = rng.normal(size=(20, 4, 16)).astype(np.float32)
    run = LateIndex(vectors, block_tokens=50).search(queries, list("abcdefghijklmnopqrst"), k=5)
    scores = brute(vectors, queries)
    for row, (_, docs_found, _) in enumerate(run):
        best = sorted(range(200), key=lambda d: (scores[row, d], d), reverse=True)[:5]
        assert docs_found == [f"d{d:03}" for d in best]


def test_scores_of_a_run_are_those_of_the_search_bit_for_bit():
    rng = np.random.default_rng(3)
    vectors, queries = store(rng, 70), queries_of(rng, 4)
    index, ids = LateIndex(vectors), [f"q{i}" for i in range(4)]
    found = index.search(queries, ids, k=20)
    pairs = [(q, d, 0.0) for q, docs, _ in found for d in sorted(docs)]
    shuffled = Run.from_rows(*zip(*pairs))
    again = index.score(queries, ids, pairs=shuffled).to_dict()
    assert again == found.to_dict()
    some = Run.from_dict({"q2": {"d5": 1.0, "absent": 2.0}, "other": {"d1": 1.0}})
    alone = index.score(queries, ids, pairs=some).to_dict()
    assert list(alone["q2"]) == ["d5"]
    assert alone["q2"]["d5"] == pytest.approx(brute(vectors, queries)[2, 5], rel=1e-12)


def test_a_search_into_a_folder_goes_on(tmp_path):
    rng = np.random.default_rng(4)
    vectors, queries = store(rng, 50), queries_of(rng, 6)
    index, ids = exact_index(vectors), [f"q{i}" for i in range(6)]
    whole = search_into(tmp_path / "r", index, queries=queries, query_ids=ids, k=7, chunk_queries=2)
    assert whole.to_dict() == index.search(queries, ids, k=7).to_dict()
    assert storage.verify(tmp_path / "r", "ranking")


@pytest.mark.parametrize("queries", [np.ones((1, 6), np.float32), np.ones((1, 2, 5), np.float32), np.ones((1, 2, 6))])
def test_queries_of_another_shape_are_refused(queries):
    with pytest.raises(UsageError, match="tokens of 6 dimensions"):
        LateIndex(store(np.random.default_rng(0), 9)).search(queries, ["q"], k=1)


def test_a_query_with_nan_is_named():
    queries = np.ones((2, 2, 6), np.float32)
    queries[1, 0, 3] = np.nan
    with pytest.raises(NonFiniteError, match="'b'"):
        LateIndex(store(np.random.default_rng(0), 9)).search(queries, ["a", "b"], k=1)


def test_embedded_queries_find_the_text_they_are():
    vectors = embed(Ranker(), Tokens(30), ids=[f"d{i}" for i in range(30)], side="doc")
    assert isinstance(vectors, TokenVectors)
    assert vectors.fingerprint
    queries = vectors.padded()
    scores = brute(vectors, queries)
    run = exact_index(vectors).search(queries, [f"q{i}" for i in range(30)], k=1)
    for row, (_, docs, _) in enumerate(run):
        assert scores[row, int(docs[0][1:])] == scores[row].max()
