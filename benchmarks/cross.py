"""Cross-encoders against sentence-transformers: peak memory of a step over list length, and the speed of re-ranking.

python -m benchmarks cross [--only memory|speed] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rankwright.console import table
from rankwright.storage import write_json, write_text

from ._texts import BACKBONE
from .common import RESULTS, Cell, interleave, machine
from .memory import resident

QUERIES, LENGTH = 4, 96  # of a step, and tokens of a pair
LISTS = {"RankNet": (8, 25, 50, 100, 200), "LambdaLoss": (8, 50)}
OURS, KEEPING = "rankwright, 2,048 tokens at a time", "rankwright, graphs of 16,384 tokens kept"
PEER, PEER_MINI = "ST", "ST, mini_batch_size 32"
CAP = 9e9  # bytes: a cell that would take more, by what the list before it took, is left out
RANK, RANK_EACH, RANK_PEER = "rankwright", "rankwright, a query at a time", "ST CrossEncoder.rank"
PACKAGES = ["transformers", "sentence-transformers"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cross")
    parser.add_argument("--only", choices=("memory", "speed"), help="measure it anew, keep the other as it was")
    parser.add_argument("--smoke", action="store_true", help="two short lists and a few pairs; nothing is written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(sys.argv[2:])
    if given.child:
        return _child(json.loads(given.child))
    kept = RESULTS / "cross.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if given.only and kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        _untrained(Path(folder))
        if given.only != "speed":
            found["memory"] = _memory(folder, {"RankNet": (2, 4)} if given.smoke else LISTS)
        if given.only != "memory":
            found["speed"] = _speed(Path(folder), *((2, 8, 1) if given.smoke else (8, 100, 3)))
    shown = {"memory": _memory_table, "speed": _speed_table}
    text = "\n\n".join(show(found[what]) for what, show in shown.items() if what in found)
    print(text)
    if not given.smoke:
        facts = machine(PACKAGES) | {"threads": os.cpu_count(), "backbone": BACKBONE}
        write_json(kept, found | {"machine": facts})
        write_text(RESULTS / "cross.txt", f"{text}\n\n{json.dumps(facts, indent=1)}\n")


def _untrained(folder: Path) -> None:
    """A cross-encoder with a new head, which both libraries open."""
    from rankwright.models import Cross

    Cross(BACKBONE, length=256, dropout=0.0).load(seed=0).save(folder)


# --- memory -------------------------------------------------------------------------------------


def _memory(folder: str, lists: dict[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Every cell in a process of its own; a list's contestants one after the other."""
    records: list[dict[str, Any]] = []
    for loss, sizes in lists.items():
        before: dict[str, tuple[int, float]] = {}
        for size in sizes:
            for who in (PEER, PEER_MINI, OURS, *([KEEPING] if loss == "RankNet" else [])):
                cell: dict[str, Any] = {"loss": loss, "list": size, "who": who}
                shorter, bytes_ = before.get(who, (size, 0.0))
                if who in (PEER, PEER_MINI) and (expected := bytes_ * size / shorter) > CAP:
                    records.append(cell | {"left_out": expected})
                    continue
                made = _in_a_process(cell | {"folder": folder})
                before[who] = size, made["bytes"]
                records.append(cell | made)
                print(records[-1], flush=True)
    return records


def _in_a_process(cell: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "cross", "--child", json.dumps(cell)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _child(cell: dict[str, Any]) -> None:
    """One step: its peak above what was resident before it, and its time."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    make = _theirs if cell["who"] in (PEER, PEER_MINI) else _ours
    queries, lists = _texts(QUERIES, cell["list"])
    work = make(cell, queries, lists)
    before = resident()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": top - before, "seconds": seconds}))


def _texts(queries: int, size: int) -> tuple[list[str], list[list[str]]]:
    """SciFact's claims, and different abstracts for each."""
    from rankwright.data import Dataset

    data = Dataset.open("bundled:scifact")
    asked = [data.queries[row].text for row in range(queries)]
    docs = [f"{(d := data.corpus[row]).title} {d.text}" for row in range(queries * size)]
    return asked, [docs[i * size : (i + 1) * size] for i in range(queries)]


def _grades(size: int) -> list[float]:
    return [float(place % 4) for place in range(size)]


def _ours(cell: dict[str, Any], queries: list[str], lists: list[list[str]]) -> Callable[[], object]:
    import torch

    from rankwright import losses
    from rankwright.models import Cross
    from rankwright.training import Memory, Objective, Step, Term
    from rankwright.types import Batch, Texts

    ranker = Cross(cell["folder"], length=LENGTH).load().train()
    n, size = len(queries), cell["list"]
    asked = ranker.tokenize(queries, "query").take(torch.arange(n).repeat_interleave(size))
    pairing = ranker.pairing
    assert pairing is not None
    pairs = pairing(asked, ranker.tokenize([doc for docs in lists for doc in docs], "doc"))
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        Texts(none, torch.zeros(n + 1, dtype=torch.int64)), pairs, torch.arange(n * size).view(n, size),
        torch.tensor([_grades(size)] * n), torch.ones(n, size, dtype=torch.bool), none, none, torch.zeros(0),
        tuple(f"q{i}" for i in range(n)), tuple(f"p{i}" for i in range(n * size)),
    )  # fmt: skip
    memory = Memory(tokens=2048, graph_tokens=0 if cell["who"] == OURS else 16384)
    step = Step(ranker, Objective([Term(getattr(losses, cell["loss"])(), "own")]), memory=memory)
    return lambda: step(batch, step=0)


