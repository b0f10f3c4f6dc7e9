"""Files of questions with answers: each layout, joined to queries by id, by text or by place; retrieval output."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright.data import Corpus, Dataset, Reading, read_answers, read_questions, write_retrieved
from rankwright.data.dialects import convert, detect
from rankwright.errors import DataError
from rankwright.types import Document

WANTED = {"0": ("14 December 1972", "December 1972"), "1": ('Queen\'s "A"',)}
QUESTIONS = ["who walked last on the moon", "which song, then"]


@pytest.fixture
def queries(tmp_path: Path) -> Corpus:
    rows = [Document("q7", "", QUESTIONS[1]), Document("q3", "", QUESTIONS[0])]
    return Corpus.build(tmp_path / "queries", rows, key="1")


FILES = {
    "dpr.csv": "who walked last on the moon\t['14 December 1972', 'December 1972']\n"
    "which song, then\t\"['Queen\\'s \"\"A\"\"']\"\n",
    "comma.csv": 'question,answers\nwho walked last on the moon,"[""14 December 1972"", ""December 1972""]"\n'
    '"which song, then","Queen\'s ""A"""\n',
    "named.tsv": "possible_answers\tquery\n['14 December 1972', 'December 1972']\twho walked last on the moon\n"
    'Queen\'s "A"\twhich song, then\n'.replace('Queen\'s "A"', '"Queen\'s ""A"""'),
    "lines.jsonl": "".join(
        json.dumps({"question": q, "answer": a}) + "\n" for q, a in zip(QUESTIONS, map(list, WANTED.values()))
    ),
    "list.json": json.dumps([{"question": q, "answers": [*a]} for q, a in zip(QUESTIONS, WANTED.values())], indent=1),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_layout_gives_the_same_answers(tmp_path, queries, name):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(FILES[name].encode()))
    assert read_answers(path) == WANTED
    assert read_answers(path, queries=queries) == {"q3": WANTED["0"], "q7": WANTED["1"]}
    assert read_questions(path)["1"].text == "which song, then"


def test_ids_win_over_texts_and_a_question_that_occurs_again_adds_answers(tmp_path, queries):
    path = tmp_path / "a.jsonl"
    rows = [{"_id": "q3", "answers": ["x"]}, {"id": "q3", "question": "as it may be", "answers": ["y", "x"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_answers(path, queries=queries) == {"q3": ("x", "y")}
    assert read_questions(path, queries=queries)["q3"].text == QUESTIONS[0]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a\t__import__('os').system('true')\tb", "3 columns"),
        ("a\t[__import__('os')]", "no list of strings"),
        ("a\t['b', 1]", "no list of strings"),
        ("a\t[]", "answers are missing"),
        ('a\t"["b"]', "not CSV"),
        ("a\t['b', 'c", r"no list of strings: \"\['b', 'c\""),
    ],
)
def test_what_is_no_list_of_answers_is_refused_and_never_run(tmp_path, line, what):
    path = tmp_path / "a.tsv"
    path.write_text(f"good\t['fine']\n{line}\n")
    with pytest.raises(DataError, match=what) as caught:
        read_answers(path)
    assert str(caught.value.where).endswith("a.tsv:2")
    reading = Reading(lenient=True)
    assert read_answers(path, reading) == {"0": ("fine",)}
    assert reading.counts.total() == 1


@pytest.mark.filterwarnings("error")
def test_long_lists_titles_in_brackets_and_patterns_are_answers(tmp_path):
    (tmp_path / "a.tsv").write_text(f"q\t{['x' * 70_000, 'y' * 70_000]}\nr\t['\\d+']\ns\t[REC] 2\n")
    assert read_answers(tmp_path / "a.tsv") == {"0": ("x" * 70_000, "y" * 70_000), "1": ("\\d+",), "2": ("[REC] 2",)}
    (tmp_path / "b.tsv").write_text("q\t['\\ud800']\n")  # could not be written again
    with pytest.raises(DataError, match="half of a surrogate pair"):
        read_answers(tmp_path / "b.tsv")


def test_a_question_that_is_not_among_the_queries(tmp_path, queries):
    path = tmp_path / "a.tsv"
    path.write_text(f"{QUESTIONS[0]}\t['x']\nwho else\t['y']\n")
    with pytest.raises(DataError, match="'who else' is not among the queries"):
        read_answers(path, queries=queries)
    assert read_answers(path, Reading(lenient=True), queries=queries) == {"q3": ("x",)}


def test_retrieval_output_is_one_json_list(tmp_path):
    rows = [{"question": "é", "answers": ["a"], "ctxs": []}, {"question": "b", "answers": [], "ctxs": [{"id": "1"}]}]
    for name, opened in (("a.json", open), ("a.json.gz", gzip.open)):
        write_retrieved(tmp_path / name, rows)
        with opened(tmp_path / name) as file:
            assert json.load(file) == rows
    write_retrieved(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize("name", ["dpr.csv", "lines.jsonl", "list.json"])
def test_questions_and_passages_become_a_data_set(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    (tmp_path / "psgs.tsv").write_text('id\ttext\ttitle\n1\t"in ""December"" 1972"\tMoon\n')
    assert detect(tmp_path / name) == "questions"
    made = convert(tmp_path / name, tmp_path / "out", split="test", corpus=tmp_path / "psgs.tsv")
    assert made.counts["questions with answers"] == 2
    assert made.counts["documents"] == 1
    dataset = Dataset.open(tmp_path / "out", cache=tmp_path / "cache")
    assert dataset.corpus[0] == Document("1", "Moon", 'in "December" 1972')
    answers = dataset.answers("test")
    assert {query.text: answers[query.id] for query in dataset.queries} == dict(zip(QUESTIONS, WANTED.values()))
    with pytest.raises(DataError, match="no answers of a split 'dev'; there are: test"):
        dataset.answers("dev")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(FILES)), st.integers(0, 400), st.binary(max_size=12))
def test_damaged_files_are_read_or_refused(tmp_path, name, at, noise):
    path = tmp_path / name
    data = FILES[name].encode()
    path.write_bytes(data[:at] + noise + data[at:])
    for reading in (Reading(), Reading(lenient=True)):
        with suppress(DataError):  # and nothing else
            read_answers(path, reading)
