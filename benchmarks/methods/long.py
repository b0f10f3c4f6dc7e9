"""Long documents: cut off, in chunks, or read whole by more positions; and conversations, through the whole path.

    python -m benchmarks.methods.long WORK --data DIR [--seeds 0 1 2] [--only squality] [--jobs 2]

DIR holds squality and medquad. Every cell is a `rankwright run`, as one could type it; what is there is not done again.
MedQuAD's test is searched in the judged documents and the first 10 of BM25 for each test question.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import conversations
from .common import TRAIN, Cells, arguments, carry_out, command, test_judgements, trained_run, write_results
from .data import medquad, pooled

MEASURES = ("nDCG@10", "Success@5", "R@100")
CHUNKS = "chunks: {{length: 256, overlap: 64, score: {score}}}"
WAYS = {"published": "random", "random": "random", "tiled": "tiled", "interpolated": "interpolated"}
UNTOUCHED = ("cut-256", "cut-512", "chunks-max", "chunks-top", "chunks-mean")
TRAINED = ("trained-512", "trained-chunks", *(f"extended-{way}" for way in WAYS))
TURNS = ("turns-1", "turns-5", "turns-5-trained", "corpus-1", "corpus-5", "corpus-5-trained")  # pools; all chunks
PAIRS = [("cut-256", "cut-512"), ("cut-512", "chunks-max"), ("chunks-max", "chunks-top"), ("chunks-max", "chunks-mean")]
PAIRS += [("cut-512", "trained-512"), ("trained-512", "trained-chunks")]
PAIRS += [("trained-512", f"extended-{way}") for way in WAYS] + [("trained-chunks", "extended-tiled")]
PAIRS += [pair for of in ("turns", "corpus") for pair in ((f"{of}-1", f"{of}-5"), (f"{of}-5", f"{of}-5-trained"))]


@dataclass(frozen=True)
class Collection:
    """Where a collection is, how far an extended model reads it, and how it is trained."""

    train: str
    test: str
    positions: int
    batch: int
    steps: int
    whole: int  # tokens of a document in chunks


def collections(work: Path) -> dict[str, Collection]:
    folder = work / "data"
    return {
        "squality": Collection(str(folder / "squality"), str(folder / "squality"), 2048, 4, 16, 8192),
        "medquad": Collection(str(folder / "medquad"), str(folder / "medquad-near"), 1024, 8, 16, 2048),
    }


def cell(name: str, condition: str, collection: Collection, work: Path, seed: int) -> list[str]:
    """One cell as a command."""
    model = ["backbone: sentence-transformers/all-MiniLM-L6-v2"]
    way = condition.removeprefix("extended-")
    if condition in ("cut-256", "cut-512", "trained-512"):
        model.append(f"doc_length: {condition[-3:]}")
    elif way in WAYS:
        model += [f"positions: {collection.positions}", f"extension: {WAYS[way]}"]
        model += ["freeze: [embeddings.position_embeddings]"] if way == "published" else []
    else:
        score = condition.removeprefix("chunks-") if condition in UNTOUCHED else "max"
        model += [CHUNKS.format(score=score), f"doc_length: {collection.whole}"]
    given = [f"model.Dense={{{', '.join(model)}}}", f"seed={seed}"]
    given += ["stages=[]"] if condition in UNTOUCHED else _stage(collection)
    if condition == "trained-chunks":  # as far as an extended model reads: the cost of training is the same
        given.append(f"stages.0.doc_length={collection.positions}")
    evaluation = f"dataset: {collection.test!r}, split: test, measures: [nDCG@10, R@100], depth: 100, baselines: []"
    return _run(given, evaluation, work / name / f"{condition}-{seed}")


def turns(condition: str, work: Path, seed: int) -> list[str]:
    """A cell of the conversations: the last question alone or the last five turns, in pools or among all chunks."""
    data = work / "data" / f"chats-{condition.split('-')[1]}"
    given = ["model.Dense={backbone: sentence-transformers/all-MiniLM-L6-v2, query_cut: left}", f"seed={seed}"]
    if condition.endswith("trained"):
        given += _stage(Collection(str(data), str(data), 0, 16, 24, 0))
    else:
        given.append("stages=[]")
    evaluation = f"dataset: {str(data)!r}, split: test, measures: [nDCG@10, R@100], depth: 100, baselines: []"
    pool = ", rerank: {first: pool}" if condition.startswith("turns") else ""
    return _run(given, evaluation + pool, work / "chats" / f"{condition}-{seed}")


def _stage(collection: Collection) -> list[str]:
    """In-batch negatives alone: long documents are dear."""
    return [
        f"stages.0.data=[{{Judged: {{dataset: {collection.train!r}, split: train}}}}]", "stages.0.mine=null",
        "stages.0.group={Random: {size: 1}}", f"stages.0.batches.Shuffled.size={collection.batch}",
        "stages.0.query_length=null", "stages.0.doc_length=null",
        TRAIN.format(rate="3e-5", steps=collection.steps),
    ]  # fmt: skip


def _run(given: Sequence[str], evaluation: str, folder: Path) -> list[str]:
    return command(
        "run", "mini-longseq-cached-4", "--folder", folder, "device=cpu", f"evaluate=[{{{evaluation}}}]", *given
    )


def prepare(data: Path, work: Path) -> None:
    """The collections and the conversations, where they are not there."""
    folder = work / "data"
    if not (folder / "medquad").exists():
        medquad(data / "medquad", folder / "medquad")
    if not (folder / "medquad-near").exists():
        pooled(str(folder / "medquad-test"), folder / "medquad-near", depth=10)
    if not (folder / "squality").exists():
        squality(data / "squality", folder / "squality")
    if not (folder / "chats").exists():
        conversations.write(data / "medquad", folder / "chats")
    for last in ("1", "5"):
        carry_out(command("convert", folder / "chats", "--turns", last, "--out", folder / f"chats-{last}"))


def squality(source: Path, folder: Path) -> None:
    """SQuALITY's own splits, its texts as they are."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus", "queries"):
        rows = gzip.decompress((source / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(json.loads(row)) + "\n" for row in rows))
    for split in ("train", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text((source / "qrels" / f"{split}.tsv").read_text())


def main() -> None:
    parser = arguments("long", __doc__, "squality, medquad, chats")
    parser.add_argument("--conditions", nargs="+", help="of all, only these")
    args = parser.parse_args()
    if args.data:
        prepare(args.data, args.work)
    known = collections(args.work)
    cells: dict[tuple[str, str, int], list[str]] = {}
    for seed in args.seeds:
        for name, collection in known.items():
            for condition in (*UNTOUCHED, *TRAINED):
                if condition in TRAINED or seed == args.seeds[0]:
                    cells[name, condition, seed] = cell(name, condition, collection, args.work, seed)
        for condition in TURNS:
            if condition.endswith("trained") or seed == args.seeds[0]:
                cells["chats", condition, seed] = turns(condition, args.work, seed)
    chosen = [
        words for (name, condition, _), words in cells.items()
        if name in (args.only or [name]) and condition in (args.conditions or [condition])
    ]  # fmt: skip
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(carry_out, chosen))
    made = {key: Path(words[words.index("--folder") + 1]) for key, words in cells.items()}
    runs = {key: path for key, folder in made.items() if (path := trained_run(folder))}
    tests = {name: collection.test for name, collection in known.items()} | {
        "chats": str(args.work / "data" / "chats-5")
    }
    judged = {name: test_judgements(test) for name, test in tests.items()}
    write_results("long-methods", Cells(runs, judged, MEASURES), PAIRS)


if __name__ == "__main__":
    main()
