"""The evidence of one test collection, as its recipe names it: judgements, answers in passages, or both."""

from __future__ import annotations

from .data import Dataset
from .errors import DataError
from .evaluation import Evidence, parse
from .plan import Evaluation
from .progress import say


def evidence(dataset: Dataset, spec: Evaluation) -> Evidence:
    """What its measures ask for; judgements are not read where they all look for answers.

    Raises:
        DataError: a file is missing or wrong, nothing is judged, or no question has both judgements and answers.
    """
    by_answers = {measure.of_answers for measure in parse(spec.measures)}
    qrels = None
    if False in by_answers:
        qrels = dataset.read_qrels(spec.qrels) if spec.qrels else dataset.qrels(spec.split)
        if not len(qrels.queries):
            raise DataError(
                f"no judged query in {spec.qrels or spec.split!r}: there is nothing to measure", where=dataset.folder,
                fix="add judgements, or take this collection out of the recipe's evaluate",
            )  # fmt: skip
    if True not in by_answers:
        return Evidence(qrels)
    answers = dataset.answers(spec.split, path=spec.questions)
    found = Evidence(qrels, answers, dataset.corpus.documents).of(spec.measures)
    if qrels is not None and (left := len({*qrels.queries, *answers}) - len(found.queries)):
        say(f"{dataset.name}: {left:,} questions have judgements or answers, not both, and are left out")
    return found
