"""Verbs from a corpus to runs and negatives: encode, index, search, rerank, mine."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import assemble, storage
from ..console import out, table
from ..data import Dataset, Reading, read_run, write_qrels, write_run
from ..errors import ArtefactError, UsageError
from ..outputs import command, new_file, new_folder, workplace
from ..training import distributed

if TYPE_CHECKING:
    from ..search import Fuse, Mine
    from ..types import Qrels


def _open(given: Namespace) -> Dataset:
    return assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))


def encode(given: Namespace) -> None:
    from ..models import load

    folder, dataset, device = new_folder(given.out), _open(given), assemble.pick_device(given.device)
    ranker = load(given.model, device=device)
    how = {"device": device, "dtype": given.dtype, "precision": given.precision}
    vectors = assemble.encode_corpus(ranker, dataset, folder, **how)
    of = "" if ranker.vectors_per_text == "one" else " a token"
    out(f"vectors: {given.out}  ({len(vectors):,} x {vectors.dim}{of}, {given.dtype})")
    out(f"next:    {command('search', given.out, given.data, '--model', given.model, '--out', 'run.trec')}")


def index(given: Namespace) -> None:
    from ..search import BM25

    if given.report and not given.ann:
        raise UsageError("--report compares an approximate index with exact search", fix="add --ann KIND")
    if given.ann or given.int8:
        return _index_vectors(given)
    spec = BM25(k1=given.k1, b=given.b, language=given.language, stem=not given.no_stem)
    made = assemble.bm25_index(_open(given), new_folder(given.out), spec)
    out(f"index: {given.out}  ({len(made.ids):,} documents)")
    out(f"next:  {command('search', given.out, given.data, '--out', 'run.trec')}")


def _index_vectors(given: Namespace) -> None:
    folder = new_folder(given.out)
    found = assemble.index_vectors(Path(given.data), folder, kind="int8" if given.int8 else given.ann)
    out(f"index: {given.out}  ({found:,} documents)")
    if given.report:
        rows = assemble.recall_report(folder, Path(given.data), seed=0)
        storage.write_json(f"{given.out}.recall.json", rows)
        cells = [[name, f"{share:.3f}", f"{rate:,.0f}"] for name, share, rate in map(dict.values, rows)]
        out(table(list(rows[0]), cells))
    out(f"next:  {command('search', given.out, 'DATA', '--model', 'MODEL', '--out', 'run.trec')}")


def search(given: Namespace) -> None:
    from ..models import load
    from ..search import LexicalIndex

    path, dataset = new_file(given.out), _open(given)
    if given.k < 1:
        raise UsageError(f"k must be at least 1, got {given.k}")
    ids = list(dataset.qrels(given.split).queries if given.split else dataset.queries.ids)
    kind = storage.read_manifest(given.index).kind
    if kind in ("vectors", "token-vectors", "ann"):
        if given.model is None:
            raise UsageError("vectors are searched with the model that made them", fix="add --model FOLDER")
        device = assemble.pick_device(given.device)
        made = assemble.dense_index(given.index, device=device, nprobe=given.nprobe, ef_search=given.ef_search)
        queries = assemble.encode_queries(load(given.model, device=device), dataset, ids, device=device)
        found = made.search(queries, ids, k=given.k)
    elif kind == "bm25":
        found = assemble.bm25_run(dataset, LexicalIndex.open(Path(given.index)), ids, depth=given.k)
    else:
        raise ArtefactError(f"holds '{kind}', which cannot be searched", where=given.index)
    write_run(path, found)
    out(f"run:  {given.out}  ({len(found.queries):,} queries, {len(found):,} documents)")
    split = given.split or ("test" if "test" in dataset.files else next(iter(dataset.files), None))
    if split is not None:
        out(f"next: {command('evaluate', given.out, '--qrels', dataset.files[split])}")


def rerank(given: Namespace) -> None:
    from ..models import load

    path, dataset, device = new_file(given.out), _open(given), assemble.pick_device(given.device)
    first, precision = read_run(Path(given.run), dataset.reading), assemble.pick_precision(given.precision, device)
    together, work = _together(given), workplace(given.out, dataset.cache) / "scores"
    rankers = (load(model, device=device) for model in given.model)  # one at a time
    began = time.perf_counter()
    found = assemble.rerank_run(
        rankers if together else next(rankers), dataset, first, together=together, depth=given.depth, device=device,
        precision=precision, tail="keep" if given.keep_tail else "drop", folder=work,
    )  # fmt: skip
    speed = f"{1000 * (time.perf_counter() - began) / max(1, len(found.queries)):,.1f} ms a query"
    write_run(path, found, tag="rerank")
    storage.remove_folder(work)
    out(f"run:  {given.out}  ({len(found.queries):,} queries, {len(found):,} documents, {speed})")
    qrels = dataset.files.get("test") or next(iter(dataset.files.values()), "QRELS")
    out(f"next: {command('evaluate', given.run, given.out, '--qrels', qrels)}")


def _together(given: Namespace) -> Fuse | None:
    """How several rankers' scores become one; None: there is one ranker."""
    from ..search import Fuse

    if len(given.model) > 1:
        return Fuse(given.method or "sum", given.norm, given.weights and tuple(given.weights))
    if given.method or given.norm or given.weights:
        fix = "give several models, or leave --method, --norm and --weights out"
        raise UsageError("one model's scores are not combined with others", fix=fix)
    return None


