"""Contrastive training, distillation, and one after the other; one teacher against two; NovelEval; over seeds.

    python -m benchmarks.methods.stages WORK --data DIR [--late DIR] [--seeds 0 1 2] [--only scifact] [--jobs 2]

DIR holds medquad and noveleval; --late: the WORK of `supervision`, whose ColBERT is taken in place of a new one. Every
cell is a command that one could type, and what is there is not done again: several calls may share a WORK if each has
collections of its own; --table writes the tables of what is there. The figures of cross-encoders are about what two
cores train in an hour: pairs of 96 tokens, 80 steps of 4 lists a stage, 60 of SciFact's test queries.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.data.formats import read_qrels, read_run, write_qrels, write_run
from rankwright.search import BM25
from rankwright.types import Qrels, Run

from .._texts import BACKBONE
from .common import Cells, arguments, carry_out, command, test_judgements, trained_run, write_results
from .data import medquad

LISTS, SIZE = 4, 6  # of a step, and documents of a list
FIRST, SECOND = "2e-4", "5e-5"  # learning rates
SCHEDULES = {"cl": ("cl",), "kd": ("kd",), "cl-kd": ("cl", "kd"), "kd-cl": ("kd", "cl")}
STUDENTS = ("untouched", "one teacher", "two teachers")
TEACHES = "cl-kd"  # the cross-encoder (of seed 0) that teaches the students
PAIRS = [("bm25", "teacher"), ("bm25", "cl"), ("cl", "kd"), ("cl", "cl-kd"), ("cl", "kd-cl"), ("cl-kd", "kd-cl")]
PAIRS += [("untouched", "one teacher"), ("one teacher", "two teachers")]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    tokens: int = 96  # of a pair, and of a document of the dense models
    steps: int = 80
    student_steps: int = 24
    queries: int = 800  # of training
    tested: dict[str, int] | None = None  # re-ranked queries of a test collection; None: all
    depth: int = 100
    taught: int = 20  # documents of each training query that the teachers order


FULL = Size(tested={"scifact": 60})
SMOKE = Size(tokens=24, steps=2, student_steps=2, queries=16, tested={"scifact": 3, "medquad": 3}, depth=8, taught=6)


@dataclass(frozen=True)
class Collection:
    """A collection's data sets, and where its parts are made."""

    name: str
    train: str
    test: str
    here: Path
    novel: str | None

    def at(self, name: str) -> Path:
        return self.here / name


def collections(work: Path, data: Path | None) -> list[Collection]:
    novel = str(data / "noveleval") if data else None
    ours = work / "data" / "medquad"
    return [
        Collection("scifact", "bundled:scifact", "bundled:scifact", work / "scifact", novel),
        Collection("medquad", str(ours), f"{ours}-test", work / "medquad", novel),
    ]


# --- what every schedule needs ------------------------------------------------------------------


def prepare(c: Collection, size: Size) -> None:
    """First stages and judgements as files, the fine-tuned dense model, and the teacher's orders: a fusion of both."""
    c.here.mkdir(parents=True, exist_ok=True)
    if not c.at("train.tsv").exists():
        train, test = Dataset.open(c.train, reading=Reading()), Dataset.open(c.test, reading=Reading())
        judged, asked = _some(train.qrels("train"), size.queries), test.qrels("test")
        asked = _some(asked, (size.tested or {}).get(c.name, len(asked.queries)))
        write_run(c.at("first.trec"), _bm25(train, judged, c.at("bm25"), depth=100))
        write_run(c.at("bm25.trec"), _bm25(test, asked, c.at("bm25-test"), depth=size.depth))
        write_run(c.at("taught.trec"), read_run(c.at("first.trec")).ranked(size.taught))
        if c.novel:
            write_run(c.at("novel.trec"), _judged_only(Dataset.open(c.novel, reading=Reading()), c.at("bm25-novel")))
        write_qrels(c.at("test.tsv"), asked)
        write_qrels(c.at("train.tsv"), judged)
    carry_out(dense(c, size))
    for first, data, best in (("taught", c.train, "order"), ("bm25", c.test, "teacher")):
        lists = c.at(f"{first}.trec")
        carry_out(command("rerank", lists, data, "--model", c.at("dense") / "model", "--depth", size.depth,
                          "--precision", "auto", "--out", c.at(f"{first}-dense.trec")))  # fmt: skip
        carry_out(command("fuse", lists, c.at(f"{first}-dense.trec"), "--method", "sum", "--out", c.at(f"{best}.trec")))


