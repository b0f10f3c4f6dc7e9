"""Documents in chunks: windows against a list, every ranker against its own short texts, gradients and folders."""

from __future__ import annotations

import json
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.errors import ArtefactError, RecipeError, UsageError
from rankwright.models import Chunks, Cross, Dense, Late, load
from rankwright.models.windows import best_mean, score_chunks, windows
from rankwright.types import Texts

LONG = "the moon raises the tides of the sea and bread is made of water in the rain "
TEXTS = [LONG * 5, "tea", "bicycle brakes make a noise in the rain " * 9, LONG]


def by_hand(ids: list[int], prefix: int, suffix: int, length: int, overlap: int) -> list[list[int]]:
    """The windows of one text, as a list of lists."""
    if len(ids) <= length:
        return [ids]
    head, body, tail = ids[:prefix], ids[prefix : len(ids) - suffix], ids[len(ids) - suffix :]
    room, made, start = length - prefix - suffix, [], 0
    while True:
        made.append(head + body[start : start + room] + tail)
        if start + room >= len(body):
            return made
        start += max(room - overlap, (room + 1) // 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=5), prefix=st.integers(0, 9), suffix=st.integers(0, 1),
    length=st.integers(20, 40), overlap=st.integers(0, 10),
)  # fmt: skip
def test_windows_are_those_of_a_list(lengths, prefix, suffix, length, overlap):
    lengths = [max(n, prefix + suffix + 1) for n in lengths]
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    texts = Texts(torch.arange(int(offsets[-1])), offsets, torch.arange(len(lengths)))
    parts, counts = windows(texts, Chunks(length, overlap), prefix=prefix, suffix=suffix)
    expected = [by_hand(texts.values[a:b].tolist(), prefix, suffix, length, overlap) for a, b in pairwise(offsets)]
    assert counts.tolist() == list(map(len, expected))
    flat = [window for windows in expected for window in windows]
    assert [parts.take(torch.tensor([i])).values.tolist() for i in range(len(parts))] == flat
    assert parts.keys is not None
    assert parts.keys[torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])].tolist() == list(range(len(lengths)))
    assert len(set(parts.keys.tolist())) == len(parts)


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(score="mean"), Chunks(score="top", top=2)])
def test_scores_of_chunks_are_numpys(chunks):
    values, counts = np.random.default_rng(0).normal(size=9), [4, 1, 3, 1]
    parts = np.split(values, np.cumsum(counts)[:-1])
    own = {"max": np.max, "mean": np.mean, "top": lambda part: np.sort(part)[-2:].mean()}[chunks.score]
    made = score_chunks(torch.from_numpy(values), torch.tensor(counts), chunks).numpy()
    assert np.abs(made - [own(part) for part in parts]).max() < 1e-12
    assert best_mean(torch.full((2, 3), -torch.inf), 2).tolist() == [-torch.inf] * 2


def pieces(ranker, text: str, chunks: Chunks) -> Texts:
    """Each chunk of a text as a text of its own."""
    texts = ranker.tokenize([text], "doc")
    ids = by_hand(texts.values.tolist(), 1, 1, chunks.length, chunks.overlap)
    return Texts(torch.tensor(list(chain(*ids))), torch.tensor([0, *np.cumsum(list(map(len, ids)))]))


@pytest.mark.parametrize("score", ["max", "mean", "top"])
def test_a_dense_document_scores_as_its_chunks_do(score, tiny_model, tmp_path):
    chunks = Chunks(24, 6, score, 2)
    ranker = Dense(str(tiny_model), chunks=chunks).load(dtype="float64")
    plain = load(tiny_model, dtype="float64")
    assert ranker.limits == {"query": 64, "doc": 8192}
    with torch.no_grad():
        query = ranker.represent(ranker.tokenize(["does the sea rise?", "bread"], "query"), "query")
        docs = ranker.represent(ranker.tokenize(TEXTS, "doc"), "doc")
        made = ranker.compare(query, docs).numpy()
        pairs = ranker.compare(query, docs, pairs=torch.tensor([[1, 3], [0, 2]])).numpy()
        for column, text in enumerate(TEXTS):
            vectors = plain.represent(pieces(ranker, text, chunks), "doc").values[:, 0]
            scores = np.sort((query.values[:, 0] @ vectors.T).numpy(), axis=1)
            own = {"max": scores[:, -1], "mean": scores.mean(1), "top": scores[:, -2:].mean(1)}[score]
            assert np.abs(made[:, column] - own).max() < 1e-9
    assert np.abs(pairs - np.stack([made[0, [1, 3]], made[1, [0, 2]]])).max() < 1e-12
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    again = load(tmp_path / "saved", dtype="float64")
    assert again.limits == ranker.limits
    assert again.fingerprint("doc") == ranker.fingerprint("doc") != plain.fingerprint("doc")
    assert again.fingerprint("query") == plain.fingerprint("query")


