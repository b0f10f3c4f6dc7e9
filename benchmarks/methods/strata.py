"""DPR's in-batch baseline against SR-DPR's pipelines, alone and in turn, and all strata in one step; over seeds.

    python -m benchmarks.methods.strata WORK [--data DIR] [--seeds 0 1 2] [--only scifact] [--jobs 2]

Every cell is a `rankwright run` of a mini recipe, as one could type it, with the same number of optimizer steps. What
is there already is not done again. To fit about forty minutes of two cores, the hard negatives are BM25's, found once
for each collection, documents are cut to 96 tokens, and the tests are searched in cut corpora: the judged documents and
the first 20 (SciFact) or 50 (MedQuAD) of BM25 for each test question. Scores are so higher than on whole corpora.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rankwright.loading import load_recipe

from .common import Cells, arguments, carry_out, command, test_judgements, trained_run, write_results
from .data import medquad, pooled

TOKENS, STEPS, RATE = 96, 32, "5e-5"
MODES = (  # of the original's train_modes those without both inbatch and pos, against which it warns
    "inbatch", "pos", "poshard", "hard", "inbatch-poshard", "inbatch-hard", "pos-poshard", "pos-hard", "poshard-hard",
    "inbatch-poshard-hard", "pos-poshard-hard", "joint",
)  # fmt: skip
PAIRS = [("untouched", "inbatch"), *(("inbatch", mode) for mode in MODES[1:]), ("inbatch-poshard-hard", "joint")]
MEASURES = ("nDCG@10", "Success@5", "Success@20", "R@100")
NEGATIVES = ("--bm25", "--ranks", 1, 30, "--per-query", 8)


@dataclass(frozen=True)
class Collection:
    """Where a collection's two halves are."""

    train: str
    test: str


def collections(work: Path) -> dict[str, Collection]:
    folder = work / "data"
    return {
        "scifact": Collection("bundled:scifact", str(folder / "scifact-test")),
        "medquad": Collection(str(folder / "medquad"), str(folder / "medquad-test")),
    }


def cell(name: str, mode: str, collection: Collection, work: Path, seed: int) -> list[str]:
    """The command of one cell."""
    here = work / name
    recipe = f"mini-sr-dpr-{'inbatch' if mode == 'untouched' else mode}"
    test = f"dataset: {collection.test!r}, split: test, measures: [nDCG@10], depth: 100, baselines: []"
    words = [f"model.Dense.doc_length={TOKENS}", f"evaluate=[{{{test}}}]", f"seed={seed}", "device=cpu"]
    if mode == "untouched":
        return command("run", recipe, "--folder", here / f"{mode}-{seed}", "stages=[]", *words)
    hard = f"{{Judged: {{dataset: {collection.train!r}, qrels: {here / 'negatives.tsv'}, grade: 1}}}}"
    relevant = f"{{Judged: {{dataset: {collection.train!r}, split: train, grade: 2}}}}"
    train = f"{{learning_rate: {RATE}, steps: {STEPS}, warmup: 0.1, precision: auto}}"
    for number in range(len(load_recipe(recipe).stages)):
        place = f"stages.{number}"
        words += [f"{place}.data=[{hard}, {relevant}]", f"{place}.mine=null", f"{place}.train={train}"]
        words.append(f"{place}.doc_length={TOKENS}")
    return command("run", recipe, "--folder", here / f"{mode}-{seed}", *words)


def prepare(name: str, collection: Collection, work: Path) -> None:
    out = work / name / "negatives.tsv"
    carry_out(command("mine", collection.train, "--out", out, *NEGATIVES))


def main() -> None:
    parser = arguments("strata", __doc__, "scifact, medquad")
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="some of them")
    args = parser.parse_args()
    chosen = {n: c for n, c in collections(args.work).items() if not args.only or n in args.only}
    if "medquad" in chosen and args.data and not (args.work / "data" / "medquad").exists():
        medquad(args.data / "medquad", args.work / "data" / "medquad")
    if "scifact" in chosen and not (args.work / "data" / "scifact-test").exists():
        pooled("bundled:scifact", args.work / "data" / "scifact-test", depth=20)
    cells = [(n, "untouched", args.seeds[0]) for n in chosen]
    cells += [(n, mode, seed) for seed in args.seeds for mode in args.modes for n in chosen]
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda n: prepare(n, chosen[n], args.work), chosen))
            list(pool.map(lambda c: carry_out(cell(c[0], c[1], chosen[c[0]], args.work, c[2])), cells))
    made = {(n, mode, seed): trained_run(args.work / n / f"{mode}-{seed}") for n, mode, seed in cells}
    runs = {key: path for key, path in made.items() if path}
    tests = {n: test_judgements(c.test) for n, c in chosen.items()}
    write_results("strata", Cells(runs, tests, MEASURES), PAIRS)


if __name__ == "__main__":
    main()
