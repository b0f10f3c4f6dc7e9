"""RankGPT's data, rankings and validation queries: what is dropped, repaired, divided, and what is said of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rankwright import storage
from rankwright.data import Dataset, Judged, Mixture, Ranking, Reading, Supervision, read_qrels, read_run, supervise
from rankwright.data.dialects import HoldOut, convert
from rankwright.data.scores import read_scores
from rankwright.errors import DataError, UsageError
from rankwright.types import Qrels


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.fs, "fsync", lambda fd: None)
    monkeypatch.setattr(storage.fs, "fsync_folder", lambda path: None)


def record(number: int, size: int = 4) -> dict[str, Any]:
    texts = [{"docid": f"{number}-{r}", "text": f"passage {number} {r}", "rank": r} for r in range(1, size + 1)]
    positive = {"docid": f"p{number}", "title": "", "text": f"right {number}"}
    return {
        "query_id": number,
        "query": f"query {number}?",
        "positive_passages": [positive],
        "retrieved_passages": texts,
    }


ANSWERS = [
    "[2] > [1] > [4] > [3]",
    "[2] > [2] > [4] > [3]",  # a repetition, and one missing
    "[2] > [1] > [4]",
    "[2] > [1] > [5] > [3]",  # no such passage
    "Sure: [2] > [1] > [4] > [3]",
    "I cannot.",
    "4 > 3 > 2 > 1",
]


def write(folder: Path, answers: list[Any] = ANSWERS, *, queries: int | None = None, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(record(i)) for i in range(len(answers) if queries is None else queries)]
    file = folder / "marco.jsonl"
    if packed:
        file = folder / "marco.jsonl.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("marco.jsonl", "\n".join(rows))
            archive.writestr("__MACOSX/._marco.jsonl", "x")
    else:
        file.write_text("\n".join(rows))
    (folder / "marco-gpt3.5.json").write_text(json.dumps(answers))
    return file


@pytest.mark.parametrize("packed", [False, True])
def test_strict_drops_what_is_no_permutation_and_counts_it(tmp_path: Path, packed: bool) -> None:
    reading = Reading()
    made = convert(write(tmp_path / "in", packed=packed), tmp_path / "out", reading=reading)
    assert made.dialect == "rankgpt"
    assert made.counts["queries"] == 2
    assert made.counts["ranked documents"] == 8
    assert dict(reading.notes) == {"answer that is no permutation: query left out": 5}
    assert "marco-gpt3.5.json:1: '[2] > [2]" in reading.examples[next(iter(reading.notes))][0]
    run = read_run(tmp_path / "out/ranking.trec").to_dict()
    assert run == {
        "0": {"0-2": 1, "0-1": 1 / 2, "0-4": 1 / 3, "0-3": 1 / 4},
        "6": {"6-4": 1, "6-3": 1 / 2, "6-2": 1 / 3, "6-1": 1 / 4},
    }
    assert read_qrels(tmp_path / "out/qrels/train.tsv").to_dict() == {"0": {"p0": 1}, "6": {"p6": 1}}


def test_repair_keeps_first_mentions_and_appends_what_is_missing(tmp_path: Path) -> None:
    reading = Reading()
    convert(write(tmp_path / "in"), tmp_path / "out", repair=True, reading=reading)
    assert dict(reading.notes) == {
        "answer that is no permutation: query left out": 1, "answer that is no permutation: repaired": 4,
    }  # fmt: skip
    run = read_run(tmp_path / "out/ranking.trec").to_dict()
    orders = {query: [doc[-1] for doc in sorted(docs, key=lambda d: -docs[d])] for query, docs in run.items()}
    assert {q: "".join(o) for q, o in orders.items()} == {
        "0": "2143", "1": "2431", "2": "2143", "3": "2134", "4": "2143", "6": "4321",
    }  # fmt: skip


def test_as_a_source_the_target_is_the_largest_rank_minus_the_rank_plus_one(tmp_path: Path) -> None:
    convert(write(tmp_path / "in", ANSWERS[:1]), tmp_path / "out")
    source = Ranking(str(tmp_path / "out"), run=str(tmp_path / "out/ranking.trec"), target="rank")
    rows = next(source.parts(Dataset.open(tmp_path / "out"), reading=Reading()))
    assert rows.to_dict() == {"0": {"0-2": 4, "0-1": 3, "0-4": 2, "0-3": 1}}
    found = supervise(Mixture.of(Dataset.open(tmp_path / "out")), [source])
    assert len(found.rows(0)) == 4


@pytest.mark.parametrize(
    ("answers", "queries", "what"),
    [
        (ANSWERS, 3, "more permutations than queries"),
        (ANSWERS[:2], 3, "more queries than permutations"),
        ([1, 2, 3], 3, "not a string"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, answers, queries, what) -> None:
    with pytest.raises(DataError, match=what):
        convert(write(tmp_path / "in", answers, queries=queries), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_list_is_named_or_found(tmp_path: Path) -> None:
    file = write(tmp_path / "in")
    other = tmp_path / "in" / "marco-other.json"
    other.write_text(json.dumps(["[1] > [2] > [3] > [4]"] * len(ANSWERS)))
    with pytest.raises(DataError, match="2 lists lie beside it"):
        convert(file, tmp_path / "out")
    made = convert(file, tmp_path / "out", permutations=other)
    assert made.counts["queries"] == len(ANSWERS)
    other.unlink()
    (tmp_path / "in" / "marco-gpt3.5.json").unlink()
    with pytest.raises(DataError, match="no list of permutations") as caught:
        convert(file, tmp_path / "out2")
    assert "--permutations" in (caught.value.fix or "")


@pytest.mark.parametrize("damage", ["cut", "flipped", "two files", "not a zip"])
def test_a_damaged_archive_is_a_data_error(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "in", packed=True)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[60] ^= 255
        file.write_bytes(data)
    elif damage == "two files":
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("second.jsonl", "x")
    else:
        file.write_bytes(b"hello")
    with pytest.raises(DataError):
        convert(file, tmp_path / "out", dialect="rankgpt")


def test_a_passage_that_was_retrieved_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "in", ANSWERS[:1])
    row = record(0)
    row["retrieved_passages"][3] = row["retrieved_passages"][0] | {"rank": 4}
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match="retrieved twice"):
        convert(file, tmp_path / "out")
    reading = Reading(lenient=True)
    assert convert(file, tmp_path / "out", reading=reading).counts["ranked documents"] == 3
    assert reading.counts["duplicate document"] == 1


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "aside"), [(502_939, 5_030), (90_699, 907)])
def test_one_percent_is_as_many_queries_as_published(queries: int, aside: int) -> None:
    assert len(HoldOut(0.01).choose(map(str, range(queries)), where="here")) == aside


def test_the_draw_depends_on_the_seed_and_the_ids_alone() -> None:
    ids = [f"q{i}" for i in range(100)]
    chosen = HoldOut(0.1).choose(ids, where="here")
    assert chosen == HoldOut(0.1).choose(reversed(ids), where="here")
    assert chosen != HoldOut(0.1, seed=7).choose(ids, where="here")
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError):
            HoldOut(share)
    with pytest.raises(DataError):
        HoldOut(0.9).choose(["one"], where="here")


def test_rankings_judgements_and_scores_are_divided_by_the_same_queries(tmp_path: Path) -> None:
    file = write(tmp_path / "in", ["[1] > [2] > [3] > [4]"] * 10)
    made = convert(file, tmp_path / "all", held=HoldOut(0.2))
    assert made.counts["queries for validation"] == 2
    ours, theirs = (read_run(tmp_path / "all" / f"ranking{x}.trec") for x in ("", ".validation"))
    assert (len(ours.queries), len(theirs.queries)) == (8, 2)
    splits = Dataset.open(tmp_path / "all").splits
    assert splits == ["train", "validation"]
    for name, run in (("train", ours), ("validation", theirs)):
        assert set(read_qrels(tmp_path / f"all/qrels/{name}.tsv").queries) == set(run.queries)
    # a data set is divided in the same way, and what other splits judge stays
    convert(file, tmp_path / "whole")
    (tmp_path / "whole/scores.tsv").write_text("".join(f"{q}\t{q}-1\t1.5\n" for q in range(10)))
    (tmp_path / "whole/qrels/dev.tsv").write_text("3\tp3\t1\n")
    convert(tmp_path / "whole", tmp_path / "again", held=HoldOut(0.2))
    aside = set(read_run(tmp_path / "again/ranking.validation.trec").queries)
    assert "3" not in aside
    assert len(aside) == 2
    assert aside == set(read_scores(tmp_path / "again/scores.validation.tsv", Reading()).queries)
    assert aside == set(read_qrels(tmp_path / "again/qrels/validation.tsv").queries)
    assert read_qrels(tmp_path / "again/qrels/dev.tsv").to_dict() == {"3": {"p3": 1}}
    with pytest.raises(DataError, match="already"):
        convert(tmp_path / "again", tmp_path / "third", held=HoldOut(0.2))
    with pytest.raises(UsageError, match="--validation"):
        convert(file, tmp_path / "fourth", to="trec", held=HoldOut(0.2))
    with pytest.raises(UsageError, match="--repair"):
        convert(tmp_path / "whole", tmp_path / "fifth", repair=True)


def test_a_ranking_goes_with_the_data_set(tmp_path: Path) -> None:
    convert(write(tmp_path / "in"), tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/ranking.trec").read_bytes() == (tmp_path / "b/ranking.trec").read_bytes()


# --- published sampling rules (multi-stage fine-tuning) ---------------------------------------------------------------


@pytest.fixture
def retrieved(tmp_path: Path) -> tuple[Path, Path]:
    """Three queries, ten documents retrieved for each: a positive within depth 4, one beyond it, one never found."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    docs = [f"{q}-{r}" for q in "abc" for r in range(1, 11)] + ["c-0"]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": d, "text": f"text {d}"}) + "\n" for d in docs))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": f"{q}?"}) + "\n" for q in "abcd"))
    (folder / "qrels/train.tsv").write_text("a\ta-2\t1\na\ta-3\t0\nb\tb-7\t1\nc\tc-0\t1\nd\ta-1\t0\n")
    run = tmp_path / "colbert.run"
    rows = [f"{q}\t0\t{q}-{r}\t{r}\t{20 - r}\tColBERT\n" for q in "abc" for r in range(1, 11)]
    run.write_text("".join([*rows, "d\t0\ta-1\t1\t1\tColBERT\n"]))
    return folder, run


def contrastive(folder: Path, run: Path) -> Supervision:
    """What recipes say for contrastive learning: negatives from a run to a depth, positives from the judgements."""
    sources = [
        Ranking(str(folder), run=str(run), depth=4, grade=0),
        Judged(str(folder), split="train"),
    ]
    return supervise(Mixture.of(Dataset.open(folder)), sources)


def test_a_positive_outside_the_depth_is_kept_as_judged_and_never_a_false_label(retrieved) -> None:
    found = contrastive(*retrieved)
    lists = {query: dict(zip(*found.candidates(i)[1:])) for i, query in enumerate(found.queries)}
    assert lists == {
        "a": {"a-1": 0, "a-2": 1, "a-3": 0, "a-4": 0},
        "b": {"b-1": 0, "b-2": 0, "b-3": 0, "b-4": 0, "b-7": 1},
        "c": {"c-0": 1, "c-1": 0, "c-2": 0, "c-3": 0, "c-4": 0},
    }
    assert found.outside == 2


def test_a_query_without_any_positive_is_left_out_and_counted(retrieved) -> None:
    found = contrastive(*retrieved)
    assert "d" not in found.queries
    assert found.dropped == 1


def test_one_relevant_document_and_others_without_repetition(retrieved) -> None:
    from rankwright.data import OneRelevant

    found = contrastive(*retrieved)
    for row in range(len(found)):
        for epoch in range(5):
            example = OneRelevant(negatives=99).choose(found.candidates(row), seed=1, epoch=epoch)
            assert [target > 0 for target in example.targets] == [True] + [False] * (len(example.docs) - 1)
            assert len(set(example.docs)) == len(example.docs) in (4, 5)


