"""Encoding: the same bytes whatever the interruption or the number of workers; gates; memory."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.errors import DataError, NonFiniteError, ResourceError, Stopped, UsageError
from rankwright.search import Vectors, embed, encode
from rankwright.search.encode import micro_batches
from rankwright.types import Reps, Side, Texts


class Ranker(torch.nn.Module):
    """Mean of token embeddings through a padded linear layer; `spell` is called with each micro-batch's texts."""

    vectors_per_text = "one"

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        table = torch.from_numpy(np.random.default_rng(0).standard_normal((97, dim)).astype(np.float32))
        self.table, self.layer = torch.nn.Embedding.from_pretrained(table), torch.nn.Linear(dim, dim)
        torch.nn.init.orthogonal_(self.layer.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.layer.bias)
        self.drop, self.batches = torch.nn.Dropout(0.5), []

    def spell(self, texts: Texts) -> None:
        """Tests put their accident here."""

    def represent(self, texts: Texts, side: Side) -> Reps:
        assert not torch.is_grad_enabled()
        self.batches.append(texts.lengths.tolist())
        self.spell(texts)
        padded = torch.nn.utils.rnn.pad_sequence(list(texts.values.split(texts.lengths.tolist())), batch_first=True)
        mask = torch.arange(padded.shape[1]) < texts.lengths.unsqueeze(1)
        states = torch.relu(self.layer(self.table(padded))) * mask.unsqueeze(2)
        values = self.drop(states.sum(1) / texts.lengths.unsqueeze(1))
        values[(texts.values[texts.offsets[:-1]] == 96)] = torch.nan
        return Reps(values.unsqueeze(1), torch.ones(len(texts), 1, dtype=torch.bool))

    def fingerprint(self, side: Side) -> str:
        return f"fake {side}"


