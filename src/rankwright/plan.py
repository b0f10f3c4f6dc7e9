"""The schema of a recipe on one screen: Recipe, Stage, Term, Train, Mining, Validation, Evaluation, Reranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from .data import Batches, Drawn, Group, PerGrade, Shuffled, Source
from .data.wordings import OneWording
from .errors import RecipeError
from .evaluation import parse
from .models import Cross
from .models.specification import Model
from .recipe import Slot
from .search import Fuse, Mine
from .training import Term, Train
from .types import Precision

__all__ = ["Evaluation", "Mining", "Model", "Recipe", "Reranking", "Stage", "Term", "Train", "Use", "Validation"]

MEASURES = ("nDCG@10", "R@100", "RR@10")


@dataclass(frozen=True)
class Mining:
    """Hard negatives, found before a stage trains; they join its data with their grade, judgements win.

    They come from the data set of the stage's first source, for its queries that have a relevant document there.

    Args:
        by: ``model``: the model the stage starts from; ``bm25``; or the path of a TREC run of the training queries.
        depth: documents retrieved per query.
        keep: which of them become negatives.
        grade: their target; above 0 where even a mined document is worth more than another query's (SyCL's mixture: 1).
    """

    by: str = "model"
    depth: int = 100
    keep: Mine = field(default_factory=Mine)
    grade: float = 0.0

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise RecipeError(f"depth must be at least 1, got {self.depth}")


@dataclass(frozen=True)
class Validation:
    """Measures the model during training; its best step is kept.

    Args:
        dataset: folder or hub id.
        split: whose judgements.
        measure: in ir-measures' names; higher is better.
        every: optimizer steps between validations.
        patience: stop after so many validations without a new best; null: never.
        candidates: a TREC run, or ``bm25``: rank only its documents; null: retrieve from the whole corpus, which a
            cross-encoder cannot do.
        depth: documents per query, of ``candidates: bm25``.
        drop_self: leave the document out that bears the query's own id, as in `Evaluation`.
    """

    dataset: str
    split: str = "dev"
    measure: str = "nDCG@10"
    every: int = 100
    patience: int | None = None
    candidates: str | None = None
    depth: int = 100
    drop_self: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or self.depth < 1 or (self.patience is not None and self.patience < 1):
            raise RecipeError("every, depth and patience must be at least 1")
        if parse(self.measure)[0].of_answers:
            what = f"{self.measure} looks for answers in passages; validation is by judgements"
            raise RecipeError(what, fix=f"measure: Success@{parse(self.measure)[0].cutoff}")


@dataclass(frozen=True)
class Stage:
    """One stage of training: its data, lists, batches, objective and settings.

    Args:
        data: sources of judgements, merged, of one data set or several; the later wins.
        group: which documents of a query enter its list.
        batches: which queries travel together.
        objective: terms that are added up.
        train: optimizer, schedule, memory, logging.
        query_length: tokens of a query while training; null: the model's own length.
        doc_length: tokens of a document while training; null: the model's own. Shorter is faster.
        mine: find hard negatives first; null: none.
        validate: measure during training; null: never.
        samples: a file of query id, tab, sample, as `rankwright convert` writes it where questions have several
            wordings: an epoch draws one query of each sample. Null: every query is in every epoch.
        drawn: documents of other queries that each batch holds besides its lists, for terms ``against: drawn``.
        name: in the log of a cycle; null: its number.
        repeats: steps in a row that it does in a cycle.
    """

    data: tuple[Annotated[Source, Slot("rankwright.data")], ...]
    group: Annotated[Group, Slot("rankwright.data")]
    objective: tuple[Term, ...]
    batches: Annotated[Batches, Slot("rankwright.data")] = field(default_factory=Shuffled)
    train: Train = field(default_factory=Train)
    query_length: int | None = None
    doc_length: int | None = None
    mine: Mining | None = None
    validate: Validation | None = None
    samples: str | None = None
    drawn: Drawn | None = None
    name: str | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RecipeError(f"repeats must be at least 1, got {self.repeats}", fix="leave the stage out instead")
        if self.name is not None and (not self.name or not self.name.replace("-", "_").isidentifier()):
            raise RecipeError(f"name is {self.name!r}", fix="use letters, digits, - and _")
        if self.drawn is None and any(term.against == "drawn" for term in self.objective):
            fix = "give the stage such documents, e.g. drawn: {size: 16}"
            raise RecipeError("a term is against: drawn, and the stage draws none", fix=fix)
        if not self.data or not self.objective:
            raise RecipeError("a stage needs data and an objective")
        for name, length in (("query_length", self.query_length), ("doc_length", self.doc_length)):
            if length is not None and length < 1:
                raise RecipeError(f"{name} must be at least 1, got {length}", fix="null takes the model's own length")
        for name, value, kind in (
            *(("data", source, Source) for source in self.data),
            ("group", self.group, Group),
            ("batches", self.batches, Batches),
        ):
            if not isinstance(value, kind):
                raise RecipeError(f"{name}: {type(value).__name__} is not a {kind.__name__}")
        _check_strata(self.group, self.objective)

    @property
    def travelling(self) -> Batches:
        """Which queries travel together, where only one wording of a question does."""
        return self.batches if self.samples is None else OneWording(self.samples, self.batches)


@dataclass(frozen=True)
class Reranking:
    """A first stage whose best documents the model puts in order: what a cross-encoder is measured by.

    Args:
        first: ``bm25``; ``pool``: the documents that stand beside the query in the data set's ``ranking.trec``, all of
            them (of a conversation, the chunks of its own document); or the path of a TREC run of the queries.
        depth: documents per query that are re-ranked.
        tail: whether the first stage's documents below `depth` are kept behind them.
    """

    first: str = "bm25"
    depth: int = 100
    tail: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if not self.first or self.depth < 1:
            raise RecipeError(
                f"rerank: first is {self.first!r}, depth {self.depth}", fix="e.g. {first: bm25, depth: 100}"
            )
        if self.tail not in ("drop", "keep"):
            raise RecipeError(f"tail is {self.tail!r}", fix="drop or keep")


@dataclass(frozen=True)
class Use:
    """How one evaluation uses the model, where that is not how it was trained; null: as the model has it.

    Args:
        name: of this way, in tables and files.
        similarity: ``dot`` of vectors that were trained by cosine, as LongSeqEfficientTrainer's evaluation has it.
        query_length: tokens of a query.
        doc_length: tokens of a document.
        query_cut: which end of a query that is too long is lost.
        query_prompt: put before each query.
        doc_prompt: put before each document.
    """

    name: str
    similarity: Literal["dot", "cosine"] | None = None
    query_length: int | None = None
    doc_length: int | None = None
    query_cut: Literal["left", "right"] | None = None
    query_prompt: str | None = None
    doc_prompt: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(f"use: name is {self.name!r}", fix="letters, digits and hyphens, e.g. as-published")


@dataclass(frozen=True)
class Evaluation:
    """One test collection.

    Args:
        dataset: folder or hub id.
        split: whose judgements.
        qrels: a qrels file instead of the split.
        questions: a file of questions with answers, for ``Accuracy@20``; null: the data set's ``answers/<split>``.
        measures: in ir-measures' names; the first is the headline.
        depth: documents retrieved per query.
        baselines: what the trained model is compared with.
        drop_self: leave the document out that bears the query's own id, and search one deeper: for ArguAna, Quora.
        fuse: one more system: the model's run fused with BM25's, in the order BM25, model where there are weights.
        rerank: measure the model by re-ranking a first stage; null: by retrieval from the whole corpus, which a
            cross-encoder cannot do.
        use: the model otherwise than it was trained; null: as it was.
    """

    dataset: str
    split: str = "test"
    qrels: str | None = None
    questions: str | None = None
    measures: tuple[str, ...] = MEASURES
    depth: int = 1000
    baselines: tuple[Literal["bm25", "start"], ...] = ("bm25", "start")
    drop_self: bool = False
    fuse: Fuse | None = None
    rerank: Reranking | None = None
    use: Use | None = None

    def __post_init__(self) -> None:
        if self.fuse is not None and "bm25" not in self.baselines:
            raise RecipeError("fuse needs BM25's run", fix="name bm25 among the baselines")
        if self.fuse is not None and len(self.fuse.weights or (1, 1)) != 2:
            raise RecipeError(
                f"fuse: {len(self.fuse.weights or ())} weights for two runs", fix="weights: [BM25's, the model's]"
            )
        if not self.measures:
            raise RecipeError("measures: name at least one", fix="e.g. measures: [nDCG@10]")
        if self.depth < 1:
            raise RecipeError(f"depth must be at least 1, got {self.depth}")
        if self.rerank is not None and self.rerank.first != "pool" and self.rerank.depth > self.depth:
            what = f"{self.rerank.depth} documents are to be re-ranked of the {self.depth} that are retrieved"
            raise RecipeError(what, fix=f"depth: {self.rerank.depth} or more")
        if not any(measure.of_answers for measure in parse(self.measures)) and self.questions is not None:
            raise RecipeError(
                "questions are given, and no measure looks for their answers", fix="measures: [Accuracy@20, nDCG@10]"
            )


@dataclass(frozen=True)
class Recipe:
    """From judgements to a model, a number and a report.

    Args:
        model: the ranker to start from.
        stages: parts of training.
        evaluate: test collections.
        order: ``sequence``: one stage after the other, each from the model of the one before, with an optimizer of its
            own. ``cycle``: `repeats` steps of each in turn, again and again, under one optimizer. The first stage's
            `train` and `validate` are everyone's then, but `accumulate` is each stage's own; `steps` are those of all
            stages together, `epochs` are the first stage's.
        name: of the run; its folder is ``output/name``. Null: the recipe file's name.
        output: where run folders are made.
        seed: of everything random.
        device: ``auto`` takes a CUDA device when there is one.
        precision: of encoding documents; training has its own. ``auto``: bf16 where the device multiplies it natively
            (new GPUs, and CPUs with AVX512-BF16 or AMX), float32 elsewhere.
        share_vectors: keep the documents' vectors in the cache, by the content of model and corpus, so that another
            recipe finds them; else in the run folder.
    """

    model: Annotated[Model, Slot("rankwright.models")]
    stages: tuple[Stage, ...] = ()
    evaluate: tuple[Evaluation, ...] = ()
    order: Literal["sequence", "cycle"] = "sequence"
    name: str | None = None
    output: str = "runs"
    seed: int = 0
    device: str = "auto"
    precision: Precision = "float32"
    share_vectors: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.model, Cross):
            _check_cross(self)
        _check_order(self)


def _check_strata(group: Group, objective: Sequence[Term]) -> None:
    """Lists without a document of the upper stratum, or alone without one of the lower, teach nothing.

    Raises:
        RecipeError: with the place in the stage.
    """
    if not isinstance(group, PerGrade) or isinstance(group.counts, int):
        return
    listed = {float(grade) for grade, count in group.counts.items() if count}
    for at, term in enumerate(objective):
        for name, grades in (("upper", (term.strata.high,)), ("lower", term.strata.low)) if term.strata else ():
            if listed.isdisjoint(grades) and (name == "upper" or term.against == "own"):
                what = f"objective.{at}.strata: the group puts no document of the {name} stratum into the lists"
                raise RecipeError(what, fix=f"name its grade: counts: {{{grades[0]:g}: 1}}")


def _check_order(plan: Recipe) -> None:
    """What only makes sense in a cycle, and what cannot differ between its stages.

    Raises:
        RecipeError: with the place in the recipe.
    """
    first = plan.stages[0] if plan.stages else None
    names = [stage.name for stage in plan.stages if stage.name is not None]
    if plan.order == "cycle" and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"stages: two are called {twice!r}, the log could not tell them apart", fix="rename one")
    for number, stage in enumerate(plan.stages):
        place = f"stages.{number}"
        if plan.order == "sequence" and stage.repeats != 1:
            raise RecipeError(f"{place}.repeats: stages follow one another once", fix="order: cycle")
        if plan.order == "cycle" and first is not None and number:
            same = replace(first.train, accumulate=stage.train.accumulate)
            if stage.train not in (same, Train(accumulate=stage.train.accumulate)):
                what = f"{place}.train: a cycle has one optimizer, whose settings are those of the first stage"
                raise RecipeError(what, fix="leave out all but accumulate")
            if stage.validate is not None:
                raise RecipeError(f"{place}.validate: a cycle is validated as its first stage says", fix="leave it out")


def _check_cross(plan: Recipe) -> None:
    """A cross-encoder scores pairs: whatever needs vectors, or pairs that are in no list, is refused.

    Raises:
        RecipeError: with the place in the recipe.
    """
    for number, stage in enumerate(plan.stages):
        place = f"stages.{number}"
        for at, term in enumerate(stage.objective):
            if term.regulariser is not None or term.dims:
                what = f"{place}.objective.{at}: a cross-encoder has no vectors for regularisers and dims"
                raise RecipeError(what, fix="leave them out")
            if term.against != "own":
                what = f"{place}.objective.{at}: against: {term.against} needs scores of other queries' documents"
                raise RecipeError(f"{what}; a cross-encoder reads pairs of the query's own list", fix="against: own")
        if stage.drawn is not None:
            raise RecipeError(f"{place}.drawn: a cross-encoder reads its own lists alone", fix="leave it out")
        if stage.mine is not None and stage.mine.by == "model":
            what = f"{place}.mine: a cross-encoder cannot search the corpus for negatives"
            raise RecipeError(what, fix="by: bm25, or the path of a TREC run")
        if stage.validate is not None and stage.validate.candidates is None:
            what = f"{place}.validate: a cross-encoder is validated by re-ranking"
            raise RecipeError(what, fix="candidates: bm25, or the path of a TREC run")
    for number, evaluation in enumerate(plan.evaluate):
        if evaluation.rerank is None:
            what = f"evaluate.{number}: a cross-encoder is measured by re-ranking a first stage"
            raise RecipeError(what, fix="rerank: {first: bm25, depth: 100}")
