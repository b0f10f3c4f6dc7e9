"""What runs are measured by: judgements, answers with the passages that may hold them, or both side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, UsageError
from ..types import Qrels, Run
from .answers import Answers, Passages, first_ranks
from .measures import Measure, parse
from .metrics import Scores, evaluate


@dataclass(frozen=True)
class Evidence:
    """Judgements, answers, or both; `measure` takes every measure from what it needs.

    Where judgements and answers are asked for together, the questions that have both are measured, so that all means
    are over the same questions.

    Attributes:
        qrels: None: there are none, and answers alone are evidence.
        answers: query id -> its answers.
        passages: where answers are looked for.
    """

    qrels: Qrels | None = None
    answers: Answers | None = None
    passages: Passages | None = None

    def of(self, measures: Sequence[str | Measure]) -> Evidence:
        """What these measures ask for, of the questions that have all of it.

        Raises:
            UsageError: a measure asks for what there is not.
            DataError: no question has both.
        """
        by_answers = {measure.of_answers for measure in parse(measures)}
        if False in by_answers and self.qrels is None:
            name = next(measure for measure in parse(measures) if not measure.of_answers)
            raise UsageError(f"{name} needs judgements, and there are answers alone", fix="give qrels, or Accuracy@20")
        if True in by_answers and (self.answers is None or self.passages is None):
            name = next(measure for measure in parse(measures) if measure.of_answers)
            fix = f"give them; by judgements alone the like of it is Success@{name.cutoff}"
            raise UsageError(f"{name} needs answers and the passages to look for them in", fix=fix)
        if by_answers != {True, False}:
            return replace(self, qrels=None) if True in by_answers else Evidence(self.qrels)
        assert self.qrels is not None
        assert self.answers is not None
        rows = [
            (query, doc, grade)
            for query, docs, grades in self.qrels
            if query in self.answers
            for doc, grade in zip(docs, grades.tolist())
        ]
        if not rows:
            raise DataError(
                "no question has both judgements and answers", fix="check that both are of the same questions"
            )
        qrels = Qrels.from_rows(*zip(*rows))
        return replace(self, qrels=qrels, answers={query: self.answers[query] for query in qrels.queries})

    @property
    def queries(self) -> tuple[str, ...]:
        """The questions that are measured: those of the judgements, else those with answers."""
        return tuple(self.qrels.queries if self.qrels is not None else self.answers or ())

    def measure(self, run: Run, measures: Sequence[str | Measure]) -> Scores:
        """A run's scores, columns in the order of `measures`; a question that the run lacks counts as zero.

        Raises:
            UsageError: as `of`.
            DataError: as `of` and `evaluate`; a passage that the run names is missing.
        """
        asked, found = parse(measures), self.of(measures)
        judged = [measure for measure in asked if not measure.of_answers]
        answered = [measure for measure in asked if measure.of_answers]
        scores = evaluate(run, found.qrels, judged) if found.qrels is not None else found._unmeasured(run)
        columns = {str(measure): scores.column(measure) for measure in judged}
        for match in dict.fromkeys(measure.match for measure in answered):
            columns |= found._accuracies(run, scores.queries, [m for m in answered if m.match == match])
        values = np.stack([columns[str(measure)] for measure in asked], axis=1)
        values.setflags(write=False)
        return replace(scores, measures=tuple(map(str, asked)), values=values)

    def _unmeasured(self, run: Run) -> Scores:
        """The questions of the answers, without a measure as yet."""
        assert self.answers is not None
        answers, there = self.answers, {query for query, n in zip(run.queries, np.diff(run.offsets)) if n}
        missing = tuple(query for query in answers if query not in there)
        if not answers:
            raise DataError("there are no answers to measure with")
        if there and len(missing) == len(answers):
            raise DataError(
                f"the run has none of the {len(answers)} questions with answers: it has questions like "
                f"{next(iter(there))!r}, the answers are of questions like {missing[0]!r}",
                fix="take the run and the answers of the same questions",
            )
        extra = tuple(query for query in run.queries if query not in answers)
        return Scores((), tuple(answers), np.empty((len(answers), 0)), missing, extra)

    def _accuracies(self, run: Run, queries: Sequence[str], measures: Sequence[Measure]) -> dict[str, np.ndarray]:
        """Measures of one kind of match: whether an answer stands in the first k passages."""
        assert self.answers is not None
        assert self.passages is not None
        depth = max(measure.cutoff or 1 for measure in measures)
        first = first_ranks(run, self.answers, self.passages, depth=depth, match=measures[0].match)
        ranks = np.array([first.get(query, depth + 1) for query in queries])
        return {str(measure): (ranks <= (measure.cutoff or 1)).astype(np.float64) for measure in measures}
