"""What each verb does; every one ends by saying where its result is and what to run next."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import api, assemble, recipe, storage
from .console import out, out_json, table
from .data import Dataset, Reading, dataset_of, read_qrels, read_run, write_qrels, write_run
from .errors import ArtefactError, UsageError
from .ledger import fingerprint, known_steps
from .outputs import command, new_file, new_folder
from .plan import Recipe
from .progress import quiet
from .training import distributed

if TYPE_CHECKING:
    from .search import Mine
    from .types import Qrels

# --- whole recipes -------------------------------------------------------------------------------


def run(given: Namespace) -> None:
    plan = _plan(given)
    if given.dry_run:
        return _dry_run(plan, given)
    if given.json:
        quiet()
    result = api.run(plan, folder=given.folder, lenient=given.lenient, allow_drift=given.allow_drift)
    _finished(result, given)


def quickstart(given: Namespace) -> None:
    """The bundled recipe; a pretrained model and a test collection come with the package."""
    if given.json:
        quiet()
    plan = api.load_recipe("quickstart", [f"seed={given.seed}"])
    _finished(api.run(plan, folder=given.folder), given)


def train(given: Namespace) -> None:
    from .pipeline import Pipeline

    plan = _plan(given)
    if given.dry_run:
        return _dry_run(plan, given)
    if given.json:
        quiet()
    pipeline = Pipeline(
        plan,
        folder=Path(given.folder) if given.folder else None,
        reading=Reading(lenient=given.lenient),
        allow_drift=given.allow_drift,
    )
    model = pipeline.train()
    if given.json:
        return out_json({"model": str(model), "folder": str(pipeline.folder)})
    out(f"model: {model}")
    out(f"next:  rankwright encode {model} DATA --out vectors")


def _plan(given: Namespace) -> Recipe:
    return api.load_recipe(given.recipe, given.overrides)


def _finished(result: api.Result, given: Namespace) -> None:
    from .reporting import summary

    if distributed.rank():
        return None
    if given.json:
        return out_json(
            {
                "folder": str(result.folder),
                "model": str(result.model),
                "report": str(result.report),
                "means": result.means(),
                "steps": [vars(step) for step in result.steps],
            }
        )
    out(summary(result.scores, result.steps, model=result.model, report=result.report))


def _dry_run(plan: Recipe, given: Namespace) -> None:
    """Check everything that can be checked before work starts, and print the resolved recipe."""
    from .naming import run_folder
    from .pipeline import Pipeline

    reading = Reading(lenient=given.lenient)
    Pipeline(plan, folder=Path(given.folder) if given.folder else None, reading=reading).check()
    facts: list[dict[str, Any]] = []
    for number, stage in enumerate(plan.stages, start=1):
        dataset = Dataset.open(dataset_of(stage.data), reading=reading)
        qrels = assemble.training_qrels(dataset, stage.data)
        facts.append({"stage": number, "queries": len(qrels.queries), "judgements": len(qrels)})
    for evaluation in plan.evaluate:
        dataset = Dataset.open(evaluation.dataset, reading=reading)
        qrels = dataset.read_qrels(evaluation.qrels) if evaluation.qrels else dataset.qrels(evaluation.split)
        facts.append({"test": evaluation.dataset, "queries": len(qrels.queries), "documents": len(dataset.corpus)})
    folder = given.folder or run_folder(plan)
    if given.json:
        return out_json({"folder": str(folder), "facts": facts, "recipe": recipe.dump(plan)})
    out(recipe.dump(plan))
    for fact in facts:
        out("# " + ", ".join(f"{key} {value}" for key, value in fact.items()))
    out(f"# run folder: {folder}")
    out(f"# nothing was done; next: {command(given.verb, given.recipe, *given.overrides)}")


# --- search --------------------------------------------------------------------------------------


def _open(given: Namespace) -> Dataset:
    return assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))


def encode(given: Namespace) -> None:
    from .models import load

    folder, dataset, device = new_folder(given.out), _open(given), assemble.pick_device(given.device)
    ranker = load(given.model, device=device)
    vectors = assemble.encode_corpus(ranker, dataset, folder, device=device, dtype=given.dtype)
    out(f"vectors: {given.out}  ({len(vectors):,} x {vectors.dim}, {given.dtype})")
    out(f"next:    {command('search', given.out, given.data, '--model', given.model, '--out', 'run.trec')}")


def index(given: Namespace) -> None:
    from .search import BM25

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
    from .models import load
    from .search import LexicalIndex

    path, dataset = new_file(given.out), _open(given)
    if given.k < 1:
        raise UsageError(f"k must be at least 1, got {given.k}")
    ids = list(dataset.qrels(given.split).queries if given.split else dataset.queries.ids)
    kind = storage.read_manifest(given.index).kind
    if kind in ("vectors", "ann"):
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


def mine(given: Namespace) -> None:
    from .models import load
    from .search import Mine

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
            load(given.model, device=device), dataset, _workplace(given, dataset) / "vectors", device=device
        )
    if distributed.rank() == 0:
        with distributed.alone():
            _mine(given, path, dataset, known, spec)


def _mine(given: Namespace, path: Path, dataset: Dataset, known: Qrels, spec: Mine) -> None:
    from .pipeline import NO_NEGATIVES
    from .search import mine

    found, positives = _candidates(given, dataset, known, spec.needs_positive_scores)
    negatives, report = mine(found, known, spec, positives=positives)
    if not len(negatives):
        raise UsageError(f"no negatives were found: {report}", fix=f"{NO_NEGATIVES}, or mine in another --split or run")
    write_qrels(path, negatives)
    storage.remove_folder(_workplace(given, dataset))
    out(str(report))
    out(f"negatives: {given.out}")
    source = f"Judged: {{dataset: {given.data}, qrels: {given.out}, grade: 0}}"
    out(f"next:      in a recipe, before the judgements: {source}")


def _candidates(given: Namespace, dataset: Dataset, known: Any, scores: bool) -> tuple[Any, Any]:
    from .models import load
    from .search import BM25, Exact

    if given.run:
        return read_run(Path(given.run), dataset.reading), None
    depth, ids, work = given.ranks[1] + 100, known.queries, _workplace(given, dataset)
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
    return found, Exact(vectors, device).score(queries, ids, pairs=known)


def _workplace(given: Namespace, dataset: Dataset) -> Path:
    """Where the work for an output is kept until it is there: in the cache, by the output's path."""
    return dataset.cache / "work" / fingerprint(str(Path(given.out).absolute()))


