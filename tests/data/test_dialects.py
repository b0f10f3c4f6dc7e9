"""Dialects of training data: what each file of a few lines becomes, how they are told apart, round trips, damage."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.data import Dataset, Reading
from rankwright.data.dialects import DIALECTS, WRITERS, Turns, content_id, convert, detect
from rankwright.data.policy import POLICIES
from rankwright.data.scores import read_scores
from rankwright.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.fs, "fsync", lambda fd: None)  # what is proved here is not durability
    monkeypatch.setattr(storage.fs, "fsync_folder", lambda path: None)


def jsonl(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CORPUS = jsonl(
    {"_id": i, "title": t, "text": x} for i, t, x in (("1", "Bears", "eat fish"), ("2", "", "a b"), ("3", "", "c"))
)
QUERIES = jsonl({"_id": i, "text": x} for i, x in (("10", "who eats?"), ("11", "why?")))
TEXTS = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES}
COLLECTION = {"collection.tsv": "1\teat fish\tBears\n2\ta b\t\n3\tc\t\n", "queries.tsv": "10\twho eats?\n11\twhy?\n"}
A, B, C = ("1", "Bears", "eat fish"), ("2", "", "a b"), ("3", "", "c")
GRADES = {("who eats?", A): 1.0, ("who eats?", B): 0.0, ("why?", C): 1.0}
FLAT = {("who eats?", ("", "Bears eat fish")): 1.0, ("who eats?", ("", "a b")): 0.0, ("why?", ("", "c")): 1.0}


def passage(doc: tuple[str, str, str], key: str = "docid") -> dict[str, str]:
    return {key: doc[0], "title": doc[1], "text": doc[2]}


class Case(NamedTuple):
    """Files, which of them is converted ("" for the folder), the dialect, and what must come out by text."""

    dialect: str
    files: dict[str, str]
    source: str
    grades: dict[Any, float]
    scores: Mapping[Any, float] = MappingProxyType({})


TEVATRON = [
    {"query_id": "10", "query": "who eats?", "positive_passages": [passage(A)], "negative_passages": [passage(B)]},
    {"query_id": "11", "query": "why?", "positive_passages": [passage(C)], "negative_passages": []},
]
DPR = [
    {
        "question": "who eats?", "answers": ["bears"], "positive_ctxs": [passage(A, "passage_id")],
        "negative_ctxs": [], "hard_negative_ctxs": [passage(B, "passage_id") | {"score": 3.5}],
    },
    {"question": "why?", "positive_ctxs": [passage(C, "passage_id")], "negative_ctxs": [], "hard_negative_ctxs": []},
]  # fmt: skip
FLAG = [{"query": "who eats?", "pos": ["Bears eat fish"], "neg": ["a b"]}, {"query": "why?", "pos": ["c"], "neg": []}]
RANKGPT = [
    {"query_id": "10", "query": "who eats?", "positive_passages": [passage(A)],
     "retrieved_passages": [passage(A) | {"rank": 2}, passage(B) | {"rank": 1}]},
    {"query_id": "11", "query": "why?", "positive_passages": [passage(C)], "retrieved_passages": [passage(C)]},
]  # fmt: skip
PAIR_SCORES = {("who eats?", A): 7.5, ("who eats?", B): -2.0, ("why?", C): 1.25}
CHUNKS = {"a b": ["x", "y"], "c": ["z"]}
CHATS = [
    {"messages": [{"role": r, "content": t} for r, t in (("user", "hi"), ("assistant", "yo"), ("user", "why?"))],
     "document": "a b", "ground_truth_ctx": {"index": 1}, "answers": ["k"]},
    {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}], "document": "c",
     "ground_truth_ctx": {"index": "0"}, "answers": ["l", "m"]},
]  # fmt: skip
CASES = {
    "trove": Case("trove", TEXTS | {"train_qrels.jsonl": jsonl([
        {"qid": "10", "docid": ["1", "2"], "score": [1, 0]}, {"qid": "11", "docid": ["3"], "score": [1]},
    ])}, "", GRADES),
    "trove, one file": Case("trove", TEXTS | {"graded.jsonl": jsonl([
        {"qid": "10", "docid": ["1", "2"], "score": [3, 0]}, {"qid": "11", "docid": "3", "score": -1},
    ])}, "graded.jsonl", {("who eats?", A): 3.0, ("who eats?", B): 0.0, ("why?", C): -1.0}),
    "sydir": Case("sydir", {
        "corpus.jsonl": jsonl({"_id": i, "title": "", "text": x} for i, x in (("10_l_3_d_0", "x"), ("a_l_b_l_0_d_12", "y"))),
        "queries.jsonl": jsonl([{"_id": "10", "text": "who eats?"}, {"_id": "a_l_b", "text": "why?"}]),
    }, "", {("who eats?", ("10_l_3_d_0", "", "x")): 3.0, ("why?", ("a_l_b_l_0_d_12", "", "y")): 0.0}),
    "tevatron": Case("tevatron", {"train.jsonl": jsonl(TEVATRON)}, "train.jsonl", GRADES),
    "tevatron by id": Case("tevatron-ids", {"corpus.jsonl": jsonl(
        {"docid": i, "title": t, "document_text": x} for i, t, x in (A, B, C)
    ), "train.jsonl": jsonl([
        {"query_id": 10, "query_text": "who eats?", "positive_document_ids": ["1"], "negative_document_ids": [2]},
        {"query_id": 11, "query_text": "why?", "positive_document_ids": ["3"], "negative_document_ids": None},
    ])}, "", GRADES),
    "dpr": Case("dpr", {"nq.json": json.dumps(DPR, indent=4)}, "nq.json", GRADES),
    "dpr, one line": Case("dpr", {"nq.json": json.dumps(DPR)}, "nq.json", GRADES),
    "dpr, JSON lines": Case("dpr", {"nq.jsonl": jsonl(DPR)}, "nq.jsonl", GRADES),
    "sr-dpr": Case("dpr", {"sr.jsonl": jsonl([{
        "sample_id": 1, "questions": ["who eats?", "why?"], "positive_contexts": [{"title": "", "text": "x"}],
        "hardneg_contexts": [{"title": "", "text": "y"}],
    }])}, "sr.jsonl", {(q, ("", t)): g for q in ("who eats?", "why?") for t, g in (("x", 1.0), ("y", 0.0))}),
    "chatrag": Case("chatrag", {"documents.json": json.dumps(CHUNKS), "train.json": json.dumps(CHATS)}, "", {
        ("user: hi\nagent: yo\nuser: why?", ("a_b#1", "", "y")): 1.0, ("user: who?", ("c#0", "", "z")): 1.0,
    }),
    "chatrag, contexts": Case("chatrag", {"dev.jsonl": jsonl([
        {"messages": [{"role": "user", "content": "why?"}], "ground_truth_ctx": {"ctx": "c"}, "topic": "t",
         "ctxs": [{"title": "Bears", "text": "eat fish"}, {"title": "", "text": "c"}]},
        {"messages": [{"role": "user", "content": "how?"}], "ground_truth_ctx": [{"text": "e"}], "ctxs": []},
    ])}, "dev.jsonl", {("user: why?", ("", "c")): 1.0, ("user: why?", ("Bears", "eat fish")): 0.0, ("user: how?", ("", "e")): 1.0}),
    "histories": Case("histories", {"train.jsonl": jsonl([
        {"history": ["who?", "me", "why?", "so"], "gold_document": "c", "document_list": ["d", "c", "e"], "local_did": "x12"},
    ])}, "train.jsonl", {("User: who?\nAgent: me\nUser: why?", ("", t)): g for t, g in (("c", 1.0), ("d", 0.0), ("e", 0.0))}),
    "lists of negatives": Case("sentence-transformers", {"t.jsonl": jsonl([
        {"anchor": "why?", "positive": "c", "negative": ["d", "e"]},
    ])}, "t.jsonl", {("why?", ("", "c")): 1.0, ("why?", ("", "d")): 0.0, ("why?", ("", "e")): 0.0}),
    "flagembedding": Case("flagembedding", {"f.jsonl": jsonl(FLAG)}, "f.jsonl", FLAT),
    "flagembedding with scores": Case("flagembedding", {"f.jsonl": jsonl([
        {"query": "why?", "pos": ["x"], "neg": ["y"], "pos_scores": [2], "neg_scores": [-0.5], "prompt": "p"},
    ])}, "f.jsonl", {("why?", ("", "x")): 1.0, ("why?", ("", "y")): 0.0},
        {("why?", ("", "x")): 2.0, ("why?", ("", "y")): -0.5}),
    "triplets": Case("sentence-transformers", {"t.jsonl": jsonl([
        {"anchor": "who eats?", "positive": "Bears eat fish", "negative_1": "a b", "negative_2": None},
        {"anchor": "why?", "positive": "c", "negative_1": "d", "negative_2": "e"},
    ])}, "t.jsonl", FLAT | {("why?", ("", "d")): 0.0, ("why?", ("", "e")): 0.0}),
    "triplets, CSV": Case("sentence-transformers", {
        "t.csv": 'anchor,positive,negative\nwho eats?,"Bears\neat ""fish""",a b\n\nwhy?,c,d\n'
    }, "t.csv", {("who eats?", ("", 'Bears\neat "fish"')): 1.0, ("who eats?", ("", "a b")): 0.0,
                 ("why?", ("", "c")): 1.0, ("why?", ("", "d")): 0.0}),
    "scored pairs": Case("sentence-transformers", {"s.csv": "sentence1,sentence2,score\nwhy?,c,0.25\n"}, "s.csv", {},
        {("why?", ("", "c")): 0.25}),
    "labelled pairs": Case("sentence-transformers", {"s.csv": "query,text,label\nwhy?,c,1\nwhy?,d,0\n"}, "s.csv",
        {("why?", ("", "c")): 1.0, ("why?", ("", "d")): 0.0}),
    "lists with labels": Case("sentence-transformers", {"l.jsonl": jsonl([
        {"query": "why?", "docs": ["c", "d", "e"], "labels": [3, 1, 0]}, {"query": "how?", "docs": ["c"], "labels": [2]},
    ])}, "l.jsonl", {("why?", ("", "c")): 3.0, ("why?", ("", "d")): 1.0, ("why?", ("", "e")): 0.0, ("how?", ("", "c")): 2.0}),
    "margins by score": Case("sentence-transformers", {"m.jsonl": jsonl([
        {"query": "why?", "positive": "c", "negative": "d", "score": [9.5, 1]},
    ])}, "m.jsonl", {}, {("why?", ("", "c")): 9.5, ("why?", ("", "d")): 1.0}),
    "ms marco": Case("msmarco", COLLECTION | {
        "qrels.train.tsv": "10\t0\t1\t1\n11\t0\t3\t1\n", "triples.train.tsv": "10\t1\t2\n10\t1\t2\n"}, "", GRADES),
    "ms marco triples": Case("msmarco", COLLECTION | {"qidpidtriples.tsv": "10 1 2\n11 3 1\n"}, "qidpidtriples.tsv",
        GRADES | {("why?", A): 0.0}),
    "colbert triples": Case("colbert", COLLECTION | {"triples.jsonl": "[10, 1, 2]\n[11, 3]\n"}, "", GRADES),
    "colbert n-way": Case("colbert", COLLECTION | {"nway.jsonl": "[10, [1, 7.5], [2, -2]]\n[11, [3, 1.25]]\n"}, "nway.jsonl",
        {}, PAIR_SCORES),
    "pylate": Case("colbert", COLLECTION | {"kd.jsonl": jsonl([
        {"query_id": "10", "document_ids": ["1", "2"], "scores": [7.5, -2.0]},
        {"query_id": "11", "document_ids": ["3"], "scores": [1.25]},
    ])}, "kd.jsonl", {}, PAIR_SCORES),
    "matchmaker": Case("matchmaker", COLLECTION | {"scores_ids.tsv": "7.5\t-2.0\t10\t1\t2\n1.25 7e-1 11 3 2\n"},
        "scores_ids.tsv", GRADES | {("why?", B): 0.0}, PAIR_SCORES | {("why?", B): 0.7}),
    "matchmaker, a score twice": Case("matchmaker", COLLECTION | {"s.tsv": "1 0 10 1 2\n2 0 10 1 3\n3 0 10 1 2\n"}, "s.tsv",
        {("who eats?", A): 1.0, ("who eats?", B): 0.0, ("who eats?", C): 0.0},
        {("who eats?", A): 2.0, ("who eats?", B): 0.0, ("who eats?", C): 0.0}),
    "matchmaker texts": Case("matchmaker-texts", {"t.tsv": "why?\tone text\tother text\n"}, "t.tsv",
        {("why?", ("", "one text")): 1.0, ("why?", ("", "other text")): 0.0}),
    "matchmaker texts with scores": Case("matchmaker-texts", {"t.tsv": "1.5\t-1\twhy?\tone text\tother text\n"}, "t.tsv",
        {("why?", ("", "one text")): 1.0, ("why?", ("", "other text")): 0.0},
        {("why?", ("", "one text")): 1.5, ("why?", ("", "other text")): -1.0}),
    "rankgpt": Case("rankgpt", {"m.jsonl": jsonl(RANKGPT), "m-gpt3.5.json": json.dumps(["[2] > [1]", "[1]"])}, "",
        {("who eats?", A): 1.0, ("why?", C): 1.0}),
    "rankgpt, one file": Case("rankgpt", {"m.jsonl": jsonl(RANKGPT), "m-gpt3.5.json": '[\n"[1] > [2]",\n "[1]"\n]'}, "m.jsonl",
        {("who eats?", A): 1.0, ("why?", C): 1.0}),
    "trec run": Case("run", COLLECTION | {"colbert.run": "10\t0\t1\t1\t7.5\tColBERT\n10 Q0 2 2 -2 ColBERT\n"}, "colbert.run", {}),
}  # fmt: skip