def _some(qrels: Qrels, count: int) -> Qrels:
    """Every so-manieth query with a relevant document."""
    judged = {query: grades for query, grades in qrels.to_dict().items() if any(g > 0 for g in grades.values())}
    count = min(count, len(judged))
    chosen = [list(judged)[i * len(judged) // count] for i in range(count)]
    return Qrels.from_dict({query: judged[query] for query in chosen})


def _bm25(data: Dataset, qrels: Qrels, folder: Path, *, depth: int) -> Run:
    return assemble.bm25_run(data, assemble.bm25_index(data, folder, BM25()), list(qrels.queries), depth=depth)


def _judged_only(data: Dataset, folder: Path) -> Run:
    """NovelEval's candidates: the passages that are judged, in BM25's order."""
    qrels = data.qrels("test")
    found = _bm25(data, qrels, folder, depth=len(data.corpus)).to_dict()
    return Run.from_dict({q: {d: found[q].get(d, -1.0) for d in some} for q, some in qrels.to_dict().items()})


def dense(c: Collection, size: Size) -> list[str]:
    return command(
        "run", "quickstart", "--folder", c.at("dense"), "device=cpu", "evaluate=[]",
        f"model.Dense.doc_length={size.tokens}", _judged(c), _mined(c, "ranks: [1, 10], per_query: 2"),
        f"stages.0.batches.Shuffled.size={min(32, size.queries // 2)}", f"stages.0.doc_length={size.tokens}",
        _train(0, "1e-4", size.steps // 2),
    )  # fmt: skip


def _judged(c: Collection) -> str:
    return f"stages.0.data=[{{Judged: {{dataset: {c.train!r}, qrels: {str(c.at('train.tsv'))!r}}}}}]"


def _mined(c: Collection, keep: str) -> str:
    return f"stages.0.mine={{by: {str(c.at('first.trec'))!r}, depth: 100, keep: {{{keep}}}}}"


def _train(stage: int, rate: str, steps: int) -> str:
    return f"stages.{stage}.train={{learning_rate: {rate}, steps: {steps}, warmup: 0.1, precision: auto}}"


# --- the four schedules -------------------------------------------------------------------------


def stage(c: Collection, schedule: str, seed: int, size: Size) -> list[str]:
    """The last stage of a schedule, from the model of the stage before, and its test."""
    *before, kind = SCHEDULES[schedule]
    model = c.at(f"{before[0]}-{seed}") / "model" if before else BACKBONE
    if kind == "cl":
        own = [_judged(c), _mined(c, "ranks: [1, 100], per_query: 20, pick: random"),
               f"stages.0.group.OneRelevant.negatives={SIZE - 1}"]  # fmt: skip
    else:
        order = f"dataset: {c.train!r}, run: {str(c.at('order.trec'))!r}, depth: {size.taught}, target: rank"
        own = [f"stages.0.data=[{{Ranking: {{{order}}}}}]", f"stages.0.group.Random.size={SIZE}"]
    tests = [_test(c.test, c.at("bm25.trec"), size.depth, qrels=c.at("test.tsv"))]
    tests += [_test(c.novel, c.at("novel.trec"), 20)] if c.novel else []
    return command(
        "run", f"mini-multistage-{kind}", "--folder", c.at(f"{schedule}-{seed}"), "device=cpu", f"seed={seed}",
        f"model.Cross.backbone={model}", f"model.Cross.length={size.tokens}", f"evaluate=[{', '.join(tests)}]", *own,
        f"stages.0.batches.Shuffled.size={LISTS}", _train(0, SECOND if before else FIRST, size.steps),
    )  # fmt: skip


def _test(dataset: str, first: Path, depth: int, *, qrels: Path | None = None) -> str:
    where = f"dataset: {dataset!r}" + (f", qrels: {str(qrels)!r}" if qrels else "")
    rerank = f"rerank: {{first: {str(first)!r}, depth: {depth}}}"
    return f"{{{where}, measures: [nDCG@10], depth: {depth}, baselines: [], {rerank}}}"


# --- one teacher and two ------------------------------------------------------------------------


def teach(c: Collection, size: Size, late: Path | None) -> Path:
    """Scores of a cross-encoder and the topics, as files; the folder of the ColBERT that also teaches."""
    live = late / c.name / "teacher" / "model" if late else c.at("late") / "model"
    model = c.at(f"{TEACHES}-0") / "model"
    if not late:
        carry_out(command(
            "run", "mini-colbert", "--folder", c.at("late"), "device=cpu", "evaluate=[]", _judged(c),
            f"model.Late.doc_length={size.tokens}", f"stages.0.batches.ByDocument.size={min(16, size.queries // 2)}",
            _train(0, "1e-4", size.steps // 2),
        ))  # fmt: skip
    if not c.at("pairs.trec").exists():
        write_run(c.at("pairs.trec"), read_run(c.at("taught.trec")).ranked(size.taught // 2))
    for pairs, out in (("pairs.trec", "found.trec"), ("train.tsv", "judged.trec")):
        carry_out(command("score", c.train, "--model", model, "--pairs", c.at(pairs), "--out", c.at(out)))
    topics = max(1, size.queries // 20)
    carry_out(command("topics", c.train, "--model", BACKBONE, "--topics", topics, "--out", c.at("topics.tsv")))
    return live


def student(c: Collection, condition: str, seed: int, size: Size, live: Path) -> list[str]:
    files = (c.at("found.trec"), c.at("judged.trec"))
    scored = ", ".join(f"{{Scored: {{dataset: {c.train!r}, scores: {str(file)!r}}}}}" for file in files)
    test = f"{{dataset: {c.test!r}, split: test, measures: [nDCG@10], depth: 100, baselines: []}}"
    own = [
        f"stages.0.data=[{scored}]", f"stages.0.group.MarginBins={{bins: 10, relevant: {str(c.at('train.tsv'))!r}}}",
        f"stages.0.batches.ByTopic={{size: {min(16, size.queries // 4)}, topics: {str(c.at('topics.tsv'))!r}}}",
        f"stages.0.doc_length={size.tokens}", _train(0, "5e-5", size.student_steps),
    ]  # fmt: skip
    if condition == "two teachers":
        own.append(f"stages.0.objective.1.teacher.Late.backbone={live}")
    else:
        own.append("stages.0.objective=[{loss: {MarginMSE: {pairs: first}}, against: own}]")
    return command(
        "run", "mini-dual-teacher", "--folder", _folder(c, condition, seed), "device=cpu", f"seed={seed}",
        f"model.Dense.doc_length={size.tokens}", f"evaluate=[{test}]",
        *(["stages=[]"] if condition == "untouched" else own),
    )  # fmt: skip


def _folder(c: Collection, condition: str, seed: int) -> Path:
    return c.at(f"{condition.replace(' ', '-')}-{seed}")


# --- all of it ----------------------------------------------------------------------------------


def cells(c: Collection, seeds: list[int]) -> tuple[dict[tuple[str, str, int], Path], dict[str, Qrels]]:
    """The runs that are there, and the judgements they are measured by."""
    if not c.at("train.tsv").exists():
        return {}, {}
    novel, retrieval = f"noveleval, trained on {c.name}", f"{c.name}, retrieval"
    runs: dict[tuple[str, str, int], Path | None] = {
        (c.name, "bm25", 0): c.at("bm25.trec"), (c.name, "teacher", 0): c.at("teacher.trec")
    }  # fmt: skip
    tests = {c.name: read_qrels(c.at("test.tsv"), Reading()), retrieval: test_judgements(c.test)}
    if c.novel:
        runs[novel, "bm25", 0] = c.at("novel.trec")
        tests[novel] = test_judgements(c.novel)
    for seed in seeds:
        for schedule in SCHEDULES:
            folder = c.at(f"{schedule}-{seed}")
            runs[c.name, schedule, seed] = trained_run(folder, of=Path(c.test.removeprefix("bundled:")).name)
            if c.novel:
                runs[novel, schedule, seed] = trained_run(folder, of="noveleval")
        for condition in STUDENTS:
            runs[retrieval, condition, seed] = trained_run(_folder(c, condition, seed))
    return {key: path for key, path in runs.items() if path}, tests


def work_through(
    chosen: list[Collection], seeds: list[int], size: Size, *, jobs: int, late: Path | None, students: list[str]
) -> None:
    """Two stages after each other, of as many schedules at once as there are jobs; the students at the end."""
    with ThreadPoolExecutor(jobs) as pool:

        def chain(work: tuple[Collection, int, tuple[str, str]]) -> None:
            for schedule in work[2]:
                carry_out(stage(work[0], schedule, work[1], size))

        list(pool.map(lambda c: prepare(c, size), chosen))
        halves = (("cl", "cl-kd"), ("kd", "kd-cl"))
        list(pool.map(chain, [(c, seed, half) for seed in seeds for half in halves for c in chosen]))
        for c in (c for c in chosen if c.name in students and (c.at(f"{TEACHES}-0") / "model").exists()):
            live = teach(c, size, late)
            learn = [(w, s) for s in seeds for w in STUDENTS if w != "untouched" or s == seeds[0]]
            list(pool.map(lambda w, s, c=c, live=live: carry_out(student(c, w, s, size, live)), *zip(*learn)))


def main() -> None:
    parser = arguments("stages", __doc__, "scifact, medquad")
    parser.add_argument("--late", type=Path, help="work folder of `supervision`, for its ColBERT")
    parser.add_argument("--students", nargs="*", default=["scifact"], help="the collections of the dense students")
    parser.add_argument("--queries", type=int, help="of SciFact's test that are re-ranked (60)")
    parser.add_argument("--steps", type=int, help="of a stage (80)")
    parser.add_argument("--smoke", action="store_true", help="a few queries and steps: does it run?")
    given = parser.parse_args()
    size = SMOKE if given.smoke else FULL
    size = replace(size, tested={**(size.tested or {}), "scifact": given.queries}) if given.queries else size
    size = replace(size, steps=given.steps) if given.steps else size
    work = given.work.resolve()
    chosen = [c for c in collections(work, given.data) if not given.only or c.name in given.only]
    if any(c.name == "medquad" for c in chosen) and given.data and not (work / "data" / "medquad").exists():
        medquad(given.data / "medquad", work / "data" / "medquad")
    if not given.table:
        late = given.late and given.late.resolve()
        work_through(chosen, given.seeds, size, jobs=given.jobs, late=late, students=given.students)
    found = [cells(c, given.seeds) for c in chosen]
    runs = {key: path for some, _ in found for key, path in some.items()}
    tests = {name: qrels for _, some in found for name, qrels in some.items()}
    write_results("stages", Cells(runs, tests, ("nDCG@10",)), PAIRS, keep=not given.smoke)


if __name__ == "__main__":
    main()
