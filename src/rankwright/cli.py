"""The command line: one parser, one thin function per verb in `verbs`; `--help` imports nothing heavy."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    import argparse

    from .errors import RankwrightError

# the verbs that several processes share (torchrun -m rankwright VERB); the first does the others alone
_TOGETHER = ("run", "quickstart", "train", "report", "encode", "mine")

_EPILOG = """examples:
  rankwright quickstart                          the whole job on bundled data, in minutes
  rankwright run recipe.yaml                     judgements -> model, runs, metrics, report
  rankwright run recipe.yaml stages.0.train.learning_rate=3e-6
  rankwright doctor my_data                      look before you train
  rankwright evaluate a.trec b.trec --qrels my_data/qrels/test.tsv

exit codes: 0 done, 2 usage or recipe, 3 data, 4 damaged artefact, 5 disk, memory or lock, 6 hub or endpoint,
7 not finite, 75 stopped by a signal (the same command goes on), 130 interrupted before any work"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    import argparse  # here, where `main` already minds Ctrl-C

    root = argparse.ArgumentParser(
        prog="rankwright",
        description="Train, search and evaluate neural rankers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"rankwright {__version__}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (_running, _searching, _clustering, _teaching, _evaluating, _converting, _looking):
        add(verbs)
    for verb in verbs.choices.values():
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.add_argument("--quiet", action="store_true", help="no progress and no remarks")
    return root


def _running(verbs: argparse._SubParsersAction) -> None:
    for name, text in (
        ("run", "carry out a recipe: negatives, training, evaluation, report"),
        ("train", "the recipe's training stages alone"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("recipe", help="a YAML file, or a recipe that comes along (quickstart)")
        verb.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. stages.0.train.epochs=3")
        verb.add_argument("--folder", help="run folder (default: the recipe's output/name)")
        verb.add_argument("--dry-run", action="store_true", help="check everything, print the plan, do nothing")
        verb.add_argument("--allow-drift", action="store_true", help="resume although data, recipe or threads changed")
        _common(verb, "json", "lenient")
    verb = verbs.add_parser("quickstart", help="the whole job on bundled real data, in minutes")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--folder", help="run folder (default: runs/quickstart)")
    _common(verb, "json")


def _searching(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("encode", help="corpus -> vectors; restartable")
    verb.add_argument("model", help="model folder or hub id")
    verb.add_argument("data", help="data set folder or hub id")
    verb.add_argument("--out", required=True, help="folder to make")
    verb.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of what is stored")
    verb.add_argument("--precision", choices=["float32", "bf16", "fp16", "auto"], default="float32", help="of the work")
    _common(verb, "device", "lenient")
    verb = verbs.add_parser("index", help="corpus -> BM25 index, or vectors -> approximate index or int8 vectors")
    verb.add_argument("data", help="data set folder or hub id; with --ann and --int8 a folder of vectors")
    verb.add_argument("--out", required=True, help="folder to make")
    verb.add_argument("--k1", type=float, default=0.9)
    verb.add_argument("--b", type=float, default=0.4)
    verb.add_argument("--language", default="english", help="of stemmer and stop words")
    verb.add_argument("--no-stem", action="store_true")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--ann", choices=["flat", "ivf", "hnsw", "pq"], help="approximate index of vectors, by faiss")
    how.add_argument("--int8", action="store_true", help="a copy of vectors in a quarter of the space")
    verb.add_argument("--report", action="store_true", help="with --ann: recall and speed against exact search")
    _common(verb, "lenient")
    verb = verbs.add_parser("search", help="index or vectors + queries -> TREC run")
    verb.add_argument("index", help="what `encode` or `index` made")
    verb.add_argument("data", help="data set with the queries")
    verb.add_argument("--out", required=True, help="TREC run file to write (.gz and .zst compress)")
    verb.add_argument("--model", help="model folder or hub id; for vectors")
    verb.add_argument("--split", help="only queries judged in this split (default: all queries)")
    verb.add_argument("--k", type=int, default=1000, help="documents per query")
    verb.add_argument("--nprobe", type=int, help="cells that a query visits (ann ivf and pq)")
    verb.add_argument("--ef-search", type=int, help="candidates in the graph (ann hnsw)")
    _common(verb, "device", "lenient")
    verb = verbs.add_parser("rerank", help="a run's best documents in the order of a model's own scores; restartable")
    verb.add_argument("run", help="TREC run of a first stage")
    verb.add_argument("data", help="data set with the texts")
    text = "cross-encoder, late or dense: model folder or hub id; several: an ensemble"
    verb.add_argument("--model", required=True, nargs="+", help=text)
    verb.add_argument("--out", required=True, help="TREC run file to write (.gz and .zst compress)")
    verb.add_argument("--depth", type=int, default=100, help="documents per query")
    verb.add_argument("--keep-tail", action="store_true", help="keep the documents below depth behind the others")
    verb.add_argument("--method", choices=["sum", "mnz", "anz", "max", "min", "med", "rrf"], help="several models: how "
                      "their scores become one (default sum)")  # fmt: skip
    _combining(verb)
    verb.add_argument("--precision", choices=["float32", "bf16", "fp16", "auto"], default="float32")
    _common(verb, "device", "lenient")
    verb = verbs.add_parser("mine", help="hard negatives: high-ranked, not known to be relevant")
    verb.add_argument("data", help="data set with the judgements")
    verb.add_argument("--out", required=True, help="qrels file to write, grade 0")
    verb.add_argument("--split", default="train")
    how = verb.add_mutually_exclusive_group(required=True)
    how.add_argument("--run", help="a TREC run of these queries")
    how.add_argument("--model", help="model folder or hub id: encode and search; restartable")
    how.add_argument("--bm25", action="store_true")
    verb.add_argument("--ranks", type=int, nargs=2, default=[1, 100], metavar=("FIRST", "LAST"))
    verb.add_argument("--per-query", type=int, default=8)
    verb.add_argument("--margin", type=float, help="drop those scoring above the lowest relevant one - margin")
    verb.add_argument("--relative-margin", type=float, help="the same as a share of the relevant one's score")
    verb.add_argument("--pick", choices=["top", "random"], default="top")
    verb.add_argument("--seed", type=int, default=0)
    _common(verb, "device", "lenient")


def _combining(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--norm", choices=["min-max", "z-score", "rank", "none"], help="default min-max; not for rrf")
    verb.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each; for rrf, sum and mnz")


def _clustering(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("topics", help="cluster training queries, for batches ByTopic")
    verb.add_argument("data", help="data set folder or hub id")
    verb.add_argument("--model", required=True, help="model folder or hub id: k-means of its query vectors")
    verb.add_argument("--topics", type=int, required=True, metavar="K", help="how many")
    verb.add_argument("--out", required=True, help="TSV to write: query, topic (.gz and .zst compress)")
    verb.add_argument("--split", default="train", help="whose queries")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--plot", help="also draw them: a .png, .svg or .pdf to write")
    _common(verb, "device", "lenient")


def _teaching(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("score", help="a teacher's scores of listed pairs, for distillation; restartable")
    verb.add_argument("data", help="data set with the texts")
    verb.add_argument("--model", nargs="+", required=True, help="model folder or hub id; several: their mean")
    verb.add_argument("--pairs", required=True, help="a split, a qrels file, or a TREC run (.trec, .run)")
    verb.add_argument("--out", required=True, help="TREC run file to write: what a recipe's `teacher` reads")
    _common(verb, "device", "lenient")
    verb = verbs.add_parser("rank", help="a language model orders the first documents of a run; restartable")
    verb.add_argument("run", help="TREC run whose documents are put in order")
    verb.add_argument("data", help="data set with the texts")
    verb.add_argument("--endpoint", required=True, help="OpenAI-compatible, e.g. http://127.0.0.1:8000/v1")
    verb.add_argument("--llm", required=True, metavar="NAME", help="the model's name there")
    verb.add_argument("--out", required=True, help="TREC run file to write: a `Ranking` source; answers beside it")
    verb.add_argument("--window", type=int, default=20, help="passages of one question")
    verb.add_argument("--step", type=int, help="how far the window moves towards the top (default: half of it)")
    verb.add_argument("--depth", type=int, default=100, help="documents per query")
    verb.add_argument("--characters", type=int, default=1500, help="of a passage that the model sees")
    verb.add_argument("--unanswered", choices=["keep", "drop"], default="keep", help="a window without an answer")
    verb.add_argument("--budget-requests", type=int, metavar="N", help="stop before more requests, earlier ones too")
    verb.add_argument("--budget-tokens", type=int, metavar="N", help="stop before more tokens, earlier ones too")
    verb.add_argument("--workers", type=int, default=4, help="questions under way at a time")
    verb.add_argument("--timeout", type=float, default=120.0, help="seconds for one request")
    verb.add_argument("--attempts", type=int, default=6, help="at one question, where a failure may pass")
    verb.add_argument("--key-env", metavar="NAME", help="environment variable with the API key (default: none is sent)")
    verb.add_argument("--insecure-http", action="store_true", help="let a key go over plain http to another machine")
    verb.add_argument("--parameters", default="{}", metavar="JSON", help="more fields of a request; null removes one")
    verb.add_argument("--journal", help="file of answers (default: OUT.journal.jsonl)")
    _common(verb, "json", "lenient")


def _evaluating(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("evaluate", help="runs + judgements or answers -> measures, intervals, paired tests")
    verb.add_argument("runs", nargs="+", help="TREC runs; the first is the baseline of the tests")
    _evidence(verb)
    verb.add_argument("--retrieved", metavar="FILE", help="also write the passages of one run in DPR's JSON")
    verb.add_argument("--contexts", type=int, default=100, metavar="N", help="passages a question in --retrieved")
    verb.add_argument("--out", help="also write everything, per query, to this JSON file")
    verb.add_argument("--drop-self", action="store_true", help="leave out documents with the query's own id (ArguAna)")
    _common(verb, "json", "lenient")
    verb = verbs.add_parser("compare", help="runs against a baseline: tables for a paper, tests, figures")
    verb.add_argument("runs", nargs="+", help="TREC runs of the same queries")
    _evidence(verb)
    verb.add_argument("--baseline", help="name or path of one of the runs (default: the first)")
    verb.add_argument("--test", choices=["t-test", "randomisation"], default="t-test", help="paired, two-sided")
    verb.add_argument("--correction", choices=["holm", "none"], default="holm", help="for the number of tests")
    verb.add_argument("--level", type=float, default=0.95, help="of intervals; p below 1 - level is significant")
    verb.add_argument("--rounds", type=int, default=10_000, help="of the bootstrap and the randomisation test")
    verb.add_argument("--seed", type=int, default=0, help="of both")
    verb.add_argument("--format", choices=["text", "markdown", "latex", "html"], default="text", help="of stdout")
    verb.add_argument("--out", help="folder to make: report, LaTeX tables, figures, values per query")
    verb.add_argument("--drop-self", action="store_true", help="leave out documents with the query's own id (ArguAna)")
    _common(verb, "json", "lenient")
    verb = verbs.add_parser("fuse", help="two runs or more -> one run; weights tuned on judgements")
    verb.add_argument("runs", nargs="+", help="TREC runs of the same queries")
    verb.add_argument("--out", required=True, help="TREC run file to write (.gz and .zst compress)")
    verb.add_argument("--method", choices=["rrf", "sum", "mnz", "anz", "max", "min", "med"], default="rrf")
    _combining(verb)
    verb.add_argument("--rrf-k", type=float, help="of rrf: 1 / (k + rank) (default: 60)")
    verb.add_argument("--depth", type=int, default=1000, help="documents per query")
    verb.add_argument("--tune", metavar="QRELS", help="choose the weights, or k of rrf, that are best on these")
    verb.add_argument("--measure", default="nDCG@10", help="of --tune")
    _common(verb, "json", "lenient")
    verb = verbs.add_parser("report", help="bring a run folder up to date and write its report again")
    verb.add_argument("folder", help="run folder")
    _common(verb, "lenient")
    verb = verbs.add_parser("export", help="model folder -> a folder that other software loads")
    verb.add_argument("model", help="model folder or hub id")
    verb.add_argument("--out", help="folder to make; without it only --verify is done")
    verb.add_argument("--verify", action="store_true", help="compare vectors with sentence-transformers, transformers")
    _common(verb, "json")


def _looking(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("show", help="a resolved recipe, or what an artefact is")
    verb.add_argument("thing", help="recipe, run folder, model, vectors, index, checkpoint ...")
    verb.add_argument("overrides", nargs="*", metavar="key=value")
    _common(verb, "json")
    verbs.add_parser("schema", help="JSON Schema of recipes, for editors")
    verb = verbs.add_parser("doctor", help="what is odd about data: leakage, duplicates, truncation ...")
    verb.add_argument("thing", help="recipe or data set")
    verb.add_argument("--train", help="training split of a data set (default: train, if it is there)")
    verb.add_argument("--test", nargs="*", help="test splits of a data set (default: test, if it is there)")
    verb.add_argument("--run", help="a TREC run of training queries: suspected false negatives")
    _common(verb, "json", "lenient")
    verb = verbs.add_parser("check-gradients", help="prove the cached step on this recipe against plain autograd")
    verb.add_argument("recipe")
    verb.add_argument("overrides", nargs="*", metavar="key=value")
    verb.add_argument("--queries", type=int, default=8, help="size of the batch")
    verb.add_argument("--float32", action="store_true", help="in float32 instead of float64")
    _common(verb, "json", "lenient")


def _converting(verbs: argparse._SubParsersAction) -> None:
    text = "training data from one layout to another, or another program's recipe to ours"
    verb = verbs.add_parser("convert", help=text, description=text)
    verb.add_argument(
        "source", nargs="+", metavar="SOURCE", help="file, folder, ir_datasets:ID; or: recipe FILE [FILE ...]"
    )
    verb.add_argument("--to", default="beir", help="layout to write (default: beir); docs/data.md has the table")
    verb.add_argument("--from", dest="dialect", help="layout of the source (default: told from its first record)")
    verb.add_argument("--out", required=True, help="folder to make; of a recipe the YAML file to write")
    verb.add_argument("--split", default="train", help="of judgements whose file names none")
    verb.add_argument("--corpus", help="documents by id, where the source names ids only")
    verb.add_argument("--queries", help="queries by id, likewise")
    verb.add_argument("--permutations", help="RankGPT: the list of answers (default: the JSON file beside the queries)")
    verb.add_argument("--repair", action="store_true", help="RankGPT: complete answers that are no permutation")
    verb.add_argument("--strata", action="store_true", help="DPR: positive, hard and other negatives as grades 2, 1, 0")
    verb.add_argument("--turns", type=int, help="conversations: the last so many turns make the query; 0: all of them")
    verb.add_argument("--roles", nargs="+", metavar="ROLE=NAME", help="what a role is called, e.g. assistant=Agent")
    verb.add_argument("--turn", metavar="TEMPLATE", help="how a turn is written, e.g. '{role}: {content}'")
    verb.add_argument("--answers", action="store_true", help="ChatRAG-Bench: answers behind gold chunks, as published")
    verb.add_argument("--validation", type=float, metavar="PART", help="of the queries, set aside; e.g. 0.01")
    verb.add_argument("--seed", type=int, default=42, help="of --validation")
    _common(verb, "json", "lenient")

    text = "a checkpoint of DPR, GC-DPR or SR-DPR (.cp, dpr_biencoder.40) as a model folder; it is never unpickled"
    verb = verbs.add_parser("import-dpr", help=text, description=text)
    verb.add_argument("checkpoint", help="the file")
    verb.add_argument("--base", required=True, help="the BERT it was trained from: model folder or hub id")
    verb.add_argument("--out", required=True, help="folder to make")
    verb.add_argument("--memory", type=float, default=4.0, help="GiB that reading may take (default: 4)")


def _evidence(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--qrels", help="judgements; not needed where there are answers")
    verb.add_argument("--questions", metavar="FILE", help="questions with answers: TSV, CSV, JSON; for Accuracy@20")
    where = verb.add_mutually_exclusive_group()
    where.add_argument("--data", help="with --questions: data set with the passages and the queries")
    where.add_argument("--passages", metavar="FILE", help="with --questions: the passages alone, e.g. DPR's TSV")
    verb.add_argument("--measures", nargs="+", metavar="MEASURE",
                      help="default: nDCG@10 R@100 RR@10 of judgements, Accuracy@1 5 20 50 100 of answers")  # fmt: skip


def _common(verb: argparse.ArgumentParser, *names: str) -> None:
    if "json" in names:
        verb.add_argument("--json", action="store_true", help="machine-readable output on stdout")
    if "lenient" in names:
        verb.add_argument("--lenient", action="store_true", help="repair or skip odd data, and count it")
    if "device" in names:
        verb.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with the code of errors.py, or 130 when Ctrl-C comes before there is work to stop."""
    try:
        _main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("rankwright: interrupted before the work began\n")
        raise SystemExit(130) from None


def _main(arguments: Sequence[str] | None) -> None:
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    first = not several or os.environ.get("RANK", "0") == "0"
    if not first:  # the first process alone speaks, but for a failure of another
        sys.stdout = io.StringIO()
    given = _parsed(arguments, silent=not first)
    from . import progress, signals
    from .training import distributed

    progress.quiet(given.quiet or not first)
    sys.path.append("")  # a recipe may name my_code.MyLoss from the folder one stands in
    try:
        with signals.handled():
            distributed.start()
            from . import verbs  # takes seconds: a signal counts from here on

            signals.check()
            together = given.verb in _TOGETHER and not getattr(given, "dry_run", False)
            if first or together:
                with nullcontext() if together else distributed.alone():
                    getattr(verbs, given.verb.replace("-", "_"))(given)
            sys.stdout.flush()
            distributed.finish()
            if several:  # all is written; now and then gloo's threads do not survive an orderly exit
                sys.stderr.flush()
                os._exit(0)
    except BaseException as error:
        if several:
            _end_all(error, debug=given.debug)
        if isinstance(error, BrokenPipeError):  # who read our output has enough of it
            os._exit(0)  # at once: an orderly exit would try to write the rest again, and complain
        typed = _typed(error)
        if given.debug or typed is None:
            raise
        sys.stderr.write(f"rankwright: {typed.kind}: {typed}\n")
        raise SystemExit(typed.code) from None


def _end_all(error: BaseException, *, debug: bool) -> None:
    """One of several processes failed: it says why unless another did, and none is left waiting for it."""
    from .training import distributed

    typed = distributed.as_loss(error) or _typed(error)
    quiet = isinstance(error, (BrokenPipeError, SystemExit))
    code = typed.code if typed else 0 if quiet else 1
    if distributed.fail(code) and not quiet:
        if typed is None or debug:
            traceback.print_exception(error)
        else:
            sys.stderr.write(f"rankwright: {typed.kind}: {typed}\n")
    distributed.leave(code)


def _typed(error: BaseException) -> RankwrightError | None:
    """What is said of a failure in place of a traceback; None: it is a defect of ours."""
    from .errors import RankwrightError, ResourceError

    if isinstance(error, RankwrightError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError("out of memory", fix="lower micro_batch_tokens or use a machine with more memory")
    if isinstance(error, OSError):
        where, what = error.filename, error.strerror or str(error)
        return ResourceError(what, where=where, fix="check the path, its permissions and the disk")
    return None


def _parsed(arguments: Sequence[str] | None, *, silent: bool) -> argparse.Namespace:
    """The arguments; overrides may also stand behind options, which argparse alone does not allow."""
    with redirect_stderr(io.StringIO()) if silent else nullcontext():
        return _understood(parser(), arguments)


def _understood(root: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    given, rest = root.parse_known_args(arguments)
    if rest and "overrides" in given and all("=" in word and not word.startswith("-") for word in rest):
        given.overrides, rest = [*given.overrides, *rest], []
    if rest:
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    return given