@pytest.mark.parametrize("score", ["max", "mean", "top"])
def test_search_finds_what_compare_says(score, tiny_model, tmp_path):
    from rankwright.data import TokenStore
    from rankwright.search import embed, encode, exact_index

    ranker = Dense(str(tiny_model), chunks=Chunks(24, 6, score, 2)).load()
    store = TokenStore.build(
        tmp_path / "t", TEXTS, lambda texts: ranker.tokenize(texts, "doc"), key="k", vocabulary=282
    )
    asked = TokenStore.build(tmp_path / "q", ["tides", "tea"], lambda texts: ranker.tokenize(texts, "query"), key="q",
                             vocabulary=282)  # fmt: skip
    ids, made = ["a", "b", "c", "d"], {}
    made["memory"] = embed(ranker, store, ids=ids, side="doc")
    encode(ranker, store, tmp_path / "v", ids=ids)
    from rankwright.assemble import open_vectors

    made["folder"] = open_vectors(tmp_path / "v")
    found = embed(ranker, asked, ids=["1", "2"], side="query")
    queries = found.take(np.arange(2)) if score == "mean" else found.padded()
    with torch.no_grad():
        q, d = (ranker.represent(ranker.tokenize(t, s), s) for t, s in ((["tides", "tea"], "query"), (TEXTS, "doc")))
        expected = ranker.compare(q, d).numpy()
    for vectors in made.values():
        run = exact_index(vectors).search(queries, ["1", "2"], k=4).to_dict()
        for row, query in enumerate(("1", "2")):
            assert np.abs([run[query][doc] - expected[row, i] for i, doc in enumerate(ids)]).max() < 1e-5
            assert list(run[query]) == [ids[i] for i in np.argsort(-expected[row])]


def test_late_interaction_matches_the_tokens_of_all_chunks(tiny_model, tmp_path):
    chunks = Chunks(24, 6)
    ranker = Late(str(tiny_model), query_length=12, doc_length=200, chunks=chunks, skiplist=()).load(dtype="float64")
    plain = Late(str(tiny_model), query_length=12, doc_length=90, skiplist=()).load(dtype="float64")
    texts = ranker.tokenize(TEXTS, "doc")
    with torch.no_grad():
        query = ranker.represent(ranker.tokenize(["does the sea rise?"], "query"), "query")
        made = ranker.compare(query, ranker.represent(texts, "doc"))[0].numpy()
        for row in range(len(TEXTS)):
            ids = by_hand(texts.take(torch.tensor([row])).values.tolist(), 2, 1, 24, 6)
            parts = [plain.represent(Texts(torch.tensor(i), torch.tensor([0, len(i)])), "doc").values[0] for i in ids]
            best = (query.values[0] @ torch.cat(parts).T).amax(1).sum()
            assert abs(made[row] - float(best)) < 1e-9
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    assert load(tmp_path / "saved", dtype="float64").fingerprint("doc") == ranker.fingerprint("doc")
    with pytest.raises(RecipeError, match="not for token vectors"):
        Late(str(tiny_model), chunks=Chunks(score="mean"))


@pytest.mark.parametrize("score", ["max", "mean", "top"])
def test_a_cross_encoder_scores_the_query_with_each_chunk(score, tiny_model, tmp_path):
    chunks = Chunks(32, 8, score, 2)
    ranker = Cross(str(tiny_model), chunks=chunks).load(dtype="float64")
    plain = Cross(str(tiny_model), length=96).load(dtype="float64")
    queries, docs = ranker.tokenize(["does the sea rise?"] * 4, "query"), ranker.tokenize(TEXTS, "doc")
    pairs = ranker.join(queries, docs)
    assert pairs.second is not None
    with torch.no_grad():
        made = ranker.represent(pairs, "doc").values[:, 0, 0].numpy()
        for row in range(4):
            ids = by_hand(pairs.take(torch.tensor([row])).values.tolist(), int(pairs.second[row]), 1, 32, 8)
            assert row == 1 or len(ids) > 1 or len(ids[0]) <= 32
            parts = Texts(torch.tensor(list(chain(*ids))), torch.tensor([0, *np.cumsum(list(map(len, ids)))]))
            scores = np.sort(plain.represent(parts, "doc").values[:, 0, 0].numpy())
            own = {"max": scores[-1], "mean": scores.mean(), "top": scores[-2:].mean()}[score]
            assert abs(made[row] - own) < 1e-9
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    again = load(tmp_path / "saved", dtype="float64")
    assert again.join == ranker.join
    assert again.fingerprint("doc") == ranker.fingerprint("doc")