# --- evaluation ----------------------------------------------------------------------------------


def evaluate(given: Namespace) -> None:
    from .reporting import comparison_table, evaluate_runs, metrics_json

    if len(set(given.runs)) < len(given.runs):
        raise UsageError("the same run is given twice", fix="give each run once")
    if given.out and (not Path(given.out).name or Path(given.out).is_dir()):
        raise UsageError("is a folder, a JSON file is written here", where=given.out, fix="e.g. --out metrics.json")
    reading = Reading(lenient=given.lenient)
    qrels = read_qrels(Path(given.qrels), reading)
    names = _names(given.runs)
    runs = {name: read_run(Path(path), reading) for name, path in zip(names, given.runs)}
    scores, comparison = evaluate_runs(runs, qrels, given.measures)
    result = metrics_json(scores, comparison, per_query=bool(given.out))
    if given.out:
        storage.write_json(given.out, result)
    if given.json:
        return out_json(metrics_json(scores, comparison, per_query=False))
    out(comparison_table(scores, comparison))
    if given.out:
        out(f"\nper query: {given.out}")
    elif len(given.runs) > 1:
        out("\nnext: add --out metrics.json to keep every query's values")
    if len(given.runs) == 1:
        again = command("evaluate", "BASELINE.trec", given.runs[0], "--qrels", given.qrels)
        out(f"\nnext: compare it with another run: {again}")


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of runs: the file's, or the whole path where two files are called the same."""
    short = [Path(path).name.split(".")[0] for path in paths]
    return [name if short.count(name) == 1 else path for name, path in zip(short, paths)]