def mine(given: Namespace) -> None:
    from ..models import load
    from ..search import Mine

    spec = Mine(
        ranks=tuple(given.ranks), per_query=given.per_query, margin=given.margin,
        relative_margin=given.relative_margin, pick=given.pick, seed=given.seed,
    )  # fmt: skip
    if given.run and spec.needs_positive_scores:
        fix = "use --model or --bm25, or leave the margins out"
        raise UsageError("margins need the scores of the relevant documents, which a run lacks", fix=fix)
    path, dataset = new_file(given.out), _open(given)
    known = dataset.qrels(given.split)
    if given.model and distributed.world() > 1:  # all encode; the rest is the first one's, which finds the vectors
        device = assemble.pick_device(given.device)
        assemble.encode_corpus(
            load(given.model, device=device), dataset, workplace(given.out, dataset.cache) / "vectors", device=device
        )
    if distributed.rank() == 0:
        with distributed.alone():
            _mine(given, path, dataset, known, spec)


def _mine(given: Namespace, path: Path, dataset: Dataset, known: Qrels, spec: Mine) -> None:
    from ..mining import NO_NEGATIVES
    from ..search import mine

    found, positives = _candidates(given, dataset, known, spec.needs_positive_scores)
    negatives, report = mine(found, known, spec, positives=positives)
    if not len(negatives):
        raise UsageError(f"no negatives were found: {report}", fix=f"{NO_NEGATIVES}, or mine in another --split or run")
    write_qrels(path, negatives)
    storage.remove_folder(workplace(given.out, dataset.cache))
    out(str(report))
    out(f"negatives: {given.out}")
    source = f"Judged: {{dataset: {given.data}, qrels: {given.out}, grade: 0}}"
    out(f"next:      in a recipe, before the judgements: {source}")


def _candidates(given: Namespace, dataset: Dataset, known: Any, scores: bool) -> tuple[Any, Any]:
    from ..models import load
    from ..search import BM25, exact_index

    if given.run:
        return read_run(Path(given.run), dataset.reading), None
    depth, ids, work = given.ranks[1] + 100, known.queries, workplace(given.out, dataset.cache)
    if given.bm25:
        index = assemble.bm25_index(dataset, work / "bm25", BM25())
        texts = [dataset.queries[int(row)].text for row in assemble.rows_of(dataset.queries, ids, "query")]
        return index.search(texts, ids, k=depth), index.score(texts, ids, pairs=known) if scores else None
    device = assemble.pick_device(given.device)
    ranker = load(given.model, device=device)
    vectors = assemble.encode_corpus(ranker, dataset, work / "vectors", device=device)
    found = assemble.dense_run(ranker, dataset, vectors, ids, depth=depth, device=device, folder=work / "ranking")
    if not scores:
        return found, None
    queries = assemble.encode_queries(ranker, dataset, ids, device=device)
    return found, exact_index(vectors, device).score(queries, ids, pairs=known)