class Tokens:
    """A token store in memory."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = rng.integers(1, 40, rows)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.values, self.key = rng.integers(0, 96, self.offsets[-1]), f"{rows} {seed}"

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> Texts:
        return Texts(torch.from_numpy(self.values), torch.from_numpy(self.offsets)).take(torch.from_numpy(rows))


IDS = [f"d{i}" for i in range(100)]
SETTINGS = {"ids": IDS, "shard_rows": 16, "tokens_per_batch": 128}


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encode") / "whole"
    encode(Ranker(), Tokens(100), folder, **SETTINGS)
    return folder


def expected(rows: int = 100) -> np.ndarray:
    ranker, tokens = Ranker().eval().double(), Tokens(rows)
    with torch.no_grad():
        parts = [ranker.represent(tokens.take(np.array([i])), "doc").values[0] for i in range(rows)]
    return torch.cat(parts).numpy()


def test_vectors_are_those_of_the_ranker_in_row_order(whole):
    vectors = Vectors.open(whole)
    assert np.allclose(vectors.take(np.arange(100)), expected(), rtol=0, atol=1e-6)
    assert vectors.dim == 16
    assert list(vectors.ids) == IDS
    assert [start for start, _ in vectors.blocks(1000)] == list(range(0, 100, 16))
    assert vectors.max_norm == pytest.approx(np.linalg.norm(expected(), axis=1).max(), rel=1e-6)


def test_the_same_key_is_reused_without_work(whole):
    ranker = Ranker()
    encode(ranker, Tokens(100), whole, **SETTINGS)
    assert ranker.batches == []


@pytest.mark.parametrize("change", ["ranker", "tokens", "ids", "dtype", "side"])
def test_anything_that_decides_the_vectors_is_in_the_key(tmp_path, change):
    encode(Ranker(), Tokens(100), tmp_path / "v", **SETTINGS)
    ranker, asked = Ranker(), dict(SETTINGS)
    if change == "ranker":
        ranker.fingerprint = lambda side: "another"
    elif change == "ids":
        asked["ids"] = [*IDS[:-1], "other"]
    elif change != "tokens":
        asked |= {"dtype": {"dtype": "float16"}, "side": {"side": "query"}}[change]
    encode(ranker, Tokens(100, seed=int(change == "tokens")), tmp_path / "v", **asked)
    assert sum(map(len, ranker.batches)) == 100


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_bytes_do_not_depend_on_workers_or_threads(tmp_path, whole, workers):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        encode(Ranker(), Tokens(100), tmp_path / "v", workers=workers, **SETTINGS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert digests(tmp_path / "v") == digests(whole)


class Accident(Exception):
    """Stands for whatever ends an encoding."""


@pytest.mark.parametrize("batches", [0, 1, 4, 9, 20])
def test_an_interrupted_encoding_goes_on_and_ends_in_the_same_bytes(tmp_path, whole, batches):
    ranker = Ranker()

    def fail(texts: Texts) -> None:
        if len(ranker.batches) > batches:
            raise Accident

    ranker.spell = fail
    with pytest.raises(Accident):
        encode(ranker, Tokens(100), tmp_path / "v", workers=1, **SETTINGS)
    finished = len(list((tmp_path / ".v.draft").glob("vectors-*.npy")))
    again = Ranker()
    encode(again, Tokens(100), tmp_path / "v", **SETTINGS)
    assert digests(tmp_path / "v") == digests(whole)
    assert sum(map(len, again.batches)) == 100 - 16 * finished  # finished shards are not done again
    assert finished == {0: 0, 1: 0, 4: 1, 9: 2, 20: 5}[batches]


def test_a_killed_encoding_goes_on_and_ends_in_the_same_bytes(tmp_path, whole):
    child = subprocess.run([sys.executable, __file__, str(tmp_path / "v")], capture_output=True, timeout=100)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not (tmp_path / "v").exists()
    assert len(list((tmp_path / ".v.draft").glob("vectors-*.npy"))) == 3
    ranker = Ranker()
    encode(ranker, Tokens(100), tmp_path / "v", **SETTINGS)
    assert sum(map(len, ranker.batches)) == 100 - 48
    assert digests(tmp_path / "v") == digests(whole)


def die_in_the_fourth_shard(folder: Path) -> None:
    ranker = Ranker()

    def kill(texts: Texts) -> None:
        if sum(map(len, ranker.batches)) > 50:
            os.kill(os.getpid(), signal.SIGKILL)

    ranker.spell = kill
    encode(ranker, Tokens(100), folder, workers=1, **SETTINGS)


def test_a_signal_stops_between_micro_batches(tmp_path, monkeypatch):
    from rankwright import signals

    ranker, state = Ranker().train(), {"stop": False}
    monkeypatch.setattr(signals._requested, "is_set", lambda: state["stop"])
    ranker.spell = lambda texts: state.update(stop=len(ranker.batches) > 8)
    with pytest.raises(Stopped):
        encode(ranker, Tokens(100), tmp_path / "v", workers=1, **SETTINGS)
    assert not (tmp_path / "v").exists()
    assert ranker.training  # as it came
    assert len(ranker.batches) < 14


def test_a_bad_vector_stops_before_its_shard_is_written(tmp_path):
    tokens = Tokens(100)
    for row in (37, 40):
        tokens.values[tokens.offsets[row]] = 96
    with pytest.raises(NonFiniteError, match=r"'d37', shard:row 2:5, holds NaN or infinity \(1 more"):
        encode(Ranker(), tokens, tmp_path / "v", **SETTINGS)
    written = sorted(path.name for path in (tmp_path / ".v.draft").glob("vectors-*"))
    assert written == ["vectors-000000.npy", "vectors-000001.npy"]
    with pytest.raises(NonFiniteError, match="'d37'"):
        embed(Ranker(), tokens, ids=IDS, side="doc")


def test_what_float16_cannot_hold_is_refused(tmp_path):
    ranker = Ranker()
    ranker.layer.weight.data *= 1e6
    with pytest.raises(NonFiniteError, match=r"shard:row 0:\d+, holds(.|\n)*need dtype float32"):
        encode(ranker, Tokens(100), tmp_path / "v", dtype="float16", **SETTINGS)


def test_half_precision_halves_the_files(tmp_path):
    vectors = encode(Ranker(), Tokens(100), tmp_path / "v", dtype="float16", **SETTINGS)
    assert np.array_equal(vectors.take(np.arange(100)), Vectors.open(tmp_path / "v").take(np.arange(100)))
    assert np.allclose(vectors.take(np.arange(100)).astype(np.float64), expected(), rtol=1e-3, atol=1e-3)
    assert vectors.take(np.array([3])).dtype == np.float16


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("[..] can't allocate memory")]
)
def test_out_of_memory_halves_the_micro_batch_and_only_that(tmp_path, error):
    ranker = Ranker()

    def fail(texts: Texts) -> None:
        if len(texts) > 1:
            raise error

    ranker.spell = fail
    vectors = encode(ranker, Tokens(100), tmp_path / "v", **SETTINGS)
    assert np.allclose(vectors.take(np.arange(100)), expected(), rtol=0, atol=1e-6)

    def always(texts: Texts) -> None:
        raise error

    ranker.spell = always
    with pytest.raises(ResourceError, match="no memory to encode row"):
        encode(ranker, Tokens(100), tmp_path / "w", **SETTINGS)


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(tmp_path):
    ranker = Ranker()

    def fail(texts: Texts) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    ranker.spell = fail
    with pytest.raises(RuntimeError, match="mat1"):
        encode(ranker, Tokens(100), tmp_path / "v", **SETTINGS)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(UsageError, match="99 ids for 100"):
        encode(Ranker(), Tokens(100), tmp_path / "v", ids=IDS[:99])
    with pytest.raises(DataError, match="'d0' occurs twice"):
        encode(Ranker(), Tokens(100), tmp_path / "v", ids=[*IDS[:99], "d0"])
    with pytest.raises(UsageError, match="nothing to encode"):
        encode(Ranker(), Tokens(0), tmp_path / "v", ids=[])
    with pytest.raises(UsageError, match="shard_rows"):
        encode(Ranker(), Tokens(100), tmp_path / "v", ids=IDS, shard_rows=0)
    with pytest.raises(UsageError, match="int8"):
        encode(Ranker(), Tokens(100), tmp_path / "v", ids=IDS, dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_embed_gives_the_vectors_in_memory(whole):
    vectors = embed(Ranker(), Tokens(100), ids=IDS, side="doc", tokens_per_batch=128)
    assert np.allclose(vectors.take(np.arange(100)), expected(), rtol=0, atol=1e-6)
    assert vectors.take(np.array([1])).dtype == np.float32


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_micro_batches_keep_the_padded_cost_within_the_budget(lengths, budget):
    array = np.array(lengths, np.int64)
    batches = micro_batches(array, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], None]):
        longest = max(1, int(array[batch].max()))
        assert len(batch) == 1 or len(batch) * longest <= budget
        if following is not None:
            assert (len(batch) + 1) * longest > budget  # no batch is needlessly small
            assert array[batch].min() >= array[following].max()  # sorted by length


def test_disk_space_is_asked_for_before_the_first_shard_is_written(tmp_path, monkeypatch):
    asked = []

    def full(path, size):
        asked.append(size)
        raise ResourceError("no space", where=path)

    monkeypatch.setattr(storage, "require_space", full)
    with pytest.raises(ResourceError):
        encode(Ranker(), Tokens(100), tmp_path / "v", **SETTINGS)
    assert asked == [100 * 16 * 4]


if __name__ == "__main__":
    die_in_the_fourth_shard(Path(sys.argv[1]))