def _theirs(cell: dict[str, Any], queries: list[str], lists: list[list[str]]) -> Callable[[], object]:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import losses

    model = CrossEncoder(cell["folder"], device="cpu", max_length=LENGTH).train()
    kinds = {"RankNet": losses.RankNetLoss, "LambdaLoss": losses.LambdaLoss}
    loss = kinds[cell["loss"]](model, mini_batch_size=32 if cell["who"] == PEER_MINI else None)
    labels = [torch.tensor(_grades(cell["list"])) for _ in queries]
    return lambda: loss([queries, lists], labels).backward()


def _memory_table(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    ours = {(r["loss"], r["list"]): r["seconds"] for r in records if r["who"] == OURS}
    for r in records:
        cells = [r["loss"], str(r["list"]), r["who"]]
        if "left_out" in r:
            rows.append([*cells, f"left out: about {r['left_out'] / 1e6:,.0f} MB", "", ""])
            continue
        ratio = r["seconds"] / ours[r["loss"], r["list"]]
        rows.append([*cells, f"{r['bytes'] / 1e6:,.0f} MB", f"{r['seconds']:.1f} s", f"{ratio:.2f}"])
    heads = ["loss", "documents a list", "who", "peak above what was loaded", "a step", "time / that of 2,048 tokens"]
    return f"A step of {QUERIES} queries, pairs of {LENGTH} tokens, dropout 0\n" + table(heads, rows)


# --- speed --------------------------------------------------------------------------------------


def _speed(folder: Path, queries: int, depth: int, rounds: int) -> dict[str, Any]:
    """The same pairs, from text to order, in float32."""
    import torch
    from sentence_transformers import CrossEncoder

    from rankwright.data import Dataset
    from rankwright.models import load
    from rankwright.search import rerank
    from rankwright.types import Run, Side

    torch.set_num_threads(os.cpu_count() or 1)
    data = Dataset.open("bundled:scifact")
    first = _bm25(data, queries, depth)
    claims = dict(zip(first.queries, (data.queries[int(row)].text for row in data.queries.rows(list(first.queries)))))
    ids = {query: docs for query, docs, _ in first}
    asked = {doc for docs in ids.values() for doc in docs}
    texts = {
        d.id: f"{d.title} {d.text}" for d in (data.corpus[row] for row in range(len(data.corpus))) if d.id in asked
    }
    ranker, peer = load(str(folder)), CrossEncoder(str(folder), device="cpu")

    def tokens(side: Side, names: Sequence[str]) -> _Rows:
        named = claims if side == "query" else texts
        return _Rows(ranker.tokenize([named[name] for name in names], side))

    def theirs() -> dict[str, dict[str, float]]:
        made = {query: peer.rank(claims[query], [texts[doc] for doc in docs]) for query, docs in ids.items()}
        return {q: {ids[q][hit["corpus_id"]]: float(hit["score"]) for hit in hits} for q, hits in made.items()}

    def each() -> dict[str, dict[str, float]]:
        parts = [Run.from_dict({query: dict(zip(docs, values))}) for query, docs, values in first]
        return {q: s for part in parts for q, s in rerank(ranker, part, tokens, depth=depth).to_dict().items()}

    contestants = {
        RANK_PEER: theirs,
        RANK_EACH: each,
        RANK: lambda: rerank(ranker, first, tokens, depth=depth).to_dict(),
    }
    expected = theirs()
    differences = {}
    for name in (RANK_EACH, RANK):
        found = contestants[name]()
        differences[name] = max(abs(found[q][d] - value) for q, some in expected.items() for d, value in some.items())
        assert differences[name] <= 1e-5, differences
    task = f"{queries} queries x {depth} documents of SciFact, pairs of at most 256 tokens"
    cell = interleave(task, contestants, rounds=rounds, warm_up=False)
    return {"task": task, "pairs": len(first), "queries": queries, "seconds": cell.seconds, "apart": differences}


class _Rows:
    """Texts tokenised in memory, as re-ranking wants them."""

    key = ""

    def __init__(self, texts: Any) -> None:
        self._texts = texts
        self.lengths = texts.lengths.numpy()

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, rows: Any) -> Any:
        import torch

        return self._texts.take(torch.from_numpy(rows))


def _bm25(data: Any, queries: int, depth: int) -> Any:
    from rankwright import assemble
    from rankwright.search import BM25

    with tempfile.TemporaryDirectory() as scratch:
        index = assemble.bm25_index(data, Path(scratch) / "bm25", BM25())
        return assemble.bm25_run(data, index, list(data.qrels("test").queries)[:queries], depth=depth)


def _speed_table(found: dict[str, Any]) -> str:
    cell = Cell(found["task"], found["seconds"])
    rows = []
    for who, seconds in cell.seconds.items():
        middle = sorted(seconds)[len(seconds) // 2]
        low, ratio, high = cell.ratios(RANK_PEER, who)
        speeds = [f"{found['pairs'] / middle:.1f}", f"{1000 * middle / found['queries']:,.0f} ms"]
        apart = f"{found['apart'][who]:.0e}" if who in found["apart"] else ""
        rows.append([who, *speeds, f"{low:.2f}", f"{ratio:.2f}", f"{high:.2f}", apart])
    heads = ["who", "pairs/s", "a query", "times as fast as ST: min", "median", "max", "scores apart by at most"]
    return f"Re-ranking, from text to order, float32: {found['task']}\n" + table(heads, rows)
