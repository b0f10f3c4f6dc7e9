"""Stages whose data are opened: everything their trained weights depend on, and their training, alone or in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import assemble, teaching
from .data import Mixture, Reading, Source, Supervision
from .errors import RecipeError
from .ledger import fingerprint
from .loading import choices
from .plan import Stage
from .progress import say
from .randomness import key
from .training import distributed
from .types import Side

if TYPE_CHECKING:
    from .models import Ranker
    from .training import Part, Validator


@dataclass(frozen=True)
class Opened:
    """A stage and its data.

    Attributes:
        number: from 1.
        sources: those of the recipe, behind them what was mined.
    """

    stage: Stage
    number: int
    mixture: Mixture
    sources: tuple[Source, ...]
    supervision: Supervision

    @property
    def name(self) -> str:
        return self.stage.name or f"stage-{self.number}"


def check_grades(stage: Stage, number: int, supervision: Supervision) -> None:
    """Grades that the group or the strata of a stage ask for, and that its data lack, are refused.

    Args:
        number: of the stage, from 1.

    Raises:
        RecipeError: with the place in the recipe.
    """

    def there(*grades: float) -> bool:
        return bool(supervision.having(grades).any())

    place, fix = f"stages.{number - 1}", "check the grades of the sources: min_grade, grade, relabel, mine.grade"
    if not there(*stage.group.grades):
        what = f"no query has documents of each of the grades {_listed(stage.group.grades)}"
        raise RecipeError(what, where=f"{place}.group", fix=fix)
    for at, term in enumerate(stage.objective):
        if term.strata is None:
            continue
        unlisted = () if term.against == "own" else (0.0,)  # a document of which nothing is known
        for name, grades in (("upper", (term.strata.high,)), ("lower", term.strata.low)):
            if not any((grade in unlisted and name == "lower") or there(grade) for grade in grades):
                what = f"no document of the data has the grade {_listed(grades)}"
                raise RecipeError(what, where=f"{place}.objective.{at}.strata.{name}", fix=fix)


def _listed(grades: Sequence[float]) -> str:
    return ", ".join(f"{grade:g}" for grade in grades)


def identity(
    opened: Sequence[Opened], ranker: Ranker, model: object, *, seed: int, reading: Reading, device: str
) -> dict[str, str]:
    """Everything the trained weights depend on, by name; the validation apart.

    Args:
        model: the recipe's, which says what of the ranker is trained.
    """
    import torch

    own = [_own(stage, reading=reading, device=device) for stage in opened]
    if len(own) == 1:
        facts = own[0]
    else:
        facts = {f"{stage.number} {name}": value for stage, part in zip(opened, own) for name, value in part.items()}
        facts |= {"order": fingerprint([[stage.name, stage.stage.repeats] for stage in opened])}
    return facts | {
        "model": fingerprint([ranker.fingerprint("query"), ranker.fingerprint("doc"), choices(model)]),
        "seed": str(seed),
        "device": torch.device(device).type,  # several processes have one each
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }


def _own(opened: Opened, *, reading: Reading, device: str) -> dict[str, str]:
    """What one stage adds."""
    stage, mixture = opened.stage, opened.mixture
    settings = replace(
        stage.train, track=(), workers=1, save_every=1, keep_checkpoints=1, parallel="ddp",
        precision=assemble.pick_precision(stage.train.precision, device),
    )  # fmt: skip
    chosen = [stage.group, stage.batches, stage.objective, settings, stage.validate]
    chosen += [stage.query_length, stage.doc_length, stage.drawn]
    named = assemble.named_files(stage.group, stage.travelling, cache=mixture.first.cache)
    taught = teaching.identity(stage.objective, reading=reading, device=device)
    return taught | ({"files": fingerprint(named)} if named else {}) | {
        "recipe": fingerprint(choices(chosen)),
        "texts": fingerprint([mixture.corpus.fingerprint, mixture.queries.fingerprint]),
        "judgements": opened.supervision.fingerprint,
    }  # fmt: skip


def fit(
    opened: Sequence[Opened],
    ranker: Ranker,
    *,
    folder: Path,
    identity: dict[str, str],
    seed: int,
    reading: Reading,
    device: str,
    validator: Validator | None,
    allow_drift: bool,
) -> None:
    """Train the ranker in place: one stage, or several in turn under the settings of the first."""
    from .training import train_cycle

    with ExitStack() as held:
        parts = [_part(stage, ranker, held, seed=seed, reading=reading, device=device) for stage in opened]
        train_cycle(
            ranker, parts, settings=opened[0].stage.train, folder=folder, identity=identity, device=device,
            validator=validator, allow_drift=allow_drift,
        )  # fmt: skip


def _part(opened: Opened, ranker: Ranker, held: ExitStack, *, seed: int, reading: Reading, device: str) -> Part:
    """A stage as the loop knows it; its teachers are open until `held` ends."""
    from .training import Objective, Part

    stage = opened.stage
    check_grades(stage, opened.number, opened.supervision)
    own = key(seed, "stage", f"stage-{opened.number}")
    limits: dict[Side, Any] = {"query": stage.query_length, "doc": stage.doc_length}
    loader = assemble.make_loader(
        ranker, opened.mixture, opened.supervision, group=stage.group, batches=stage.travelling, drawn=stage.drawn,
        seed=own, limits=limits, workers=stage.train.workers, rank=distributed.rank(), world=distributed.world(),
    )  # fmt: skip
    for remark in (f"{opened.name}: {loader.queries:,} queries, {ranker.training_note}", *loader.remarks):
        say(remark)
    taught = held.enter_context(
        teaching.teachers(stage.objective, opened.mixture, reading=reading, device=device)
    )  # fmt: skip
    objective = Objective(stage.objective, taught)
    return Part(opened.name, loader, objective, seed=own, repeats=stage.repeats, accumulate=stage.train.accumulate)
