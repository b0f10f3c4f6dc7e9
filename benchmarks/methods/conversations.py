"""Conversations made of MedQuAD's questions by rule, in ChatRAG-Bench's layout: a small set for the whole path.

A topic (the title of MedQuAD's answers) with three questions or more is one document: its answers, cut into pieces of
100 words. A conversation about it asks three of its questions in a drawn order. Each answer is said by its first 30
words, and from the second question on the topic's name is replaced by "it": among all documents only the turns before
tell what is meant (in the pool of one document the last question is enough).
The gold chunk is the first piece of the last question's answer. Whole topics are drawn for training or test.

    python -m benchmarks.methods.conversations MEDQUAD FOLDER
    rankwright convert FOLDER --out DATA
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from rankwright.data import Dataset, Reading

PIECE, SAID, TURNS, TOPICS, TEST = 100, 30, 3, 400, 0.25


def write(source: str | Path, folder: Path, *, topics: int = TOPICS) -> None:
    """Write ``documents.json``, ``train.json`` and ``test.json`` into `folder`."""
    data = Dataset.open(source, reading=Reading(lenient=True))
    about: dict[str, dict[str, str]] = {}  # topic -> question -> the document that answers it
    for query, docs in data.qrels("train").to_dict().items():
        answer = data.corpus[int(data.corpus.rows([next(iter(docs))])[0])]
        question = data.queries[int(data.queries.rows([query])[0])].text
        about.setdefault(answer.title.strip(), {})[question] = answer.text
    draw = np.random.default_rng(0)
    names = [name for name, asked in about.items() if name and len(set(asked.values())) >= TURNS]
    names = [names[at] for at in draw.permutation(len(names))[:topics]]
    documents: dict[str, list[str]] = {}
    records: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for number, name in enumerate(names):
        split = "test" if number < TEST * len(names) else "train"
        key, chunks, first = f"topic-{number}", [], {}
        for answer in dict.fromkeys(about[name].values()):
            first[answer] = len(chunks)
            words = answer.split()
            chunks += [" ".join(words[at : at + PIECE]) for at in range(0, max(len(words), 1), PIECE)]
        documents[key] = chunks
        questions = list(about[name])
        for _ in range(2):
            chosen = [questions[at] for at in draw.permutation(len(questions))[:TURNS]]
            records[split].append(_record(key, name, chosen, about[name], first))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.json").write_text(json.dumps(documents))
    for split, rows in records.items():
        (folder / f"{split}.json").write_text(json.dumps(rows))


def _record(
    document: str, topic: str, questions: list[str], answers: dict[str, str], first: dict[str, int]
) -> dict[str, object]:
    turns: list[dict[str, str]] = []
    for number, question in enumerate(questions):
        text = re.sub(re.escape(topic), "it", question, flags=re.IGNORECASE) if number else question
        turns.append({"role": "user", "content": text})
        if number < len(questions) - 1:
            turns.append({"role": "assistant", "content": " ".join(answers[question].split()[:SAID])})
    gold = answers[questions[-1]]
    return {"messages": turns, "document": document, "ground_truth_ctx": {"index": first[gold]}, "answers": [gold]}


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
