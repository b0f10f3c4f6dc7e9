"""`bundled:scifact-levels`: each training claim with a passage of level 3, 2, 1 and 0, cut from abstracts by rule.

It stands in for the passages that SyCL has a language model write. A passage is half of an abstract, by sentences:

- 3: the half of a cited abstract that shares the most with the claim (each word weighted by its rarity, BM25's idf);
- 2: the other half of that abstract;
- 1: the half that shares the most of an abstract that is not cited and that BM25 ranks among the first ten;
- 0: a half of an abstract drawn by chance.

`python -m benchmarks.methods.levels FOLDER` writes it (SciFact's licences apply: see LICENSE.md there).
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.search import BM25

_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z0-9\[(])")
_WORD = re.compile(r"[a-z0-9]+")
LONGEST = 90  # words of a passage


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def halves(text: str, claim: str, idf: dict[str, float]) -> tuple[str, str]:
    """The sentences of a text in two halves, each in order: those that share the most with the claim, and the rest."""
    sentences = _SENTENCE.split(text)
    asked = set(words(claim))
    shared = [sum(idf.get(word, 0.0) for word in asked & set(words(sentence))) for sentence in sentences]
    best = set(np.argsort([-s for s in shared], kind="stable")[: (len(sentences) + 1) // 2].tolist())
    parts = [s for i, s in enumerate(sentences) if i in best], [s for i, s in enumerate(sentences) if i not in best]
    first, second = (" ".join(" ".join(part).split()[:LONGEST]) for part in parts)
    return first, second


def rarity(texts: Sequence[str]) -> dict[str, float]:
    """BM25's idf of every word."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in set(words(text)):
            counts[word] = counts.get(word, 0) + 1
    return {word: float(np.log(1 + (len(texts) - n + 0.5) / (n + 0.5))) for word, n in counts.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    data = Dataset.open("bundled:scifact", reading=Reading())
    judged, corpus = data.qrels("train").to_dict(), data.corpus
    idf = rarity([corpus[row].text for row in range(len(corpus))])
    queries = list(judged)
    with tempfile.TemporaryDirectory() as scratch:
        index = assemble.bm25_index(data, Path(scratch) / "bm25", BM25())
        hard = assemble.bm25_run(data, index, queries, depth=10).to_dict()
    draw = np.random.default_rng(0)
    passages, grades, texts = [], [], []
    for query in queries:
        claim = data.queries[int(data.queries.rows([query])[0])].text
        texts.append({"_id": query, "text": claim})
        cited = corpus[int(corpus.rows([next(iter(judged[query]))])[0])]
        near = [doc for doc in hard[query] if doc not in judged[query]]
        near_by = corpus[int(corpus.rows([near[int(draw.integers(len(near)))]])[0])]
        chance = corpus[int(draw.integers(len(corpus)))]
        made = [
            *halves(cited.text, claim, idf),
            halves(near_by.text, claim, idf)[0],
            halves(chance.text, claim, idf)[0],
        ]
        for level, passage in zip((3, 2, 1, 0), made):
            if passage:
                name = f"{query}_l_{level}_d_0"
                passages.append({"_id": name, "title": "", "text": passage})
                grades.append(f"{query}\t{name}\t{level}\n")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", passages), ("queries", texts)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines, 9, mtime=0))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(grades))


if __name__ == "__main__":
    main()