def test_a_list_of_zeros_teaches_nothing(retrieved) -> None:
    torch = pytest.importorskip("torch")
    from rankwright.losses import InfoNCE

    scores = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    targets, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    assert not InfoNCE().defined(targets, mask).any()
    InfoNCE()(scores, targets, mask).sum().backward()
    assert not scores.grad.any()


def test_distillation_takes_all_documents_of_the_ranking_in_an_order_of_chance(tmp_path: Path) -> None:
    from rankwright.data import Random

    convert(write(tmp_path / "in", ANSWERS[:1]), tmp_path / "out")
    source = Ranking(str(tmp_path / "out"), run=str(tmp_path / "out/ranking.trec"), target="rank")
    found = supervise(Mixture.of(Dataset.open(tmp_path / "out")), [source])
    orders = set()
    for epoch in range(20):
        example = Random(size=20).choose(found.candidates(0), seed=1, epoch=epoch)
        assert dict(zip(example.docs, example.targets)) == {"0-2": 4, "0-1": 3, "0-4": 2, "0-3": 1}
        orders.add(tuple(example.docs))
    assert len(orders) > 5


def test_an_unjudged_document_outranks_nothing(retrieved) -> None:
    """No judgement and a judgement of 0 are the same to training; a document that was not retrieved is in no list."""
    folder, run = retrieved
    table: Qrels = contrastive(folder, run).table
    assert table.to_dict()["a"]["a-3"] == table.to_dict()["a"]["a-1"] == 0
    assert "a-9" not in table.to_dict()["a"]
