"""A recipe carried out in its run folder: baselines, negatives, training, search; unchanged steps are not redone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import assemble, recipe, storage
from . import stages as stage_work
from .data import Dataset, Judged, Mixture, Reading, Source, Supervision, default_cache, formats
from .errors import RecipeError
from .evaluation import Evidence, parse
from .first_stages import first_of, own_run, validation_inputs, validation_run
from .judgements import evidence
from .ledger import Ledger, begun, claim, content_hash, environment, fingerprint, other_model
from .loading import rooted
from .mining import Miner, require_relevant
from .naming import collection_labels, dataset_names, run_folder
from .outcome import SYSTEMS, Evaluated, Outcome
from .plan import Evaluation, Mining, Recipe, Reranking, Stage, Validation
from .progress import say
from .search import BM25, Fuse, LexicalIndex, TokenVectors, Vectors, exact_index, fuse, without_self
from .stages import Opened
from .training import distributed
from .types import Precision, Run
from .usage import check, differences, used

if TYPE_CHECKING:
    from .models import Ranker
    from .training import Validator


class Pipeline:
    """Carries out one recipe; `run` is the whole of it, `train` the stages alone.

    Args:
        folder: the run folder; null: ``output/name`` of the recipe.
        reading: how strict readers are.
        allow_drift: resume training although data, recipe, threads or torch changed.
    """

    def __init__(
        self, plan: Recipe, *, folder: Path | None = None, reading: Reading | None = None, cache: Path | None = None,
        allow_drift: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.folder = rooted(plan), folder or run_folder(plan)
        self.reading, self.cache = reading or Reading(), cache or default_cache()
        self.allow_drift = allow_drift
        self.device = assemble.pick_device(plan.device)
        self.precision: Precision = assemble.pick_precision(plan.precision, self.device)
        self.ledger = Ledger(self.folder)
        self.negatives: dict[str, str] = {}
        self._latency: list[dict[str, float]] = [{} for _ in plan.evaluate]
        self._datasets: dict[str, Dataset] = {}
        self._evident: dict[tuple[object, ...], Evidence] = {}
        self._merged: tuple[tuple[Source, ...], Supervision] | None = None
        self._names, self._labels = dataset_names(self.plan), collection_labels(self.plan)

    # --- the story -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Baselines, stages, evaluation.

        Raises:
            Stopped: a signal came; the same call goes on from there.
        """
        claim(self.folder)
        self.check()
        with self._held():
            start = self._load(self.plan.model)
            check(self.plan, start)
            for remark in differences(self.plan, start):
                say(remark)
            runs: list[dict[str, Run]] = [{} for _ in self.plan.evaluate]
            for at, evaluation in enumerate(self.plan.evaluate):
                if evaluation.rerank is not None and evaluation.rerank.first not in ("bm25", "pool"):
                    runs[at][SYSTEMS["first"]] = self._first(at, evaluation.rerank)
                if "bm25" in evaluation.baselines:
                    runs[at][SYSTEMS["bm25"]] = self._bm25(at)
                if "start" in evaluation.baselines or not self.plan.stages:
                    runs[at][SYSTEMS["start"]] = self._ranked(at, self._used(at, self.plan.model, start), "start")
            model = self._train(start)
            if model is not None:
                spec = self.plan.model.started_from(str(model))
                trained = self._load(spec)
                for at, found in enumerate(runs):
                    found[SYSTEMS["trained"]] = self._ranked(at, self._used(at, spec, trained), "trained")
            for at, found in enumerate(runs):
                if spec := self.plan.evaluate[at].fuse:
                    found[SYSTEMS["fused"]] = self._fused(at, spec, "start" if model is None else "trained")
            evaluated = tuple(
                Evaluated(e, self._labels[at], self._dataset(e.dataset), self._evidence(e), runs[at],
                          self._latency[at], self._place(at))
                for at, e in enumerate(self.plan.evaluate)
            )  # fmt: skip
            steps = tuple(self.ledger.steps)
            return Outcome(self.plan, self.folder, model, evaluated, steps, dict(self.negatives), start)

    def train(self) -> Path:
        """The stages alone; the model folder."""
        if not self.plan.stages:
            raise RecipeError("the recipe has no stages: there is nothing to train", where="stages")
        claim(self.folder)
        with self._held():
            start = self._load(self.plan.model)
            check(self.plan, start)
            model = self._train(start)
            assert model is not None
            return model

    def check(self) -> None:
        """Read all judgements and rankings that any step will need: a wrong name shows before hours of work, not after.

        Raises:
            DataError: a data set, split or file is missing or wrong.
        """
        for at, evaluation in enumerate(self.plan.evaluate):
            self._evidence(evaluation)
            if evaluation.rerank is not None and evaluation.rerank.first != "bm25":
                self._first(at, evaluation.rerank)
        for stage in self.plan.stages:
            mixture = self._mixture(stage.data)
            self._supervision(mixture, stage.data)
            assemble.named_files(stage.group, stage.travelling, cache=mixture.first.cache)
            if stage.mine and stage.mine.by not in ("model", "bm25"):
                formats.read_run(Path(stage.mine.by), self.reading)
            if stage.validate:
                self._validated(stage.validate)
            for path in (spec for term in stage.objective for spec in term.taught_by if isinstance(spec, str)):
                formats.read_run(Path(path), self.reading)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The run folder, ours alone; the first process holds it for all."""
        if distributed.rank():
            distributed.wait()
            yield
            return
        with storage.lock(self.folder / ".lock"):
            self._begin()
            distributed.wait()
            yield

    def _begin(self) -> None:
        storage.sweep(self.folder)
        storage.write_json(self.folder / "environment.json", environment(self.device))  # first: by it `claim` knows us
        storage.write_text(self.folder / "recipe.yaml", recipe.dump(self.plan))

    # --- parts -----------------------------------------------------------------------------------

    def _load(self, spec: Any) -> Ranker:
        return spec.load(device=self.device, seed=self.plan.seed)

    def _used(self, at: int, spec: Any, ranker: Ranker) -> Ranker:
        """The ranker of `spec`, otherwise than it was trained where the evaluation says so."""
        return self._load(used(spec, use)) if (use := self.plan.evaluate[at].use) else ranker

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            self._datasets[name] = assemble.open_dataset(name, reading=self.reading, cache=self.cache)
        return self._datasets[name]

    def _mixture(self, sources: Sequence[Source]) -> Mixture:
        return Mixture.open(sources, self._dataset)

    def _supervision(self, mixture: Mixture, sources: Sequence[Source]) -> Supervision:
        """Merged once for all that asks for it: the last is kept."""
        if self._merged is None or self._merged[0] != tuple(sources):
            self._merged = tuple(sources), assemble.merged(mixture, sources)
        return self._merged[1]

    def _evidence(self, evaluation: Evaluation) -> Evidence:
        kinds = frozenset(measure.of_answers for measure in parse(evaluation.measures))
        key = (evaluation.dataset, evaluation.qrels, evaluation.split, evaluation.questions, kinds)
        if key not in self._evident:
            self._evident[key] = evidence(self._dataset(evaluation.dataset), evaluation)
        return self._evident[key]

    def _place(self, at: int) -> Path:
        return self.folder / "evaluation" / "-".join(self._labels[at])

    def _bm25(self, at: int) -> Run:
        evaluation = self.plan.evaluate[at]
        dataset, queries = self._dataset(evaluation.dataset), self._evidence(evaluation).queries
        return self._searched(
            at, "bm25", f"BM25 on {'-'.join(self._labels[at])}", {"corpus": dataset.corpus.fingerprint},
            lambda: partial(assemble.bm25_run, dataset, self._bm25_index(dataset), queries),
        )  # fmt: skip

    def _searched(
        self, at: int, system: str, name: str, inputs: dict[str, object], ready: Callable[[], Callable[..., Run]]
    ) -> Run:
        """The run of one system; where self-hits are dropped, searched one deeper. The search alone is timed."""
        evaluation, path = self.plan.evaluate[at], self._place(at) / f"{system}.trec"
        queries, spare = self._evidence(evaluation).queries, int(evaluation.drop_self)
        inputs |= {"queries": self._dataset(evaluation.dataset).queries.fingerprint, "of": list(queries)}
        inputs |= {"depth": evaluation.depth} | ({"drop_self": True} if spare else {})

        def work() -> dict[str, float]:
            search, began = ready(), time.perf_counter()
            run = search(depth=evaluation.depth + spare)
            seconds = time.perf_counter() - began
            formats.write_run(path, without_self(run, depth=evaluation.depth) if spare else run, tag=system)
            return {"search_seconds": seconds}

        self.ledger.do(name, inputs, outputs=[path], work=work)
        if "search_seconds" in (facts := self.ledger.facts(name)):
            self._latency[at][SYSTEMS[system]] = facts["search_seconds"] / len(queries)
        return own_run(path)

    def _fused(self, at: int, spec: Fuse, system: str) -> Run:
        paths = [self._place(at) / f"{name}.trec" for name in ("bm25", system, "fused")]
        inputs = {"runs": [content_hash(path) for path in paths[:2]], "spec": repr(spec)}

        def work() -> None:  # of two runs of one depth
            both = [own_run(path) for path in paths[:2]]
            formats.write_run(paths[2], fuse(both, spec, depth=self.plan.evaluate[at].depth), tag="fused")

        self.ledger.do(f"fuse {self._place(at).name}", inputs, outputs=paths[2:], work=work)
        return own_run(paths[2])

    def _bm25_index(self, dataset: Dataset) -> LexicalIndex:
        return assemble.bm25_index(dataset, self.folder / "index" / f"bm25-{self._names[dataset.name]}", BM25())

    def _vectors(self, ranker: Ranker, system: str, dataset: Dataset) -> Vectors | TokenVectors:
        inputs = {"model": ranker.fingerprint("doc"), "tokens": ranker.tokenizer_key("doc"),
                  "corpus": dataset.corpus.fingerprint, "precision": self.precision}  # fmt: skip
        name = self._names[dataset.name]
        shared = self.cache / "vectors" / fingerprint(inputs)
        folder = shared if self.plan.share_vectors else self.folder / "vectors" / f"{system}-{name}"
        made: list[Vectors | TokenVectors] = []

        def work() -> None:
            made.append(assemble.encode_corpus(ranker, dataset, folder, device=self.device, precision=self.precision))

        self.ledger.do(
            f"encode {name} ({SYSTEMS.get(system, system)})", inputs, outputs=[folder], work=work, together=True
        )
        return made[0] if made else assemble.open_vectors(folder)

    def _ranked(self, at: int, ranker: Ranker, system: str) -> Run:
        """What a ranker makes of a collection: from the whole corpus, or of a first stage's documents."""
        evaluation, how = self.plan.evaluate[at], self.plan.evaluate[at].rerank
        if how is None:
            return self._dense(at, ranker, system)
        dataset, first = self._dataset(evaluation.dataset), self._first(at, how)
        deepest = len(first) if how.first == "pool" else how.depth

        def search(*, depth: int) -> Run:
            folder = self.folder / "scores" / f"{self._place(at).name}-{system}"
            return assemble.rerank_run(
                ranker, dataset, first, depth=deepest, tail=how.tail, device=self.device, precision=self.precision,
                folder=folder,
            ).ranked(depth)  # fmt: skip

        return self._searched(
            at, system, f"re-rank {'-'.join(self._labels[at])} ({SYSTEMS[system]})",
            {"first": fingerprint(first.to_dict()), "rerank": [how.depth, how.tail], "precision": self.precision,
             "model": fingerprint([ranker.fingerprint("query"), ranker.fingerprint("doc")]),
             "tokens": [ranker.tokenizer_key("query"), ranker.tokenizer_key("doc")],
             "corpus": dataset.corpus.fingerprint},
            lambda: search,
        )  # fmt: skip

    def _first(self, at: int, how: Reranking) -> Run:
        """The first stage's ranking of the judged queries."""
        if how.first == "bm25":
            return self._bm25(at)
        evaluation = self.plan.evaluate[at]
        evaluation = self.plan.evaluate[at]
        dataset, queries = self._dataset(evaluation.dataset), self._evidence(evaluation).queries
        return first_of(how, evaluation, dataset, queries, self.reading)

    def _dense(self, at: int, ranker: Ranker, system: str) -> Run:
        evaluation = self.plan.evaluate[at]
        dataset, queries = self._dataset(evaluation.dataset), self._evidence(evaluation).queries
        vectors = self._vectors(ranker, f"{system}-{evaluation.use.name}" if evaluation.use else system, dataset)
        return self._searched(
            at, system, f"search {'-'.join(self._labels[at])} ({SYSTEMS[system]})",
            {"vectors": vectors.fingerprint, "model": ranker.fingerprint("query"),
             "tokens": ranker.tokenizer_key("query")},
            lambda: partial(assemble.dense_run, ranker, dataset, vectors, queries, device=self.device),
        )  # fmt: skip

    # --- training --------------------------------------------------------------------------------

    def _train(self, start: Ranker) -> Path | None:
        ranker, model = start, None
        stages = list(enumerate(self.plan.stages, start=1))
        for together in [stages] if self.plan.order == "cycle" and stages else [[stage] for stage in stages]:
            if model is not None:
                ranker = self._load(self.plan.model.started_from(str(model)))
            number = together[0][0]
            model = self._stages(together, ranker, "start" if number == 1 else f"stage-{number - 1}")
        return model

    def _stages(self, stages: Sequence[tuple[int, Stage]], ranker: Ranker, system: str) -> Path:
        """Train a stage, or several in turn; the model's folder."""
        opened = [self._opened(stage, number, ranker, system) for number, stage in stages]
        (first, stage), last = stages[0], stages[-1][0]
        folder = self.folder / f"stage-{first}"
        model = self.folder / "model" if last == len(self.plan.stages) else folder / "model"
        facts = stage_work.identity(
            opened, ranker, self.plan.model, seed=self.plan.seed, reading=self.reading, device=self.device
        )
        if stage.validate:
            facts |= {"validation": fingerprint(self._validated(stage.validate))}
        identity = distributed.told(facts)
        # torchrun gives a process one thread: another number of threads must not undo what is finished
        made_of = {name: value for name, value in identity.items() if name != "threads"}
        name = f"train stage {first}" if first == last else f"train stages {first} to {last} in turn"
        if distributed.rank() == 0:
            done = self.ledger.finished_otherwise(name, made_of) or other_model(model, fingerprint(made_of))
            if done and begun(folder / "train") != made_of:
                say(f"{name}: its recipe or data changed since it was finished: training anew")
                storage.remove_folder(folder / "train")
        distributed.wait()

        def work() -> None:
            stage_work.fit(
                opened, ranker, folder=folder / "train", identity=identity, seed=self.plan.seed, reading=self.reading,
                device=self.device, validator=self._validator(stage.validate, ranker), allow_drift=self.allow_drift,
            )  # fmt: skip
            if distributed.rank() == 0:
                recipes = "; ".join(repr(stage) for _, stage in stages)
                with storage.publish(model, "model", key=fingerprint(made_of), meta={"recipe": recipes}) as draft:
                    ranker.save(draft.path)

        self.ledger.do(name, made_of, outputs=[model], work=work, together=True)
        return model

    def _opened(self, stage: Stage, number: int, ranker: Ranker, system: str) -> Opened:
        """A stage's data, its hard negatives found."""
        sources = list(stage.data)
        mixture, first = self._mixture(sources), sources[0]
        if stage.mine is not None:
            folder = self._folder_of_negatives(stage, number)
            negatives = self._mine(stage, stage.mine, folder / "negatives.tsv", ranker, system)
            mined = Judged(first.dataset, qrels=str(negatives), grade=stage.mine.grade)
            sources.insert(0, replace(mined, namespace=first.namespace, query_namespace=first.query_namespace))
        return Opened(stage, number, mixture, tuple(sources), self._supervision(mixture, sources))

    def _folder_of_negatives(self, stage: Stage, number: int) -> Path:
        """Stages of a cycle that mine alike from alike data share what the first of them found."""
        if self.plan.order == "cycle":
            alike = [(other.data, other.mine) == (stage.data, stage.mine) for other in self.plan.stages]
            number = alike.index(True) + 1
        return self.folder / f"stage-{number}"

    def _validator(self, spec: Validation | None, ranker: Ranker) -> Validator | None:
        if spec is None:
            return None
        return assemble.make_validator(
            ranker, self._dataset(spec.dataset), spec, self._validation_run(spec),
            device=self.device, precision=self.precision,
        )  # fmt: skip

    def _mine(self, stage: Stage, spec: Mining, path: Path, ranker: Ranker, system: str) -> Path:
        mixture = self._mixture(stage.data)
        dataset, known = mixture.first, mixture.of_first(self._supervision(mixture, stage.data).judged)
        require_relevant(known)
        index = exact_index(self._vectors(ranker, system, dataset), self.device) if spec.by == "model" else None
        miner = Miner(
            spec, dataset, known, ranker, index, lambda: self._bm25_index(dataset), self.reading, self.device
        )  # fmt: skip
        self.negatives[path.parent.name] = miner.into(path, self.ledger)
        return path

    def _validated(self, spec: Validation) -> list[object]:
        given = spec.candidates not in (None, "bm25")
        return validation_inputs(spec, self._dataset(spec.dataset), self._validation_run(spec) if given else None)

    def _validation_run(self, spec: Validation) -> Run | None:
        dataset = self._dataset(spec.dataset)
        return validation_run(spec, dataset, self.reading, lambda: self._bm25_index(dataset))
