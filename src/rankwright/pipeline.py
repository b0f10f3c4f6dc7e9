"""A recipe carried out in its run folder: baselines, negatives, training, search; unchanged steps are not redone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import assemble, recipe, storage
from .data import Dataset, Judged, Reading, dataset_of, default_cache, read_run, write_qrels, write_run
from .errors import RecipeError
from .ledger import Ledger, StepRecord, fingerprint
from .plan import Evaluation, Mining, Recipe, Stage, Validation
from .progress import say
from .randomness import key
from .search import BM25, Exact, LexicalIndex, Vectors, embed, mine
from .types import Qrels, Run

if TYPE_CHECKING:
    from .models import Ranker
    from .training import Validator

SYSTEMS = {"bm25": "BM25", "start": "before training", "trained": "after training"}


@dataclass(frozen=True)
class Evaluated:
    """The runs of one test collection, by system, in the order in which they are reported."""

    evaluation: Evaluation
    dataset: Dataset
    qrels: Qrels
    runs: Mapping[str, Run]
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a recipe came to."""

    recipe: Recipe
    folder: Path
    model: Path | None
    evaluated: tuple[Evaluated, ...]
    steps: tuple[StepRecord, ...]
    negatives: Mapping[str, str]


class Pipeline:
    """Carries out one recipe; `run` is the whole of it, `train` the stages alone.

    Args:
        folder: the run folder; null: ``output/name`` of the recipe.
        reading: how strict readers are.
        allow_drift: resume training although data, recipe, threads or torch changed.
    """

    def __init__(
        self,
        plan: Recipe,
        *,
        folder: Path | None = None,
        reading: Reading | None = None,
        cache: Path | None = None,
        allow_drift: bool = False,
    ) -> None:
        self.plan, self.folder = plan, folder or run_folder(plan)
        self.reading, self.cache = reading or Reading(), cache or default_cache()
        self.allow_drift = allow_drift
        self.device = assemble.pick_device(plan.device)
        self.ledger = Ledger(self.folder)
        self.negatives: dict[str, str] = {}
        self._datasets: dict[str, Dataset] = {}

    # --- the story -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Baselines, stages, evaluation.

        Raises:
            Stopped: a signal came; the same call goes on from there.
        """
        with storage.lock(self.folder / ".lock"):
            self._begin()
            start = self._load(self.plan.model)
            runs: list[dict[str, Run]] = [{} for _ in self.plan.evaluate]
            for at, evaluation in enumerate(self.plan.evaluate):
                if "bm25" in evaluation.baselines:
                    runs[at][SYSTEMS["bm25"]] = self._bm25(evaluation)
                if "start" in evaluation.baselines or not self.plan.stages:
                    runs[at][SYSTEMS["start"]] = self._dense(evaluation, start, "start")
            model = self._train(start)
            if model is not None:
                trained = self._load(_continued(self.plan.model, model))
                for at, evaluation in enumerate(self.plan.evaluate):
                    runs[at][SYSTEMS["trained"]] = self._dense(evaluation, trained, "trained")
            evaluated = tuple(
                Evaluated(e, self._dataset(e.dataset), self._qrels(e), found, self._place(e))
                for e, found in zip(self.plan.evaluate, runs)
            )
            return Outcome(self.plan, self.folder, model, evaluated, tuple(self.ledger.steps), dict(self.negatives))

    def train(self) -> Path:
        """The stages alone; the model folder."""
        if not self.plan.stages:
            raise RecipeError("the recipe has no stages: there is nothing to train", where="stages")
        with storage.lock(self.folder / ".lock"):
            self._begin()
            model = self._train(self._load(self.plan.model))
            assert model is not None
            return model

    def _begin(self) -> None:
        storage.sweep(self.folder)
        storage.write_text(self.folder / "recipe.yaml", recipe.dump(self.plan))
        storage.write_json(self.folder / "environment.json", environment(self.device))

    # --- parts -----------------------------------------------------------------------------------

    def _load(self, spec: Any) -> Ranker:
        return spec.load(device=self.device, seed=self.plan.seed)

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            self._datasets[name] = Dataset.open(name, reading=self.reading, cache=self.cache)
        return self._datasets[name]

    def _qrels(self, evaluation: Evaluation) -> Qrels:
        dataset = self._dataset(evaluation.dataset)
        if evaluation.qrels is not None:
            return dataset.read_qrels(evaluation.qrels)
        return dataset.qrels(evaluation.split)

    def _place(self, evaluation: Evaluation) -> Path:
        return self.folder / "evaluation" / place_name(evaluation.dataset, evaluation.split)

    def _bm25(self, evaluation: Evaluation) -> Run:
        dataset, qrels = self._dataset(evaluation.dataset), self._qrels(evaluation)
        path = self._place(evaluation) / "bm25.trec"
        self.ledger.do(
            f"BM25 on {place_name(evaluation.dataset, evaluation.split)}",
            {"corpus": dataset.corpus.fingerprint, "queries": dataset.queries.fingerprint, "of": list(qrels.queries),
             "depth": evaluation.depth},
            outputs=[path],
            work=lambda: write_run(
                path,
                assemble.bm25_run(dataset, self._bm25_index(dataset), qrels.queries, depth=evaluation.depth),
                tag="bm25",
            ),
        )  # fmt: skip
        return read_run(path)

    def _bm25_index(self, dataset: Dataset) -> LexicalIndex:
        return assemble.bm25_index(dataset, self.folder / "index" / f"bm25-{short_name(dataset.name)}", BM25())

    def _vectors(self, ranker: Ranker, system: str, dataset: Dataset) -> Vectors:
        folder = self.folder / "vectors" / f"{system}-{short_name(dataset.name)}"
        made: list[Vectors] = []
        self.ledger.do(
            f"encode {short_name(dataset.name)} ({SYSTEMS.get(system, system)})",
            {"model": ranker.fingerprint("doc"), "tokens": ranker.tokenizer_key("doc"),
             "corpus": dataset.corpus.fingerprint},
            outputs=[folder],
            work=lambda: made.append(assemble.encode_corpus(ranker, dataset, folder, device=self.device)),
        )  # fmt: skip
        return made[0] if made else Vectors.open(folder)

    def _dense(self, evaluation: Evaluation, ranker: Ranker, system: str) -> Run:
        dataset, qrels = self._dataset(evaluation.dataset), self._qrels(evaluation)
        vectors = self._vectors(ranker, system, dataset)
        path = self._place(evaluation) / f"{system}.trec"
        self.ledger.do(
            f"search {place_name(evaluation.dataset, evaluation.split)} ({SYSTEMS[system]})",
            {"vectors": vectors.fingerprint, "model": ranker.fingerprint("query"),
             "tokens": ranker.tokenizer_key("query"), "queries": dataset.queries.fingerprint,
             "of": list(qrels.queries), "depth": evaluation.depth},
            outputs=[path],
            work=lambda: write_run(
                path,
                assemble.dense_run(
                    ranker, dataset, vectors, qrels.queries, depth=evaluation.depth, device=self.device
                ),
                tag=system,
            ),
        )  # fmt: skip
        return read_run(path)

    # --- training --------------------------------------------------------------------------------

    def _train(self, start: Ranker) -> Path | None:
        ranker, model = start, None
        for number, stage in enumerate(self.plan.stages, start=1):
            if model is not None:
                ranker = self._load(_continued(self.plan.model, model))
            model = self._stage(stage, number, ranker, "start" if number == 1 else f"stage-{number - 1}")
        return model

    def _stage(self, stage: Stage, number: int, ranker: Ranker, system: str) -> Path:
        folder = self.folder / f"stage-{number}"
        sources = list(stage.data)
        dataset = self._dataset(dataset_of(sources))
        if stage.mine is not None:
            negatives = self._mine(stage, stage.mine, folder / "negatives.tsv", ranker, system)
            sources.insert(0, Judged(dataset=dataset.name, qrels=str(negatives), grade=0.0))
        model = self.folder / "model" if number == len(self.plan.stages) else folder / "model"
        identity = self._identity(stage, ranker, dataset, sources)
        name = f"train stage {number}"
        if self.ledger.finished_otherwise(name, identity):
            say(f"{name}: its recipe or data changed since it was finished: training anew")
            storage.remove_folder(folder / "train")

        def work() -> None:
            self._fit(stage, folder / "train", ranker, dataset, sources, identity)
            with storage.publish(model, "model", key=fingerprint(identity), meta={"recipe": repr(stage)}) as draft:
                ranker.save(draft.path)

        self.ledger.do(name, identity, outputs=[model], work=work)
        return model

    def _identity(self, stage: Stage, ranker: Ranker, dataset: Dataset, sources: list[Any]) -> dict[str, str]:
        """Everything the trained weights depend on, by name."""
        import torch

        settings = replace(stage.train, track=(), workers=1, save_every=1, keep_checkpoints=1)
        choices = [stage.group, stage.batches, stage.objective, settings, stage.validate]
        choices += [stage.query_length, stage.doc_length]
        return {
            "recipe": fingerprint(repr(choices)),
            "model": fingerprint([ranker.fingerprint("query"), ranker.fingerprint("doc"), repr(self.plan.model)]),
            "texts": fingerprint([dataset.corpus.fingerprint, dataset.queries.fingerprint]),
            "judgements": fingerprint(assemble.training_qrels(dataset, sources).to_dict()),
            "seed": str(self.plan.seed),
            "device": self.device,
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
        }

    def _fit(
        self, stage: Stage, folder: Path, ranker: Ranker, dataset: Dataset, sources: list[Any], identity: dict[str, str]
    ) -> None:
        from .training import Objective, distributed, train_stage

        loader = assemble.make_loader(
            ranker, dataset, sources, group=stage.group, batches=stage.batches,
            seed=key(self.plan.seed, "stage", str(folder.parent.name)),
            limits={"query": stage.query_length, "doc": stage.doc_length}, workers=stage.train.workers,
            rank=distributed.rank(), world=distributed.world(),
        )  # fmt: skip
        say(f"{len(loader.supervision):,} queries, {ranker.dropout_note}")
        if loader.supervision.dropped:
            say(f"{loader.supervision.dropped:,} queries have no relevant document and are left out")
        train_stage(
            ranker, loader, Objective(stage.objective), settings=stage.train, folder=folder, identity=identity,
            seed=self.plan.seed, device=self.device, allow_drift=self.allow_drift,
            validator=self._validator(stage.validate, ranker) if stage.validate else None,
        )  # fmt: skip

    def _mine(self, stage: Stage, spec: Mining, path: Path, ranker: Ranker, system: str) -> Path:
        dataset = self._dataset(dataset_of(stage.data))
        known = assemble.training_qrels(dataset, stage.data)
        inputs = {"known": fingerprint(known.to_dict()), "spec": repr(spec), "corpus": dataset.corpus.fingerprint}
        inputs["queries"] = dataset.queries.fingerprint
        index: Exact | LexicalIndex | None = None
        if spec.by == "model":
            index = Exact(self._vectors(ranker, system, dataset), self.device)
            inputs["model"] = fingerprint([ranker.fingerprint("query"), ranker.fingerprint("doc")])
        elif spec.by != "bm25":
            inputs["run"] = fingerprint(read_run(Path(spec.by)).to_dict())

        def work() -> None:
            run, positives = self._candidates(spec, dataset, known, ranker, index)
            found, report = mine(run, known, spec.keep, positives=positives)
            write_qrels(path, found)
            self.negatives[path.parent.name] = str(report)
            say(str(report))

        self.ledger.do(f"mine negatives for {path.parent.name} by {spec.by}", inputs, outputs=[path], work=work)
        return path

    def _candidates(
        self, spec: Mining, dataset: Dataset, known: Qrels, ranker: Ranker, index: Exact | LexicalIndex | None
    ) -> tuple[Run, Run | None]:
        """The ranking that negatives come from, and the scores of the relevant documents where margins need them."""
        if spec.by not in ("model", "bm25"):
            return read_run(Path(spec.by)), None
        if isinstance(index, Exact):
            queries = assemble.encode_queries(ranker, dataset, known.queries, device=self.device)
            run = index.search(queries, known.queries, k=spec.depth)
            return run, index.score(queries, known.queries, pairs=known) if spec.keep.needs_positive_scores else None
        lexical = self._bm25_index(dataset)
        texts = [dataset.queries[int(row)].text for row in assemble.rows_of(dataset.queries, known.queries, "query")]
        run = lexical.search(texts, known.queries, k=spec.depth)
        return run, lexical.score(texts, known.queries, pairs=known) if spec.keep.needs_positive_scores else None

    def _validator(self, spec: Validation, ranker: Ranker) -> Validator:
        from .evaluation import evaluate
        from .training import Validator

        dataset = self._dataset(spec.dataset)
        qrels = dataset.qrels(spec.split)
        candidates = read_run(Path(spec.candidates)) if spec.candidates else None
        doc_ids = list(candidates.docs) if candidates else list(dataset.corpus.ids)
        store = assemble.tokens(ranker, dataset.corpus, "doc", cache=dataset.cache)
        rows = assemble.rows_of(dataset.corpus, doc_ids, "document")

        def measure() -> dict[str, float]:
            vectors = embed(ranker, assemble.Rows(store, rows), ids=doc_ids, side="doc", device=self.device)
            queries = assemble.encode_queries(ranker, dataset, qrels.queries, device=self.device)
            index = Exact(vectors, self.device)
            if candidates is not None:
                run = index.score(queries, qrels.queries, pairs=candidates)
            else:
                run = index.search(queries, qrels.queries, k=100)
            return evaluate(run, qrels, [spec.measure]).mean()

        return Validator(measure, spec.measure, every=spec.every, patience=spec.patience)


# --- names and facts -----------------------------------------------------------------------------


def run_folder(plan: Recipe) -> Path:
    """``output/name`` of a recipe."""
    return Path(plan.output) / storage.safe_name(plan.name or "run")


def short_name(dataset: str) -> str:
    """The last part of a data set's path or hub id, as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(dataset).name).lstrip(".") or "data"


def place_name(dataset: str, split: str) -> str:
    return f"{short_name(dataset)}-{split}"


def _continued(spec: Any, folder: Path) -> Any:
    """The recipe's model, started from a folder that an earlier stage wrote; the folder says what it is built of."""
    return spec.started_from(str(folder))


def environment(device: str) -> dict[str, str]:
    """Versions and machine, for the report."""
    import platform
    from importlib.metadata import version

    import torch

    from . import __version__

    packages = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "bm25s", "ir-measures")
    facts = {"rankwright": __version__, "python": platform.python_version(), "platform": platform.platform()}
    facts |= {name: version(name) for name in packages}
    facts |= {"cores": str(os.cpu_count()), "torch threads": str(torch.get_num_threads()), "device": device}
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts
