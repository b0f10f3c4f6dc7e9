"""BM25 against a float64 reference written here, and against published figures."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import ArtefactError, DataError, RecipeError
from rankwright.search import BM25, LexicalIndex, search_into
from rankwright.search import lexical as module
from rankwright.search.index import DocIds
from rankwright.types import Qrels

DATA = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["cell", "cells", "the", "gene", "DNA", "p53", "running", "runs", "of", "tumour"]
PLAIN = BM25(stem=False, stop_words=False)


def terms(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def reference(docs: list[str], query: str, k1: float, b: float) -> list[float]:
    """Robertson's BM25 with Lucene's idf, without the constant factor k1 + 1 (Lucene 8 and later)."""
    split = [terms(doc) for doc in docs]
    average = sum(map(len, split)) / len(split)
    scores = [0.0] * len(docs)
    for term in terms(query):
        containing = sum(term in doc for doc in split)
        idf = math.log(1 + (len(docs) - containing + 0.5) / (containing + 0.5))
        for i, doc in enumerate(split):
            if count := Counter(doc)[term]:
                scores[i] += idf * count / (count + k1 * (1 - b + b * len(doc) / average))
    return scores


texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=12).filter(any), st.lists(texts, min_size=1, max_size=3),
    st.floats(0.1, 3), st.floats(0, 1), st.integers(1, 14),
)  # fmt: skip
def test_scores_and_order_are_those_of_the_formula(tmp_path_factory, docs, queries, k1, b, k):
    ids = [f"d{i}" for i in range(len(docs))]
    spec = BM25(k1=k1, b=b, stem=False, stop_words=False)
    index = spec.build(tmp_path_factory.mktemp("bm25") / "i", ids, docs, key="")
    names = [f"q{i}" for i in range(len(queries))]
    run = index.search(queries, names, k=k)
    assert list(run.queries) == names
    for (_, found, scores), query in zip(run, queries):
        expected = dict(zip(ids, reference(docs, query, k1, b)))
        hits = sorted((d for d in ids if expected[d] > 0), key=lambda d: expected[d], reverse=True)
        assert len(found) == min(k, len(hits))  # nothing that shares no word with the query
        for doc, score in zip(found, scores):
            assert score == pytest.approx(expected[doc], rel=1e-5)
        assert np.allclose(scores, [expected[d] for d in hits[:k]], rtol=1e-5)
        assert found == [d for _, d in sorted(zip(scores.tolist(), found), reverse=True)]
    pairs = Qrels.from_dict({name: dict.fromkeys(ids, 1) for name in names[::-1]})
    for name, docs_scored in index.score(queries, names, pairs=pairs).to_dict().items():
        expected = dict(zip(ids, reference(docs, queries[names.index(name)], k1, b)))
        assert docs_scored == pytest.approx(expected, rel=1e-5)


def test_ties_are_cut_by_id(tmp_path):
    ids = ["b", "a", "é", "c"]
    index = PLAIN.build(tmp_path / "i", ids, ["gene"] * 4, key="")
    assert next(iter(index.search(["gene"], ["q"], k=3)))[1] == ["é", "c", "b"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_best_is_trec_evals_order(docs, queries, k, grades, seed):
    rng = np.random.default_rng(seed)
    ids = [chr(code) * 2 for code in rng.choice(0xD000, docs, replace=False) + 1]
    scores = np.maximum(rng.integers(-grades, grades, (queries, docs)), 0).astype(np.float32) / 7  # many ties and zeros
    hits = module._best(scores, DocIds.of(ids), k)
    ends = np.cumsum(hits.sizes)
    for row, rows, found in zip(scores, np.split(hits.rows, ends[:-1]), np.split(hits.scores, ends[:-1])):
        expected = sorted(np.flatnonzero(row), key=lambda i: (row[i], ids[i].encode()), reverse=True)[:k]
        assert rows.tolist() == expected
        assert np.array_equal(found, row[expected].astype(np.float64))
    assert ends[-1] == len(hits.rows)


def test_queries_find_the_same_together_and_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    docs = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(300)]
    index = BM25().build(tmp_path / "i", [f"d{i}" for i in range(300)], docs, key="")
    queries = [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(40)]
    names = [f"q{i}" for i in range(40)]
    together = index.search(queries, names, k=10).to_dict()
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 1)
    assert index.search(queries, names, k=10).to_dict() == together


def test_stems_stop_words_and_case(tmp_path):
    index = BM25().build(tmp_path / "i", ["a", "b"], ["The RUNNING cells", "of a p53 gene"], key="")
    run = index.search(["runs in the cell", "P53", "the of", "unheard", ""], list("vwxyz"), k=5).to_dict()
    assert {q: list(docs) for q, docs in run.items()} == {"v": ["a"], "w": ["b"], "x": [], "y": [], "z": []}


def test_other_languages_keep_their_letters(tmp_path):
    index = BM25(language="german").build(tmp_path / "g", ["a", "b"], ["Die Häuser der Größe 7", "das Auto"], key="")
    run = index.search(["ein haus", "GRÖSSE größe", "das"], ["p", "q", "r"], k=5).to_dict()
    assert [list(docs) for docs in run.values()] == [["a"], ["a"], []]
    index = BM25(language="russian").build(tmp_path / "r", ["a"], ["Красивые дома"], key="")
    assert list(index.search(["красивый дом"], ["q"], k=1).to_dict()["q"]) == ["a"]


def test_own_stop_words(tmp_path):
    spec = BM25(stop_words=["Gene"])  # as a recipe gives it
    index = spec.build(tmp_path / "i", ["a", "b"], ["the gene", "cell"], key="")
    assert index.search(["gene"], ["q"], k=5).to_dict() == {"q": {}}
    assert list(index.search(["the"], ["q"], k=5).to_dict()["q"]) == ["a"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k1": -1}, "k1 must be 0 or more"), ({"k1": math.nan}, "k1"), ({"b": 1.5}, "b must lie between"),
        ({"language": "klingon"}, "no stemmer for language 'klingon'"),
        ({"language": "finnish"}, "no list of stop words for language 'finnish'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        BM25(**wrong)


def test_every_language_that_is_offered_is_there():
    import Stemmer
    from bm25s import stopwords

    BM25(language="finnish", stop_words=False)
    assert set(module._STEMMED) <= set(Stemmer.algorithms())
    assert set(module._STOP_WORDS) <= set(module._STEMMED)
    for language in module._STOP_WORDS:
        BM25(language=language)._splitter()("x")
    assert len(stopwords.STOPWORDS_EN) == 33


def test_the_index_is_reused_and_opens_the_same(tmp_path):
    ids, docs = ["a", "b"], ["cell gene", "gene"]
    made = PLAIN.build(tmp_path / "i", ids, docs, key="1")
    again = PLAIN.build(tmp_path / "i", ids, iter(()), key="1")  # would fail if it read the texts
    opened = LexicalIndex.open(tmp_path / "i")
    assert opened.spec == PLAIN
    runs = [index.search(["gene cell"], ["q"], k=5).to_dict() for index in (made, again, opened)]
    assert runs[0] == runs[1] == runs[2]
    assert BM25(k1=2.0, stem=False).build(tmp_path / "i", ids, docs, key="1").spec.k1 == 2.0
    assert PLAIN.build(tmp_path / "i", ids, ["cell", "cell"], key="2").search(["gene"], ["q"], k=1).to_dict() == {
        "q": {}
    }
    assert BM25(stop_words=("x",)).build(tmp_path / "i", ids, docs, key="1").spec == BM25(stop_words=("x",))


def test_an_index_built_twice_has_the_same_bytes(tmp_path):
    docs = [" ".join(WORDS[i % 3 :: 2]) for i in range(20)]
    for name in ("i", "j"):
        BM25().build(tmp_path / name, [f"d{i}" for i in range(20)], docs, key="")
    for path in (tmp_path / "i").iterdir():
        assert path.read_bytes() == (tmp_path / "j" / path.name).read_bytes()


def test_searching_into_a_folder(tmp_path):
    index = BM25().build(tmp_path / "i", ["a", "b"], ["cell gene", "gene"], key="")
    asked = {"queries": ["gene", "cell"], "query_ids": ["p", "q"], "k": 2}
    run = search_into(tmp_path / "r", index, chunk_queries=1, **asked)
    assert run.to_dict() == index.search(["gene", "cell"], ["p", "q"], k=2).to_dict()


def test_texts_that_cannot_be_indexed(tmp_path):
    with pytest.raises(DataError, match="no document holds a word"):
        BM25().build(tmp_path / "i", ["a", "b"], ["the", "?!"], key="")
    with pytest.raises(DataError, match="2 ids but 1 texts"):
        BM25().build(tmp_path / "i", ["a", "b"], ["cell"], key="")
    with pytest.raises(DataError, match="twice"):
        BM25().build(tmp_path / "i", ["a", "a"], ["cell", "cell"], key="")
    assert list(tmp_path.iterdir()) == []
    assert len(BM25().build(tmp_path / "i", ["a", "b"], ["the", "cell"], key="").ids) == 2


def test_damage_is_noticed(tmp_path):
    BM25().build(tmp_path / "i", ["a"], ["cell gene"], key="")
    path = tmp_path / "i" / "postings.docs.npy"
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 4
    path.write_bytes(raw)
    with pytest.raises(ArtefactError, match="damaged"):
        LexicalIndex.open(tmp_path / "i")


@pytest.mark.oracle
@pytest.mark.skipif(not DATA.exists(), reason="shared data sets are not here")
def test_published_figures_on_scifact(tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval")

    def read(name: str) -> list[dict]:
        with gzip.open(DATA / "scifact" / name, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    qrels: dict[str, dict[str, int]] = {}
    for line in (DATA / "scifact" / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, doc, grade = line.split("\t")
        qrels.setdefault(query, {})[doc] = int(grade)
    docs, queries = read("corpus.jsonl.gz"), {q["_id"]: q["text"] for q in read("queries.jsonl.gz")}
    texts = (f"{doc['title']} {doc['text']}" for doc in docs)
    index = BM25().build(tmp_path / "i", [doc["_id"] for doc in docs], texts, key="")
    run = index.search([queries[q] for q in qrels], list(qrels), k=100).to_dict()
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    assert np.mean([m["ndcg_cut_10"] for m in measured.values()]) == pytest.approx(0.680, abs=6e-4)
    assert np.mean([m["recall_100"] for m in measured.values()]) == pytest.approx(0.922, abs=6e-4)
