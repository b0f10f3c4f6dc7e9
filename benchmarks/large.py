"""A corpus larger than memory: peak memory of each step over corpus size, each step in a process of its own."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.console import table
from rankwright.storage import write_json, write_text

from .common import RESULTS, machine

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "tiny" / "model"
QUERIES, WORDS, DEPTH = 200, 40, 100
SIZES = (50_000, 100_000, 200_000)
GOAL = 5_000_000
MIB = 1 << 20


def generate(folder: Path, documents: int, length: int) -> None:
    """A BEIR folder of documents of so many random words; the same for the same size."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(20_000)]
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as file:
        for i in range(documents):
            file.write(
                json.dumps({"_id": f"doc{i:08d}", "title": "", "text": " ".join(draw.choices(words, k=length))}) + "\n"
            )
    with (folder / "queries.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"_id": f"q{i}", "text": " ".join(draw.choices(words, k=8))}) + "\n" for i in range(QUERIES)
        )
    with (folder / "qrels" / "train.tsv").open("w") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"q{i}\tdoc{draw.randrange(documents):08d}\t1\n" for i in range(QUERIES))


# --- the steps, each over what the one before left on disk ------------------------------------------------------------


def _open(folder: Path) -> Any:
    from rankwright.data import Dataset

    return Dataset.open(folder, cache=folder / "cache")


def _model() -> Any:
    from rankwright.models import load

    return load(MODEL)


def corpus(folder: Path) -> None:
    _open(folder)


def tokens(folder: Path) -> None:
    from rankwright import assemble

    data = _open(folder)
    assemble.tokens(_model(), data.corpus, "doc", cache=data.cache)


def encode(folder: Path) -> None:
    from rankwright import assemble

    assemble.encode_corpus(_model(), _open(folder), folder / "vectors", device="cpu")


def search(folder: Path) -> None:
    from rankwright import assemble
    from rankwright.search import Vectors

    data = _open(folder)
    ids = list(data.queries.ids)
    assemble.dense_run(
        _model(), data, Vectors.open(folder / "vectors"), ids, depth=DEPTH, device="cpu", folder=folder / "run"
    )


def mine(folder: Path) -> None:
    from rankwright import assemble
    from rankwright.data.formats import write_qrels
    from rankwright.search import Exact, Mine, Vectors, open_ranking
    from rankwright.search import mine as mine_negatives

    data, run = _open(folder), open_ranking(folder / "run")
    known = data.qrels("train")
    index = Exact(Vectors.open(folder / "vectors"))
    queries = assemble.encode_queries(_model(), data, run.queries, device="cpu")
    positives = index.score(queries, run.queries, pairs=known)
    negatives, _ = mine_negatives(run, known, Mine(relative_margin=0.05), positives=positives)
    write_qrels(folder / "negatives.tsv", negatives)


STEPS: dict[str, Callable[[Path], None]] = {
    "corpus": corpus, "tokens": tokens, "encode": encode, "search": search, "mine": mine,
}  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------------------------


def _status() -> dict[str, int]:
    """Fields of /proc/self/status in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}


def _measured(step: str, folder: Path) -> dict[str, float]:
    """Seconds and peaks of a step run here: resident, and the anonymous part of it, sampled every 10 ms."""
    peak, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _status()["RssAnon"])

    thread = threading.Thread(target=sample)
    thread.start()
    start = time.perf_counter()
    try:
        STEPS[step](folder)
    finally:
        done.set()
        thread.join()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_rss": _status()["VmHWM"], "peak_anon": peak[0]}


def _in_own_process(step: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.large", "--step", step, "--folder", str(folder)]
    made = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(made.stdout.splitlines()[-1])


def _summary(sizes: Sequence[int], measured: dict[str, list[dict[str, float]]]) -> str:
    """Peaks by step and size; over several sizes also the slope of the anonymous part and what it makes of GOAL."""
    heads = ["step", *(f"{n:,}: RSS / anon MiB" for n in sizes), "s (largest)"]
    if len(sizes) > 1:
        heads += ["anon B/doc", f"anon at {GOAL:,}, MiB"]
    rows = []
    for step, cells in measured.items():
        values = [f"{cell['peak_rss'] / MIB:.0f} / {cell['peak_anon'] / MIB:.0f}" for cell in cells]
        row = [step, *values, f"{cells[-1]['seconds']:.1f}"]
        if len(sizes) > 1:
            slope, base = np.polyfit(sizes, [cell["peak_anon"] for cell in cells], 1)
            row += [f"{slope:.0f}", f"{(base + slope * GOAL) / MIB:.0f}"]
        rows.append(row)
    return table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks large", description=__doc__)
    parser.add_argument("--documents", type=int, help=f"one size; without it {SIZES}")
    parser.add_argument("--words", type=int, default=WORDS, help="of a document")
    parser.add_argument("--folder", type=Path, help="where the corpora go (5,000,000 documents: about 8 GB)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args([a for a in sys.argv[1:] if a != "large"])
    if args.step:
        print(json.dumps(_measured(args.step, args.folder)))
        return
    sizes = [args.documents] if args.documents else list(SIZES)
    measured: dict[str, list[dict[str, float]]] = {step: [] for step in STEPS}
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        for size in sizes:
            folder = Path(scratch) / str(size)
            generate(folder, size, args.words)
            for step in STEPS:
                measured[step].append(_in_own_process(step, folder))
                print(
                    size, step, {k: round(v / (MIB if k != "seconds" else 1), 1) for k, v in measured[step][-1].items()}
                )
    text = _summary(sizes, measured)
    print(text)
    name = f"large-{args.documents}" if args.documents else "large"
    facts = machine(["transformers", "tokenizers", "pyarrow"])
    write_json(RESULTS / f"{name}.json", {"sizes": sizes, "words": args.words, "measured": measured, "machine": facts})
    write_text(RESULTS / f"{name}.txt", f"{text}\n\n{json.dumps(facts, indent=1)}\n")


if __name__ == "__main__":
    main()
