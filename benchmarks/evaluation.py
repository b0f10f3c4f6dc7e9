"""Measures on arrays against pytrec_eval and ir_measures, and run files against pytrec_eval's parser, interleaved."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.data.formats import read_run
from rankwright.evaluation import evaluate
from rankwright.types import Qrels, Run

RESULTS = Path(__file__).parent / "results"
QUERIES, DEPTH, JUDGED = 1000, 1000, 40
SPACES = {"100k": 100_000, "1M": 1_000_000, "8.8M": 8_800_000}
MEASURES = ["nDCG@10", "RR@10", "R@100", "R@1000", "AP"]
TREC = {"ndcg_cut.10", "recip_rank", "recall.100,1000", "map"}


def make(documents: int, *, ties: bool) -> tuple[Run, dict[str, dict[str, int]]]:
    """A random ranking over an id space, with the vocabulary that a search or a file leaves; and judgements of it."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.choice(documents, DEPTH, replace=False, shuffle=True) for _ in range(QUERIES)])
    scores = rng.normal(20, 3, (QUERIES, DEPTH))
    scores = -np.sort(-(np.round(scores, 2) if ties else scores), axis=1)
    used, columns = np.unique(rows, return_inverse=True)
    docs = tuple(f"{row}" for row in used.tolist())
    queries = tuple(f"{1000 + i}" for i in range(QUERIES))
    run = Run(queries, docs, np.arange(QUERIES + 1) * DEPTH, columns.astype(np.int32), scores.ravel())
    judged: dict[str, dict[str, int]] = {}
    for i, query in enumerate(queries):
        found = rng.choice(columns[i * DEPTH : (i + 1) * DEPTH], JUDGED // 2, replace=False)
        names = {docs[c] for c in found} | {f"{row}" for row in rng.integers(0, documents, JUDGED // 2)}
        judged[query] = {name: int(rng.integers(0, 3)) for name in sorted(names)}
    return run, judged


def timed(rounds: int, **calls: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each call in each round, one after the other within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def row(case: str, seconds: dict[str, list[float]]) -> str:
    """A line of the table: our time and each peer's ratio to ours, minimum and median over the rounds."""
    ours, *peers = seconds
    cells = [f"{min(seconds[ours]):.3f} s"]
    for peer in peers:
        ratios = [theirs / own for theirs, own in zip(seconds[peer], seconds[ours])]
        low = min(seconds[peer])
        cells.append(
            f"{peer} {low:.3f} s, ratio of minima {low / min(seconds[ours]):.2f}, "
            f"by round {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
        )
    return f"| {case} | " + " | ".join(cells) + " |"


def measures(rounds: int) -> dict[str, dict[str, list[float]]]:
    import ir_measures
    import pytrec_eval

    made = {}
    for name, documents in SPACES.items():
        for ties in (False, True):
            run, judged = make(documents, ties=ties)
            qrels, ranking = Qrels.from_dict(judged), run.to_dict()
            asked = [ir_measures.parse_measure(measure) for measure in MEASURES]
            case = f"evaluate, {name} ids{', ties' if ties else ''}"
            made[case] = timed(
                rounds,
                ours=lambda run=run, qrels=qrels: evaluate(run, qrels, MEASURES),
                pytrec_eval=lambda d=judged, r=ranking: pytrec_eval.RelevanceEvaluator(d, TREC).evaluate(r),
                ir_measures=lambda d=judged, r=ranking, a=asked: ir_measures.calc_aggregate(a, d, r),
            )
            print(row(case, made[case]), flush=True)
    return made


def files(rounds: int) -> dict[str, dict[str, list[float]]]:
    import pytrec_eval

    def parsed(path: Path) -> Any:
        with path.open() as file:
            return pytrec_eval.parse_run(file)

    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, documents in SPACES.items():
            run, _ = make(documents, ties=False)
            path = Path(folder) / f"{name}.trec"
            with path.open("w") as file:
                for query, docs, scores in run:
                    rows = enumerate(zip(docs, scores.tolist()), 1)
                    file.writelines(f"{query} Q0 {doc} {i} {score!r} tag\n" for i, (doc, score) in rows)
            assert read_run(path).to_dict() == parsed(path)
            case = f"read a run of {len(run):,} lines, {name} ids"
            made[case] = timed(rounds, ours=lambda p=path: read_run(p), pytrec_eval=lambda p=path: parsed(p))
            print(row(case, made[case]), flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks evaluation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args([a for a in sys.argv[1:] if a != "evaluation"])
    made = measures(args.rounds) | files(args.rounds)
    lines = [row(case, seconds) for case, seconds in made.items()]
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    (RESULTS / "evaluation.json").write_text(json.dumps({"machine": machine, "seconds": made}, indent=1) + "\n")
    head = "# Evaluation\n\n| case | ours | peers |  |\n|---|---|---|---|\n"
    (RESULTS / "evaluation.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