def report(given: Namespace) -> None:
    from .pipeline import Pipeline
    from .reporting import conclude

    folder = Path(given.folder)
    if not (folder / "recipe.yaml").is_file():
        raise UsageError("is no run folder: no recipe.yaml in it", where=folder, fix="give what `rankwright run` made")
    plan = api.load_recipe(folder / "recipe.yaml")
    outcome = Pipeline(plan, folder=folder, reading=Reading(lenient=given.lenient)).run()
    if distributed.rank():
        return
    with distributed.alone():
        path, _ = conclude(outcome)
    out(f"report: {path}")
    if outcome.model:
        out(f"next:   {command('export', outcome.model, '--verify')}")


def export(given: Namespace) -> None:
    from . import models

    if not given.out and not given.verify:
        raise UsageError("nothing to do", fix="give --out FOLDER, --verify or both")
    ranker = models.load(given.model)
    folder = Path(models.resolve(given.model))
    if given.out:
        models.export(ranker, Path(given.out))
        folder = Path(given.out)
        if not given.json:
            out(f"model: {folder}")
    if not given.verify:
        return out_json({"model": str(folder)}) if given.json else None
    checks = models.verify_export(folder, _SAMPLE)
    if given.json:
        out_json([vars(check) for check in checks])
    else:
        rows = [[c.reader, c.side, "" if c.difference is None else f"{c.difference:.1e}", c.verdict] for c in checks]
        out(table(["read by", "side", "largest difference", "verdict"], rows))
        out(f"next: {command('encode', folder, 'DATA', '--out', 'vectors')}")
    if any(check.verdict == "differs" for check in checks):
        raise ArtefactError("another library reads other vectors from this folder", where=folder)


_SAMPLE = [
    "what is dense retrieval?",
    "A retriever maps queries and documents to vectors and ranks documents by their inner product.",
    "Résumé, naïve, Ωmega; 12,345.67 (mixed) signs!",
    "word " * 400,
]


# --- looking -------------------------------------------------------------------------------------


def show(given: Namespace) -> None:
    path = Path(given.thing)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        steps = known_steps(path) if (path / "steps.json").is_file() else {}
        facts = {"run folder": str(path), "steps": {name: f"{s['seconds']:.1f} s" for name, s in steps.items()}}
        facts["contents"] = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    elif path.is_dir():
        if not (path / storage.MANIFEST).is_file():
            what, fix = "no artefact of ours: no manifest.json in it", "give a recipe, a run folder or what a verb made"
            if (path / "config.json").is_file() or (path / "modules.json").is_file():
                fix = f"it looks like somebody's model: {command('export', path, '--verify')}"
            elif (path / "qrels").is_dir():
                fix = f"it looks like a data set: {command('doctor', path)}"
            raise ArtefactError(what, where=path, fix=fix)
        manifest = storage.verify(path)
        facts = {"kind": manifest.kind, "key": manifest.key, "intact": True, **manifest.meta}
        facts["files"] = {name: f"{entry['size']:,} bytes" for name, entry in manifest.files.items()}
    else:
        plan = api.load_recipe(given.thing, given.overrides)
        return out_json({"recipe": recipe.dump(plan)}) if given.json else out(recipe.dump(plan))
    if given.json:
        return out_json(facts)
    for key, value in facts.items():
        if isinstance(value, dict):
            out(f"{key}:")
            for name, detail in value.items():
                out(f"  {name}: {detail}")
        else:
            out(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


def schema(given: Namespace) -> None:
    out_json(recipe.schema(Recipe))


def doctor(given: Namespace) -> None:
    from .doctor import examine, text

    findings = examine(given)
    if given.json:
        return out_json(findings)
    out(text(findings, given.thing))


def check_gradients(given: Namespace) -> None:
    from .doctor import gradient_checks

    results = gradient_checks(_plan(given), queries=given.queries, dtype="float32" if given.float32 else "float64")
    passed = all(result["passed"] for result in results)
    if given.json:
        out_json({"passed": passed, "checks": results})
    else:
        rows = [
            [r["stage"], r["way"], f"{r['gradient']:.1e}", f"{r['loss']:.1e}", "same" if r["passed"] else "DIFFERENT"]
            for r in results
        ]
        out(table(["stage", "way of running the step", "gradient", "loss", "verdict"], rows))
        out("\nrelative difference from plain autograd over the whole batch, dropout on")
        if passed:
            out(f"next: rankwright run {given.recipe}")
    if not passed:
        raise ArtefactError("a gradient differs from plain autograd", fix="please report this with the recipe")
