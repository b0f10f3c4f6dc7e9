"""The Python API in two functions: `run` a recipe, or `train` one model; both resume and reuse what is unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import Group, OneRelevant, Reading, Shuffled, Source
from .ledger import StepRecord
from .loading import load_recipe
from .losses import InfoNCE, Loss
from .models import Cross
from .plan import Mining, Recipe, Stage, Term, Train, Validation
from .search import Mine
from .training import distributed

if TYPE_CHECKING:
    from .evaluation import Scores
    from .models import Dense, Late

__all__ = ["Result", "load_recipe", "run", "train"]


@dataclass(frozen=True)
class Result:
    """What a recipe came to.

    Attributes:
        folder: the run folder.
        model: the trained model's folder; None when the recipe has no stages.
        report: the report's HTML file.
        scores: test collection -> system -> scores per query; empty in all of several processes but the first.
        steps: what was done, how long it took, what was reused.
    """

    folder: Path
    model: Path | None
    report: Path
    scores: dict[str, dict[str, Scores]]
    steps: tuple[StepRecord, ...]

    def means(self) -> dict[str, dict[str, dict[str, float]]]:
        """Test collection -> system -> measure -> mean."""
        return {
            place: {name: scores.mean() for name, scores in systems.items()} for place, systems in self.scores.items()
        }


def run(
    recipe: Recipe | str | Path,
    *,
    folder: str | Path | None = None,
    overrides: Sequence[str] = (),
    lenient: bool = False,
    allow_drift: bool = False,
) -> Result:
    """Carry out a recipe: baselines, negatives, training, evaluation, report.

    Args:
        recipe: a `Recipe`, a YAML file, or the name of a recipe that comes with the package.
        folder: the run folder; None: the recipe's ``output/name``.
        overrides: e.g. ``["stages.0.train.learning_rate=3e-6"]``; for YAML only.
        lenient: repair or skip what a strict reader refuses in data files, and count it.
        allow_drift: resume training although data, recipe, threads or torch changed.
    """
    from .pipeline import Pipeline
    from .reporting import conclude

    plan = load_recipe(recipe, overrides)
    pipeline = Pipeline(
        plan, folder=Path(folder) if folder else None, reading=Reading(lenient=lenient), allow_drift=allow_drift
    )
    outcome = pipeline.run()
    if distributed.rank():
        return Result(outcome.folder, outcome.model, outcome.folder / "report.html", {}, outcome.steps)
    with distributed.alone():
        report, scores = conclude(outcome)
    return Result(outcome.folder, outcome.model, report, scores, outcome.steps)


def train(
    model: Dense | Late | Cross,
    data: Source | Sequence[Source],
    *,
    loss: Loss | None = None,
    group: Group | None = None,
    batches: Any = None,
    settings: Train | None = None,
    mine: Mine | None = None,
    validate: Validation | None = None,
    output: str | Path = "runs/trained",
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Train one model and return its folder, which sentence-transformers and transformers open too.

    Args:
        model: what to start from.
        data: sources of judgements; the later wins.
        loss: None: `InfoNCE()` over the whole batch; of a cross-encoder over the query's own list.
        group: which documents of a query enter its list. None: one relevant, and one mined negative if `mine`.
        batches: which queries travel together. None: `Shuffled()`.
        mine: find hard negatives with `model` first; None: the other queries' documents are the only negatives.
        output: the run folder; the same call goes on there after any interruption.
    """
    from .pipeline import Pipeline

    stage = Stage(
        data=(data,) if isinstance(data, Source) else tuple(data),
        group=group or OneRelevant(negatives=1 if mine else 0),
        batches=batches or Shuffled(),
        objective=(Term(loss or InfoNCE(), "own" if isinstance(model, Cross) else "batch"),),
        train=settings or Train(),
        mine=Mining(keep=mine) if mine else None,
        validate=validate,
    )
    plan = Recipe(model=model, stages=(stage,), seed=seed, device=device)
    return Pipeline(plan, folder=Path(output)).train()