@pytest.mark.parametrize("kind", ["max", "top", "mean", "late", "cross"])
def test_training_in_micro_batches_has_the_gradient_of_the_whole(kind, tiny_model):
    """Dropout on: a window's masks belong to the text and its place in it."""
    chunks = Chunks(24, 6, kind if kind in ("top", "mean") else "max", 2)
    if kind == "cross":
        ranker = Cross(str(tiny_model), chunks=chunks, dropout=0.1).load(dtype="float64")
    elif kind == "late":
        ranker = Late(str(tiny_model), query_length=8, doc_length=150, chunks=chunks, dropout=0.1).load(dtype="float64")
    else:
        ranker = Dense(str(tiny_model), chunks=chunks, dropout=0.1).load(dtype="float64")
    ranker.train()
    texts = ranker.tokenize(TEXTS, "doc")
    if ranker.pairing is not None:
        texts = ranker.pairing(ranker.tokenize(["tides"] * 4, "query"), texts)
    texts = texts.with_keys(torch.tensor([11, 12, 13, 14]))
    whole = ranker.represent(texts, "doc")
    for row in range(4):
        alone = ranker.represent(texts.take(torch.tensor([row])), "doc")
        assert (alone.values[0][alone.mask[0]] - whole.values[row][whole.mask[row]]).abs().max() < 1e-12


@pytest.mark.parametrize("given", [{"length": 8}, {"overlap": -1}, {"overlap": 200}, {"score": "sum"}, {"top": 0}])
def test_chunks_out_of_range_are_refused(given):
    with pytest.raises(RecipeError):
        Chunks(**given)


def test_damaged_chunks_of_a_folder_are_refused(tiny_model, tmp_path):
    with storage.publish(tmp_path / "saved", "model") as draft:
        Dense(str(tiny_model), chunks=Chunks(24, 6)).load().save(draft.path)
    (tmp_path / "saved" / storage.MANIFEST).unlink()
    path = tmp_path / "saved" / "rankwright.json"
    for chunks in ({"length": 24, "by": 6}, {"length": "24"}, {"length": 24, "overlap": 30}):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chunks": chunks}))
        with pytest.raises(ArtefactError, match="states chunks"):
            load(tmp_path / "saved")


def test_a_long_query_makes_no_thousand_chunks():
    texts = Texts(torch.arange(4000), torch.tensor([0, 4000]))
    _, few = windows(texts, Chunks(256, 128), prefix=2, suffix=1)
    _, many = windows(texts, Chunks(256, 128), prefix=126, suffix=1)
    assert few.tolist() == [31]
    assert many.tolist() == [59]


def test_a_chunk_must_fit_the_positions(tiny_model):
    with pytest.raises(RecipeError, match="positions for 96 tokens"):
        Dense(str(tiny_model), chunks=Chunks(128)).load()


@pytest.mark.parametrize("kind", [Dense, Late])
def test_another_reader_has_the_vectors_of_a_chunk(kind, tiny_model, tmp_path):
    """Also from a folder of ours whose documents were short: they are whole documents then."""
    pytest.importorskip("sentence_transformers")
    from rankwright.models import export, verify_export

    first = export(kind(str(tiny_model), doc_length=20).load(), tmp_path / "short")
    ranker = kind(str(first), chunks=Chunks(24, 6)).load()
    assert ranker.limits["doc"] == 8192
    folder = export(ranker, tmp_path / "model")
    assert load(folder).limits == ranker.limits
    assert {check.verdict for check in verify_export(folder, TEXTS)} <= {"equal", "not installed"}


def test_another_reader_scores_the_pairs_that_fit_a_chunk(tiny_model, tmp_path):
    pytest.importorskip("sentence_transformers")
    from rankwright.models import export, verify_export

    folder = export(Cross(str(tiny_model), chunks=Chunks(32, 6)).load(), tmp_path / "model")
    checks = verify_export(folder, ["a short text", "another", " ".join(["long"] * 60)])
    assert {check.verdict for check in checks} <= {"equal", "not installed"}
    with pytest.raises(UsageError, match="no pair of the sample fits a chunk of 32 tokens"):
        verify_export(folder, [" ".join(["long"] * 60), " ".join(["longer"] * 60)])