def place(files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def content(folder: Path, split: str = "train") -> tuple[dict[Any, float], dict[Any, float]]:
    """(grades, scores) of a BEIR folder, by text; ids count only where they are not made of the text."""
    data = Dataset.open(folder)

    def doc(key: str) -> tuple[str, ...]:
        document = data.corpus[data.corpus.rows([key])[0]]
        return tuple(document)[document.id == content_id(*document[1:]) :]

    def query(key: str) -> str:
        return data.queries[data.queries.rows([key])[0]].text

    tables = [data.qrels(split) if split in data.splits else None]
    tables.append(read_scores(folder / "scores.tsv", Reading()) if (folder / "scores.tsv").is_file() else None)
    grades, scores = (
        {(query(q), doc(d)): v for q, row in table.to_dict().items() for d, v in row.items()} if table else {}
        for table in tables
    )
    return grades, scores


@pytest.mark.parametrize("name", CASES)
def test_each_layout_becomes_a_data_set(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = place(case.files, tmp_path / "in") / case.source
    made = convert(source, tmp_path / "out")
    assert made.dialect == case.dialect
    assert content(tmp_path / "out") == (case.grades, case.scores)
    assert made.counts["judgements"] == len(case.grades)
    assert made.counts["scores"] == len(case.scores)
    assert storage.verify(tmp_path / "out", "dataset", full=True)


@pytest.mark.parametrize("name", CASES)
def test_no_layout_is_taken_for_another(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = place(case.files, tmp_path) / case.source
    assert [d.name for d in DIALECTS.values() if d.sniff(path)] == [case.dialect]
    assert detect(path) == case.dialect


GRADED = {"q1": {"d1": 3, "d2": 1, "d4": 0}, "q2": {"d3": 1}, "q3": {"d2": 2, "d1": -1}}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Grades, a second split, a teacher's scores, a document nobody judged, titles, awkward characters."""
    folder = tmp_path / "beir"
    docs = [
        ("d1", "Bears", "eat\tfish\n"),
        ("d2", "", "a “b”"),
        ("d3", "", "c"),
        ("d4", "", "é"),
        ("d5", "", "nobody's"),
    ]
    queries = [("q1", "who eats?"), ("q2", "why?"), ("q3", "how?")]
    place({"corpus.jsonl": jsonl({"_id": i, "title": t, "text": x} for i, t, x in docs),
           "queries.jsonl": jsonl({"_id": i, "text": x} for i, x in queries),
           "scores.tsv": "q1\td1\t0.1\nq1\td4\t-3.5\nq1\td2\t1e-3\n"}, folder)  # fmt: skip
    rows = [f"{q}\t{d}\t{g}\n" for q, docs in GRADED.items() for d, g in docs.items()]
    place({"train.tsv": "query-id\tcorpus-id\tscore\n" + "".join(rows), "dev.tsv": "q2\td3\t1\n"}, folder / "qrels")
    return folder


_NAMES = ("doc_ids.tsv", "query_ids.tsv")  # the ids before ColBERT's numbers took their places


def _files(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if name not in ("manifest.json", *_NAMES)}


@pytest.mark.parametrize("layout", WRITERS)
def test_writing_reading_and_writing_again_gives_the_same_files(layout: str, beir: Path, tmp_path: Path) -> None:
    convert(beir, tmp_path / "a", to=layout)
    convert(tmp_path / "a", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c", to=layout)
    convert(tmp_path / "a", tmp_path / "direct", to=layout)  # without the data set in between being kept
    first, again = _files(tmp_path / "a"), _files(tmp_path / "c")
    assert first
    assert {n: sorted(x.splitlines()) for n, x in first.items()} == {
        n: sorted(x.splitlines()) for n, x in again.items()
    }
    assert _files(tmp_path / "direct") == again
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("layout", ["beir", "trec", "trove"])
def test_layouts_with_ids_and_grades_lose_nothing(layout: str, beir: Path, tmp_path: Path) -> None:
    convert(beir, tmp_path / "a", to=layout)
    convert(tmp_path / "a", tmp_path / "b")
    before, after = Dataset.open(beir), Dataset.open(tmp_path / "b")
    assert list(after.corpus) == list(before.corpus)
    assert list(after.queries) == list(before.queries)
    assert after.splits == ["dev", "train"]
    assert after.qrels("train").to_dict() == before.qrels("train").to_dict() == GRADED
    if layout != "trec":  # there they are a run
        assert content(tmp_path / "b")[1] == content(beir)[1]


def test_lists_keep_every_grade_and_score_by_text(beir: Path, tmp_path: Path) -> None:
    convert(beir, tmp_path / "a", to="sentence-transformers-lists")
    convert(tmp_path / "a", tmp_path / "b")
    flat = lambda table: {(q, f"{d[-2]} {d[-1]}".strip()): v for (q, d), v in table.items()}  # noqa: E731
    before, after = content(beir), content(tmp_path / "b")
    assert (flat(after[0]), flat(after[1])) == (flat(before[0]), flat(before[1]))


def test_what_each_layout_looks_like(beir: Path, tmp_path: Path) -> None:
    for layout in WRITERS.keys() - {"beir"}:
        convert(beir, tmp_path / layout, to=layout)
    rows = {name: [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
            for name in ("tevatron", "flagembedding", "sentence-transformers", "sentence-transformers-lists")}  # fmt: skip
    assert [p["docid"] for p in rows["tevatron"][0]["positive_passages"]] == ["d1", "d2"]
    assert rows["flagembedding"][0] == {
        "query": "who eats?", "pos": ["Bears eat\tfish", "a “b”"], "neg": ["é"], "pos_scores": [0.1, 0.001],
        "neg_scores": [-3.5],
    }  # fmt: skip
    assert "pos_scores" not in rows["flagembedding"][1]
    assert rows["sentence-transformers"][:2] == [
        {"anchor": "who eats?", "positive": "Bears eat\tfish", "negative": "é"},
        {"anchor": "who eats?", "positive": "a “b”", "negative": "é"},
    ]
    assert rows["sentence-transformers-lists"][2] == {
        "query": "how?",
        "docs": ["a “b”", "Bears eat\tfish"],
        "labels": [2, -1],
    }
    assert (tmp_path / "colbert/train.triples.jsonl").read_text() == "[0, 0, 3]\n[0, 1, 3]\n[1, 2]\n[2, 1, 0]\n"
    assert (tmp_path / "colbert/nway.jsonl").read_text() == "[0, [0, 0.1], [3, -3.5], [1, 0.001]]\n"
    assert (tmp_path / "colbert/collection.tsv").read_text().startswith("0\teat fish \tBears\n")
    assert "q1 0 d4 0\n" in (tmp_path / "trec/qrels/train.qrels").read_text()


def test_scores_without_judgements_go_on(tmp_path: Path) -> None:
    """What `convert` writes of them is read again, or refused by a layout that has no place for them."""
    source = tmp_path / "teacher"
    source.mkdir()
    (source / "collection.tsv").write_text("0\tbread\n1\ttea\n")
    (source / "queries.tsv").write_text("7\twhat to eat\n")
    (source / "nway.jsonl").write_text("[7, [0, 9.5], [1, -2.0]]\n")
    beir = convert(source, tmp_path / "beir").folder
    assert detect(beir) == "beir"
    for layout in ("trove", "colbert", "sentence-transformers", "sentence-transformers-lists"):
        again = convert(convert(beir, tmp_path / layout, to=layout).folder, tmp_path / f"{layout}-again")
        assert again.counts["scores"] == 2, layout
        assert sorted(line.split("\t")[2] for line in (again.folder / "scores.tsv").read_text().splitlines()) == [
            "-2.0",
            "9.5",
        ]
    for layout in ("tevatron", "flagembedding"):
        with pytest.raises(DataError, match="no judgements, and this layout is made of them"):
            convert(beir, tmp_path / layout, to=layout)
        assert not (tmp_path / layout).exists()


def test_a_folder_of_matchmaker_is_told_by_its_rows(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("0\tbread for all\n1\ttea\n")
    (tmp_path / "queries.train.tsv").write_text("7\twhat to eat\n")
    (tmp_path / "bertcat_score_train.tsv").write_text("5.5\t-3.25\t7\t0\t1\n")
    assert detect(tmp_path) == "matchmaker"
    assert convert(tmp_path, tmp_path / "out").counts["scores"] == 2


def test_equal_passages_are_one_document(tmp_path: Path) -> None:
    rows = [{"query": "a", "pos": ["x"], "neg": ["y"]}, {"query": "b", "pos": ["y"], "neg": ["x", "x"]}]
    place({"f.jsonl": jsonl(rows)}, tmp_path)
    assert convert(tmp_path / "f.jsonl", tmp_path / "out").counts["documents"] == 2


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file", "saved data set"])
def test_columns_from_arrow(kind: str, tmp_path: Path) -> None:
    """The last one as datasets.Dataset.save_to_disk lays it out: an Arrow stream and notes about it."""
    table = pa.table({"anchor": ["who eats?", "why?"], "positive": ["Bears eat fish", "c"], "negative": ["a b", None]})
    source = tmp_path / ("t.parquet" if kind == "parquet" else "t.arrow")
    if kind == "parquet":
        pq.write_table(table, source)
    elif kind == "arrow file":
        with pa.ipc.new_file(source, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    else:
        if kind == "saved data set":
            source = place({"dataset_dict.json": '{"splits": ["dev"]}'}, tmp_path / "saved")
            place({"state.json": "{}", "dataset_info.json": "{}"}, source / "dev")
        with pa.ipc.new_stream(
            source / "dev/data-00000-of-00001.arrow" if source.is_dir() else source, table.schema
        ) as writer:
            writer.write_table(table)
    convert(source, tmp_path / "out")
    assert content(tmp_path / "out", "dev" if source.is_dir() else "train") == (FLAT, {})


def test_ir_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(UsageError, match="needs the package 'ir_datasets'") as caught:
        convert("ir_datasets:tiny/train", tmp_path / "out")
    assert "pip install" in str(caught.value)
    assert not list(tmp_path.iterdir())
    doc, query = namedtuple("Doc", "doc_id title text"), namedtuple("Query", "query_id text")
    qrel, scored = namedtuple("Qrel", "query_id doc_id relevance"), namedtuple("Scored", "query_id doc_id score")
    dataset = SimpleNamespace(
        has_docs=lambda: True, has_queries=lambda: True, has_qrels=lambda: True, has_scoreddocs=lambda: True,
        docs_iter=lambda: [doc(*A), doc(*B), doc(*C)], queries_iter=lambda: [query("10", "who eats?"), query("11", "why?")],
        qrels_iter=lambda: [qrel("10", "1", 1), qrel("10", "2", 0), qrel("11", "3", 1)],
        scoreddocs_iter=lambda: [scored("10", "1", 7.5)],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load={"tiny/train": dataset}.__getitem__))
    convert("ir_datasets:tiny/train", tmp_path / "out")
    assert content(tmp_path / "out") == (GRADES, {("who eats?", A): 7.5})
    with pytest.raises(DataError, match="no data set 'other'"):
        convert("ir_datasets:other", tmp_path / "out2")


def test_texts_from_elsewhere_and_the_name_of_the_split(tmp_path: Path) -> None:
    texts, rows = (
        place(TEXTS, tmp_path / "texts"),
        place({"g.jsonl": '{"qid": 10, "docid": [1], "score": [2]}\n'}, tmp_path / "rows"),
    )
    with pytest.raises(DataError, match="names the documents by id") as caught:
        convert(rows / "g.jsonl", tmp_path / "out")
    assert "--corpus FILE" in str(caught.value)
    convert(
        rows / "g.jsonl", tmp_path / "out", corpus=texts / "corpus.jsonl", queries=texts / "queries.jsonl", split="dev"
    )
    assert content(tmp_path / "out", "dev")[0] == {("who eats?", A): 2.0}


def test_splits_by_file_name(tmp_path: Path) -> None:
    names = ("qrels.dev.small.tsv", "qrels.train.tsv", "qrels.tsv")
    convert(place(COLLECTION | dict.fromkeys(names, "10\t0\t1\t1\n"), tmp_path / "in"), tmp_path / "out", split="rest")
    assert Dataset.open(tmp_path / "out").splits == ["dev.small", "rest", "train"]


@pytest.mark.parametrize(
    ("files", "source", "dialect", "line", "words"),
    [
        ({"f.jsonl": jsonl([*FLAG, {"query": "x", "pos": "y"}])}, "f.jsonl", None, 3, "pos is not a list but 'y'"),
        ({"f.jsonl": jsonl(FLAG) + '{"query": "x", "pos": ["x"'}, "f.jsonl", None, 3, "not JSON"),
        ({"f.jsonl": jsonl([{"query": "x", "pos": ["y"], "pos_scores": [1, 2]}])}, "f.jsonl", None, 1, "1 documents but 2"),
        ({"f.jsonl": jsonl([{"query": "x", "pos": ["y", ""]}])}, "f.jsonl", None, 1, "empty"),
        ({"f.jsonl": jsonl([{"query": "x", "pos": ["y"], "neg": ["y"]}])}, "f.jsonl", None, 1, "have grade 0 here and 1 in"),
        ({"t.jsonl": jsonl([TEVATRON[0], TEVATRON[1] | {"positive_passages": ["1"]}])}, "t.jsonl", None, 2, "a passage is not an object"),
        ({"t.jsonl": jsonl([TEVATRON[0], TEVATRON[1] | {"query": None}])}, "t.jsonl", None, 2, "the text is missing"),
        ({"t.jsonl": jsonl([TEVATRON[0], TEVATRON[1] | {"negative_passages": [passage(("1", "", "z"))]}])}, "t.jsonl", None, 2, "given before, with another text"),
        ({"d.json": json.dumps(DPR, indent=1)[:-8]}, "d.json", None, 23, "not one JSON list"),
        ({"d.json": json.dumps([*DPR, 7], indent=1)}, "d.json", None, 36, "not a JSON object: '7'"),
        ({"d.json": json.dumps(DPR) + "\n[]"}, "d.json", None, 2, "not one JSON list"),
        (TEXTS | {"g.jsonl": '\n{"qid": "10", "docid": ["1"], "score": [1, 2]}\n'}, "", None, 2, "not of one length"),
        (TEXTS | {"g.jsonl": '{"qid": "10", "docid": ["9"], "score": [1]}\n'}, "", None, 1, "document '9' is not among"),
        (TEXTS | {"g.jsonl": '{"qid": "9", "docid": ["1"], "score": [1]}\n'}, "", None, 1, "query '9' is not among"),
        (TEXTS | {"g.jsonl": '{"qid": "10", "docid": ["1"], "score": [0.5]}\n'}, "", None, 1, "not a whole number"),
        (TEXTS | {"corpus.jsonl": jsonl([{"_id": "10_l_1_d_1", "text": "x"}, {"_id": "y", "text": "y"}])}, "", "sydir", 0, "'y' does not read"),
        (COLLECTION | {"s.tsv": "1 2 10 1 2\n1 2 10 1\n"}, "s.tsv", None, 2, "4 columns, expected 5"),
        (COLLECTION | {"s.tsv": "1 2 10 1 2\n1 x 10 1 2\n"}, "s.tsv", None, 2, "'x' is not a number"),
        (COLLECTION | {"triples.tsv": "10\t1\t2\n10\t1\n"}, "", None, 2, "2 columns, expected 3"),
        (COLLECTION | {"n.jsonl": "[10, [1, 2]]\n[10, [1]]\n"}, "", None, 2, "not [pid, score]"),
        (COLLECTION | {"n.jsonl": "[10, [1, 2]]\n[10, [1, NaN]]\n"}, "", None, 2, "NaN"),
        (COLLECTION | {"n.jsonl": '[10, [1, 2]]\n{"a": 1}\n'}, "", None, 2, "not a list of a query"),
        ({"t.tsv": "why?\tone x\tother y\nwhy?\tone x\n"}, "t.tsv", None, 2, "2 columns"),
        ({"t.csv": "anchor,positive\na,b\nc\n"}, "t.csv", None, 3, "1 columns, expected 2"),
        ({"t.csv": 'anchor,positive\na,b\nc,"d"e\n'}, "t.csv", None, 3, "not CSV"),
        ({"t.csv": "anchor,positive,anchor\na,b,c\n"}, "t.csv", "sentence-transformers", 1, "a column twice"),
        ({"t.csv": "anchor,positive,negative,score\na,b,c,0.5\n"}, "t.csv", None, 2, "a margin alone"),
        ({"t.parquet": "PAR1 and no more"}, "t.parquet", "dpr", 0, "damaged"),
        ({"t.jsonl": ""}, "t.jsonl", "dpr", 0, "holds no record"),
        ({"t.jsonl": '{"a": 1}\n'}, "t.jsonl", None, 0, "no dialect of training data"),
        ({}, "t.jsonl", None, 0, "no such file or folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line_and_nothing_is_left(
    files: dict[str, str], source: str, dialect: str | None, line: int, words: str, tmp_path: Path
) -> None:
    place(files, tmp_path / "in")
    for to in ("beir", "tevatron"):
        with pytest.raises(DataError) as caught:
            convert(tmp_path / "in" / source, tmp_path / "out", dialect=dialect, to=to)
        error = caught.value
        assert words in str(error)
        assert error.fix
        assert error.where
        assert error.where.startswith(str(tmp_path / "in"))
        assert (error.where.rpartition(":")[2] == str(line)) == bool(line)
        assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_lenient_reading_keeps_what_can_be_read_and_counts_the_rest(tmp_path: Path) -> None:
    rows = jsonl(FLAG) + '{"query": "x"\n' + jsonl([{"query": "x", "pos": ["y", None], "neg": ["y"]}])
    place({"f.jsonl": rows}, tmp_path)
    reading = Reading(lenient=True)
    convert(tmp_path / "f.jsonl", tmp_path / "out", reading=reading)
    assert content(tmp_path / "out")[0] == FLAT | {("x", ("", "y")): 1.0}
    assert reading.counts == {"malformed JSON": 1, "missing field": 1, "contradicting grades": 1}


def test_usage(beir: Path, tmp_path: Path) -> None:
    for wrong in ({"to": "dpr"}, {"dialect": "beri"}):
        with pytest.raises(UsageError, match="is no dialect here"):
            convert(beir, tmp_path / "out", **wrong)
    with pytest.raises(UsageError, match="is no artefact"):
        convert(beir, beir)


def test_ambiguity_is_asked_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(DIALECTS["dpr"]), "sniff", lambda self, path: True)
    place({"f.jsonl": jsonl(FLAG)}, tmp_path)
    with pytest.raises(DataError, match="looks like dpr and like flagembedding") as caught:
        detect(tmp_path / "f.jsonl")
    assert "--from" in str(caught.value)


def test_a_list_in_pieces_of_any_size_is_read_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rankwright.data import _lines
    from rankwright.data._json import read_json_list

    text = json.dumps([{"a": 'é"]},\\', "b": [1, {"c": []}]}, {}, {"d": "\\"}], indent=1, ensure_ascii=False)
    path = tmp_path / "l.json"
    path.write_text("\ufeff" + text, encoding="utf-8")
    whole = list(read_json_list(path, Reading()))
    assert [record for _, record in whole] == json.loads(text)
    assert [number for number, _ in whole] == [2, 11, 12]
    for size in range(4, 40):
        monkeypatch.setattr(_lines, "_CHUNK", size)
        assert list(read_json_list(path, Reading())) == whole


def test_many_ids_are_remembered_with_their_content() -> None:
    from rankwright.data.dialects._rows import Contents

    seen = Contents()
    keys = [f"d{i}" for i in range(5000)]
    assert [seen.add(key, key) for key in keys] == [None] * 5000
    assert [seen.add(key, key) for key in keys] == [True] * 5000
    assert [seen.add(key, "other") for key in keys] == [False] * 5000
    assert len(seen) == 5000
    assert np.all([key in seen for key in keys])
    assert "e1" not in seen


# --- conversations ----------------------------------------------------------------------------------------------------


def chats(tmp_path: Path) -> Path:
    return place({"documents.json": json.dumps(CHUNKS), "test.json": json.dumps(CHATS)}, tmp_path / "in")


def test_a_querys_own_document_is_its_pool(tmp_path: Path) -> None:
    from rankwright.data import read_run

    convert(chats(tmp_path), tmp_path / "out")
    pool = read_run(tmp_path / "out" / "ranking.trec").to_dict()
    assert {query: list(docs) for query, docs in pool.items()} == {"test-0": ["a_b#0", "a_b#1"], "test-1": ["c#0"]}
    data = Dataset.open(tmp_path / "out", reading=Reading(), cache=tmp_path / "cache")
    assert data.qrels("test").to_dict() == {"test-0": {"a_b#1": 1.0}, "test-1": {"c#0": 1.0}}
    assert len(data.corpus) == 3


def test_gold_chunks_are_told_by_index_or_text_and_may_be_several(tmp_path: Path) -> None:
    gold = [{"index": "1"}, {"ctx": "x"}]
    rows = [CHATS[0] | {"ground_truth_ctx": gold}, CHATS[1] | {"ground_truth_ctx": {"text": "z"}}]
    folder = place({"documents.json": json.dumps(CHUNKS), "test.json": json.dumps(rows)}, tmp_path / "in")
    for answers in (False, True):
        convert(folder, tmp_path / f"{answers}", answers=answers)
        data = Dataset.open(tmp_path / f"{answers}", reading=Reading(), cache=tmp_path / "cache")
        assert data.qrels("test").to_dict() == {"test-0": {"a_b#1": 1.0, "a_b#0": 1.0}, "test-1": {"c#0": 1.0}}
    inside = [CHATS[0] | {"document": None, "ctxs": ["x", "y", "z"], "ground_truth_ctx": [1, {"index": "2"}]}]
    convert(place({"dev.jsonl": jsonl(inside)}, tmp_path / "ctxs"), tmp_path / "c")
    data = Dataset.open(tmp_path / "c", reading=Reading(), cache=tmp_path / "cache")
    relevant = {doc for doc, grade in data.qrels("dev").to_dict()["dev-0"].items() if grade > 0}
    assert {document.text for document in data.corpus.documents(sorted(relevant))} == {"y", "z"}


@pytest.mark.parametrize(
    ("row", "chunks", "message"),
    [
        ({}, {"a b": ["x", "y"], "a_b": ["z"]}, "another document is called 'a_b'"),
        ({}, {"a b": ["x", None]}, "a_b#1: the text is missing"),
        ({}, [["x"]], "not a JSON object.*for each document a list"),
        ({"ground_truth_ctx": [{"index": 0}, {"index": 7}]}, CHUNKS, "each gold chunk in it by its index or its text"),
        ({"messages": []}, CHUNKS, "nobody asks"),
        ({"messages": [{"role": "agent", "content": "42"}]}, CHUNKS, "nobody asks"),
        ({"messages": [{"role": "user", "content": " "}]}, CHUNKS, "the text is empty"),
    ],
)
def test_conversations_that_cannot_be_are_refused(row, chunks, message, tmp_path: Path) -> None:
    rows = [CHATS[0] | row]
    folder = place({"documents.json": json.dumps(chunks), "test.json": json.dumps(rows)}, tmp_path / "in")
    with pytest.raises(DataError, match=f"(?s){message}"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_chunk_that_lenient_reading_leaves_out_is_in_no_pool(tmp_path: Path) -> None:
    from rankwright.data import read_run

    files = {"documents.json": json.dumps({"a b": [None, "y"], "c": ["z"]}), "test.json": json.dumps(CHATS)}
    convert(place(files, tmp_path / "in"), tmp_path / "out", reading=Reading(lenient=True))
    pool = read_run(tmp_path / "out" / "ranking.trec").to_dict()
    assert {query: list(docs) for query, docs in pool.items()} == {"test-0": ["a_b#1"], "test-1": ["c#0"]}


@pytest.mark.parametrize(
    ("history", "message"), [(["a"], "no turn before the last"), (["a", None, "b", "c"], "a turn")]
)
def test_histories_without_a_question_are_refused(history, message, tmp_path: Path) -> None:
    """A turn that is no text must not make the agent's words the user's."""
    row = {"history": history, "gold_document": "c", "document_list": ["d"]}
    with pytest.raises(DataError, match=message):
        convert(place({"train.jsonl": jsonl([row])}, tmp_path / "in"), tmp_path / "out", dialect="histories")


def test_turns_are_chosen_and_written_as_asked(tmp_path: Path) -> None:
    turns = Turns(2, {"user": "U", "assistant": "A"}, "<{role}> {content}", " / ")
    convert(chats(tmp_path), tmp_path / "out", turns=turns)
    data = Dataset.open(tmp_path / "out", reading=Reading(), cache=tmp_path / "cache")
    assert data.queries[0].text == "<A> yo / <U> why?"
    for bad in ({"last": 0}, {"template": "{role}"}, {"template": "{content} {x}"}, {"template": "{content"}):
        with pytest.raises(UsageError):
            Turns(**bad)
    with pytest.raises(UsageError, match=r"--turns.*for chatrag and histories"):
        convert(place({"t.jsonl": jsonl(TEVATRON)}, tmp_path / "t"), tmp_path / "o", turns=turns)


def test_published_answers_pile_up_behind_gold_chunks_when_asked(tmp_path: Path) -> None:
    """QReCC's evaluation appends the first answer to the chunk itself, so that two queries leave two."""
    rows = [*CHATS, CHATS[0] | {"answers": ["n"]}]
    folder = place({"documents.json": json.dumps(CHUNKS), "test.json": json.dumps(rows)}, tmp_path / "in")
    for answers, text in ((False, "y"), (True, "y || k || n")):
        convert(folder, tmp_path / f"{answers}", answers=answers)
        corpus = Dataset.open(tmp_path / f"{answers}", reading=Reading(), cache=tmp_path / "cache").corpus
        assert corpus[corpus.row("a_b#1")].text == text
    without = [{key: value for key, value in row.items() if key != "answers"} for row in rows]
    (folder / "test.json").write_text(json.dumps(without))
    with pytest.raises(DataError, match="no answer belongs to a gold chunk"):
        convert(folder, tmp_path / "none", answers=True)


def test_conversations_in_a_saved_data_set(tmp_path: Path) -> None:
    """As the `datasets` library saves them: an Arrow stream in a folder with its notes."""
    folder = place({"state.json": "{}", "dataset_info.json": "{}"}, tmp_path / "saved")
    table = pa.Table.from_pylist(
        [
            {k: v for k, v in row.items() if k != "document"}
            | {"ctxs": [{"title": "", "text": "q"}], "ground_truth_ctx": {"text": "g"}}
            for row in CHATS
        ]
    )
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    assert detect(folder) == "chatrag"
    assert convert(folder, tmp_path / "out").counts["judgements"] == 4


# --- damage -----------------------------------------------------------------------------------------------------------

EXAMPLES = {case.dialect: name for name, case in reversed(CASES.items())}  # the first of each dialect
PIECES = [
    b"\t",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b'"',
    b"\\",
    b"{",
    b"]",
    b"[",
    b",",
    b"null",
    b"NaN",
    b"1e999",
    b"-",
    b"[" * 3000,
    b"\\ud800",
]
PIECES += [b"9" * 5000, b"true", b'"text": 3, ', b"  ", b"\xef\xbb\xbf", b"10", b"anchor", b""]
EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 9), st.sampled_from(PIECES) | st.binary(max_size=4)), max_size=4
)


def _damaged(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Each edit cuts some bytes out and puts a piece in their place; 9 cuts the rest of the file off."""
    for at, cut, piece in edits:
        at %= len(data) + 1
        data = data[:at] + piece + (b"" if cut == 9 else data[at + cut :])
    return data


def _attempt(source: Path, dialect: str, out: Path, reading: Reading) -> DataError | None:
    """The only failure allowed is a data error that names a file here, with sentence and fix; then nothing is left."""
    try:
        convert(source, out, dialect=dialect, reading=reading)
    except DataError as caught:
        error = caught
    else:
        dataset = Dataset.open(out, reading=Reading(lenient=reading.lenient), cache=out / "cache")
        assert all(len(dataset.qrels(split)) or reading.lenient for split in dataset.splits)
        shutil.rmtree(out)
        return None
    folder = source if source.is_dir() else source.parent
    assert re.fullmatch(re.escape(str(folder)) + r"(/[^:]+)?(:\d+)?", error.where or "")
    assert error.fix
    assert 0 < len(error.what) < 600
    assert str(error).encode()
    assert [p.name for p in out.parent.iterdir()] == ["in"]
    return error


@pytest.mark.parametrize("dialect", EXAMPLES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, which=st.integers(0, 9), noise=st.binary(max_size=80))
def test_damaged_files(dialect: str, edits: list[Any], which: int, noise: bytes, tmp_path: Path) -> None:
    case = CASES[EXAMPLES[dialect]]
    folder, source = place(case.files, tmp_path / "in"), tmp_path / "in" / case.source
    victim = folder / sorted(case.files)[which % len(case.files)]
    victim.write_bytes(_damaged(victim.read_bytes(), edits) if edits else noise)
    lenient = Reading(lenient=True)
    strictly = _attempt(source, dialect, tmp_path / "out", Reading())
    kindly = _attempt(source, dialect, tmp_path / "out", lenient)
    assert strictly or not (kindly or lenient.counts)  # lenient is never stricter, and counts nothing in sound data
    assert lenient.counts.keys() <= POLICIES.keys()
    assert {reader.sniff(source) for reader in DIALECTS.values()} <= {True, False}


def test_every_layout_of_files_is_damaged() -> None:
    assert EXAMPLES.keys() == DIALECTS.keys() - {
        "ir_datasets",
        "questions",
    }  # these have no judgements: test_answer_files.py


def test_answers_of_dpr_come_along_and_must_be_texts(tmp_path: Path):
    passage = {"title": "Paris", "text": "Paris is large.", "passage_id": "1"}
    record = {"question": "which is large?", "answers": ["Paris", "paris"], "positive_ctxs": [passage]}
    (tmp_path / "nq.json").write_text(json.dumps([record]))
    convert(tmp_path / "nq.json", tmp_path / "out", to="beir")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.answers("train") == {dataset.queries[0].id: ("Paris", "paris")}
    (tmp_path / "bad.json").write_text(json.dumps([record | {"answers": [1]}]))
    with pytest.raises(DataError, match=r"answers.*a list of texts"):
        convert(tmp_path / "bad.json", tmp_path / "other", to="beir")
