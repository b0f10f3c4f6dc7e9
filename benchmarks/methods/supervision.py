"""Graded lists against binary ones, topic batches against random ones, two teachers against one; over seeds.

    python -m benchmarks.methods.supervision WORK [--data DIR] [--seeds 0 1 2] [--only medquad] [--jobs 2]

Every cell is a `rankwright run` of a mini recipe, as one could type it. What is there already is not done again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .._texts import BACKBONE
from .common import TRAIN, Cells, arguments, carry_out, command, test_judgements, trained_run, write_results
from .data import cranfield, medquad

TOKENS = 96  # of a document, in training and search: what a laptop does in a minute or two
LEVELS = ("untouched", "binary", "wasserstein", "kl")
MARGINS = ("random", "topics", "tas-balanced", "dual")
KL = "stages.0.objective=[{loss: {KLDivergence: {temperature: 0.05, target_temperature: 0.5}}, against: batch}]"
# each with the one it is compared with
PAIRS = [("untouched", "binary"), ("untouched", "random"), ("binary", "wasserstein"), ("binary", "kl")]
PAIRS += [("random", "topics"), ("random", "tas-balanced"), ("topics", "tas-balanced"), ("tas-balanced", "dual")]


@dataclass(frozen=True)
class Collection:
    """Where a collection's parts are, and what of the recipes changes for it."""

    train: str  # data set folders or names
    test: str
    levels: str
    levels_split: str
    size: int  # documents of a list with levels
    topics: int
    depth: int  # BM25's documents that the teacher scores, a training query
    binary: dict[int, int]
    teacher_steps: int = 100
    extra: dict[str, str] = field(default_factory=dict)


def collections(work: Path) -> dict[str, Collection]:
    folder = work / "data"
    mapped = {3: 1, 2: 1, 1: 0}
    return {
        "scifact": Collection(
            "bundled:scifact", "bundled:scifact", "bundled:scifact-levels", "train", 4, 40, 30, mapped
        ),
        "medquad": Collection(
            str(folder / "medquad"), str(folder / "medquad-test"), str(folder / "medquad"), "levels", 4, 100, 8, mapped
        ),
        "cranfield": Collection(
            str(folder / "cranfield"), str(folder / "cranfield"), str(folder / "cranfield"), "levels", 6, 7, 30,
            {4: 1, 3: 1, 2: 1, 1: 1}, teacher_steps=50,
        ),
    }  # fmt: skip


def run_of(recipe: str, collection: Collection, folder: Path, *overrides: str, late: bool = False) -> list[str]:
    model = [f"model.{'Late' if late else 'Dense'}.doc_length={TOKENS}"]
    test = f"dataset: {collection.test!r}, split: test, measures: [nDCG@10, R@100], depth: 100, baselines: []"
    return command("run", recipe, "--folder", folder, "device=cpu", f"evaluate=[{{{test}}}]", *model, *overrides)


def teacher(name: str, collection: Collection, work: Path) -> list[list[str]]:
    """The late-interaction teacher, its scores of BM25's documents and of the judged ones, and the topics."""
    here = work / name
    made = run_of(
        "mini-colbert", collection, here / "teacher", f"stages.0.data.0.Judged.dataset={collection.train!r}",
        "stages.0.batches.ByDocument.size=16", TRAIN.format(rate="1e-4", steps=collection.teacher_steps), late=True,
    )  # fmt: skip
    model, pairs, data = here / "teacher" / "model", here / "pairs.trec", collection.train
    return [
        made,
        command("index", data, "--out", here / "bm25"),
        command("search", here / "bm25", data, "--split", "train", "--k", collection.depth, "--out", pairs),
        command("score", data, "--model", model, "--pairs", pairs, "--out", here / "found.trec"),
        command("score", data, "--model", model, "--pairs", "train", "--out", here / "judged.trec"),
        command("topics", data, "--model", BACKBONE, "--topics", collection.topics, "--out", here / "topics.tsv"),
    ]  # fmt: skip


def student(name: str, condition: str, collection: Collection, work: Path, seed: int) -> list[str]:
    """One cell: a student of levels or of margins."""
    here = work / name
    folder = here / f"{condition}-{seed}"
    train = [TRAIN.format(rate="5e-5", steps=24 if condition in LEVELS else 32), f"seed={seed}"]
    if condition in LEVELS:
        recipe = "mini-sycl-synthetic-binary" if condition == "binary" else "mini-sycl-synthetic-graded"
        relabel = ", ".join(f"{a}: {b}" for a, b in collection.binary.items())
        source = f"dataset: {collection.levels!r}, split: {collection.levels_split}"
        source += f", relabel: {{{relabel}}}" if condition == "binary" else ""
        own = [f"stages.0.data=[{{Judged: {{{source}}}}}]", f"stages.0.group.Random.size={collection.size}"]
        if condition == "untouched":
            return run_of(recipe, collection, folder, "stages=[]")
        return run_of(recipe, collection, folder, *own, *train, *([KL] if condition == "kl" else []))
    bins = 10 if condition in ("tas-balanced", "dual") else 1
    qrels = here / "train.tsv"
    scored = [
        f"{{Scored: {{dataset: {collection.train!r}, scores: {here / part}}}}}"
        for part in ("found.trec", "judged.trec")
    ]
    own = [
        f"stages.0.data=[{', '.join(scored)}]",
        f"stages.0.group={{MarginBins: {{bins: {bins}, relevant: {qrels}}}}}",
    ]
    if condition != "random":
        own.append(f"stages.0.batches={{ByTopic: {{size: 16, topics: {here / 'topics.tsv'}}}}}")
    if condition != "dual":
        return run_of("mini-margin-mse", collection, folder, *own, *train)
    own.append(f"stages.0.objective.1.teacher.Late.backbone={here / 'teacher' / 'model'}")
    return run_of("mini-tas-b", collection, folder, *own, *train)


def prepare(name: str, collection: Collection, work: Path) -> None:
    from rankwright.data import Dataset, Reading
    from rankwright.data.formats import write_qrels

    for words in teacher(name, collection, work):
        carry_out(words)
    if not (work / name / "train.tsv").exists():
        write_qrels(work / name / "train.tsv", Dataset.open(collection.train, reading=Reading()).qrels("train"))


def main() -> None:
    args = arguments("supervision", __doc__, "scifact, medquad, cranfield").parse_args()
    for name, make in (("medquad", medquad), ("cranfield", cranfield)):
        if args.data and not (args.work / "data" / name).exists():
            make(args.data / name, args.work / "data" / name)
    chosen = {n: c for n, c in collections(args.work).items() if (not args.only or n in args.only)}
    cells = [
        (n, cond, seed)
        for seed in args.seeds
        for cond in (*LEVELS, *MARGINS)
        for n in chosen
        if cond != "untouched" or seed == args.seeds[0]
    ]
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda n: prepare(n, chosen[n], args.work), chosen))
            list(pool.map(lambda n, c, s: carry_out(student(n, c, chosen[n], args.work, s)), *zip(*cells)))
    made = {(n, cond, seed): args.work / n / f"{cond}-{seed}" for n, cond, seed in cells} | {
        (n, "teacher", 0): args.work / n / "teacher" for n in chosen
    }
    runs = {key: path for key, folder in made.items() if (path := trained_run(folder))}
    write_results("supervision", Cells(runs, {n: test_judgements(c.test) for n, c in chosen.items()}), PAIRS)


if __name__ == "__main__":
    main()
