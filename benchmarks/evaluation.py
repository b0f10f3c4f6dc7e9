"""Measures against pytrec_eval and ir_measures, run files against its parser, answers against plain tokens."""

from __future__ import annotations

import argparse
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.data.formats import read_run, write_run
from rankwright.evaluation import evaluate
from rankwright.names import Names
from rankwright.types import Document, Qrels, Run

from .common import Cell, interleave, publish

OURS = "rankwright"
QUERIES, DEPTH, JUDGED = 1000, 1000, 40
SPACES = {"100k": 100_000, "1M": 1_000_000, "8.8M": 8_800_000}
MEASURES = ["nDCG@10", "RR@10", "R@100", "R@1000", "AP"]
TREC = {"ndcg_cut.10", "recip_rank", "recall.100,1000", "map"}


def make(documents: int, *, ties: bool) -> tuple[Run, dict[str, dict[str, int]]]:
    """A random ranking over an id space, its vocabulary packed as a search or a reader leaves it; judgements of it."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.choice(documents, DEPTH, replace=False, shuffle=True) for _ in range(QUERIES)])
    scores = rng.normal(20, 3, (QUERIES, DEPTH))
    scores = -np.sort(-(np.round(scores, 2) if ties else scores), axis=1)
    used, columns = np.unique(rows, return_inverse=True)
    docs = tuple(f"{row}" for row in used.tolist())
    queries = tuple(f"{1000 + i}" for i in range(QUERIES))
    run = Run(queries, Names.of(docs), np.arange(QUERIES + 1) * DEPTH, columns.astype(np.int32), scores.ravel())
    judged: dict[str, dict[str, int]] = {}
    for i, query in enumerate(queries):
        found = rng.choice(columns[i * DEPTH : (i + 1) * DEPTH], JUDGED // 2, replace=False)
        names = {docs[c] for c in found} | {f"{row}" for row in rng.integers(0, documents, JUDGED // 2)}
        judged[query] = {name: int(rng.integers(0, 3)) for name in sorted(names)}
    return run, judged


def measures(rounds: int) -> list[Cell]:
    """Every id space with and without ties; and once with ids as Python strings, which `Run.from_dict` leaves."""
    import ir_measures
    import pytrec_eval

    asked = [ir_measures.parse_measure(measure) for measure in MEASURES]
    cells = []
    for name, documents in SPACES.items():
        for kind in ("", ", ties", ", strings"):
            run, judged = make(documents, ties=kind == ", ties")
            qrels, ranking = Qrels.from_dict(judged), run.to_dict()
            run = Run.from_dict(ranking) if kind == ", strings" else run
            contestants = {
                "pytrec_eval": lambda d=judged, r=ranking: pytrec_eval.RelevanceEvaluator(d, TREC).evaluate(r),
                "ir_measures": lambda d=judged, r=ranking: ir_measures.calc_aggregate(asked, d, r),
                OURS: lambda run=run, qrels=qrels: evaluate(run, qrels, MEASURES),
            }
            cells.append(interleave(f"evaluate, {name} ids{kind}", contestants, rounds=rounds))
    return cells


def files(rounds: int) -> list[Cell]:
    import pytrec_eval

    def parsed(path: Path) -> Any:
        with path.open() as file:
            return pytrec_eval.parse_run(file)

    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for name, documents in SPACES.items():
            run, _ = make(documents, ties=False)
            path = Path(folder) / f"{name}.trec"
            write_run(path, run)
            assert read_run(path).to_dict() == parsed(path)
            contestants = {"pytrec_eval": lambda p=path: parsed(p), OURS: lambda p=path: read_run(p)}
            cells.append(interleave(f"read a run of {len(run):,} lines, {name} ids", contestants, rounds=rounds))
    return cells


def answers(rounds: int) -> list[Cell]:
    """Top-100 passages of questions with three answers each: ours, and every passage cut into tokens and compared."""
    import regex

    from rankwright.data import Dataset
    from rankwright.evaluation.answers import retrieved

    pattern = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
    corpus = Dataset.open("bundled:scifact").corpus
    documents = {d.id: Document(d.id, "", " ".join(d.text.split()[:100])) for d in corpus}
    rng = np.random.default_rng(0)
    table, asked = {}, {}
    for query in range(50):
        found = rng.choice(list(documents), 100, replace=False).tolist()
        first = documents[found[0]].text.split()
        start = int(rng.integers(0, len(first) - 1))
        table[str(query)] = {doc: 100.0 - rank for rank, doc in enumerate(found)}
        asked[str(query)] = [" ".join(first[start : start + 2]), "Albert Einstein", "14 March 1879"]
    run = Run.from_dict(table)

    def cut(text: str) -> list[str]:
        return [token.lower() for token in pattern.findall(unicodedata.normalize("NFD", text))]

    def holds(text: list[str], parts: list[list[str]]) -> bool:
        return any(part == text[i : i + len(part)] for part in parts for i in range(len(text)))

    def plain() -> list[bool]:
        wanted = {query: [cut(answer) for answer in found] for query, found in asked.items()}
        return [holds(cut(documents[doc].text), wanted[query]) for query, docs in table.items() for doc in docs]

    def ours() -> list[bool]:
        rows = retrieved(run, asked, lambda ids: [documents[key] for key in ids])
        return [found for row in rows for found in row.has_answer]

    assert ours() == plain()
    return [interleave(f"look for answers in {len(run):,} passages", {"all tokens": plain, OURS: ours}, rounds=rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks evaluation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args([a for a in sys.argv[1:] if a != "evaluation"])
    cells = measures(args.rounds) + files(args.rounds) + answers(args.rounds)
    publish("evaluation", cells, ours=OURS, packages=["pytrec_eval-terrier", "ir-measures", "pyarrow"])


if __name__ == "__main__":
    main()
