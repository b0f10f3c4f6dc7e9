"""What `evaluate` needs for answers: evidence from its options, default measures, and DPR's retrieval output."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Dataset, Question, Reading, read_qrels, read_questions, wanted_passages, write_retrieved
from ..errors import UsageError
from ..evaluation import Evidence, parse
from ..evaluation.answers import retrieved
from ..plan import MEASURES
from ..progress import say
from ..types import Run

ACCURACIES = tuple(f"Accuracy@{k}" for k in (1, 5, 20, 50, 100))


def require_evidence(given: Namespace) -> None:
    """Options that do not go together are refused before anything is read.

    Raises:
        UsageError: neither judgements nor answers, answers without passages, or the other way round.
    """
    answering = {"--data": given.data, "--passages": given.passages}
    if not given.qrels and not given.questions:
        raise UsageError("there is nothing to measure with", fix="--qrels FILE, or --questions FILE --data DATASET")
    if given.questions and not (given.data or given.passages):
        raise UsageError(
            "answers are looked for in passages, and there are none", fix="--data DATASET, or --passages FILE"
        )
    if odd := [name for name, value in answering.items() if value and not given.questions]:
        raise UsageError(f"{odd[0]} goes with answers, and none are given", fix="--questions FILE")


def require_one_retrieved(given: Namespace) -> None:
    """The same for DPR's retrieval output.

    Raises:
        UsageError: no answers, several runs, no passage a question, or a folder in its place.
    """
    if given.retrieved and not given.questions:
        raise UsageError("--retrieved goes with answers, and none are given", fix="--questions FILE")
    if given.retrieved and len(given.runs) > 1:
        raise UsageError(f"--retrieved holds one run, {len(given.runs)} are given", fix="give one run")
    if given.contexts < 1:
        raise UsageError(f"--contexts must be at least 1, got {given.contexts}")
    if given.retrieved and (not Path(given.retrieved).name or Path(given.retrieved).is_dir()):
        raise UsageError("is a folder, a JSON file is written here", where=given.retrieved, fix="e.g. found.json.gz")


def asked_measures(given: Namespace) -> Sequence[str]:
    """The measures that were named, or those that fit the evidence."""
    if given.measures:
        parse(given.measures)
        return given.measures
    return [*(MEASURES if given.qrels else ()), *(ACCURACIES if given.questions else ())]


def named_evidence(given: Namespace) -> list[str]:
    """The options that name the evidence, for the next command."""
    named = {"--qrels": given.qrels, "--questions": given.questions, "--data": given.data, "--passages": given.passages}
    return [word for name, value in named.items() if value for word in (name, value)]


def evidence_of(
    given: Namespace, runs: Mapping[str, Run], measures: Sequence[str], reading: Reading, *, depth: int = 1
) -> tuple[Evidence, Mapping[str, Question]]:
    """The evidence that the options name, and the questions by id where answers are part of it.

    Args:
        depth: passages a question that are read, if the measures do not ask for more.
    """
    qrels = read_qrels(Path(given.qrels), reading) if given.qrels else None
    if not given.questions:
        return Evidence(qrels), {}
    dataset = Dataset.open(given.data, reading=reading) if given.data else None
    questions = read_questions(given.questions, reading, queries=dataset.queries if dataset else None)
    if dataset is not None:
        corpus = dataset.corpus
    else:
        cutoffs = [measure.cutoff or 1 for measure in parse(measures) if measure.of_answers]
        deepest = max([*cutoffs, depth])
        wanted = {
            doc
            for run in runs.values()
            for query, docs, _ in run.ranked(deepest)
            if query in questions
            for doc in docs
        }  # fmt: skip
        corpus = wanted_passages(given.passages, wanted, reading)
    answers = {key: question.answers for key, question in questions.items()}
    evidence = Evidence(qrels, answers, corpus.documents)
    if qrels is not None and {measure.of_answers for measure in parse(measures)} == {True, False}:
        left = len({*qrels.queries, *answers}) - len(evidence.of(measures).queries)
        if left:
            say(f"{left:,} questions have judgements or answers, not both, and are left out")
    return evidence, questions


def write_contexts(
    given: Namespace, run: Run, evidence: Evidence, questions: Mapping[str, Question], measures: Sequence[str]
) -> None:
    """Write every question with its first passages in DPR's JSON."""
    match = next((measure.match for measure in parse(measures) if measure.of_answers), "string")

    def records() -> Iterator[dict[str, Any]]:
        assert evidence.answers is not None
        assert evidence.passages is not None
        for row in retrieved(run, evidence.answers, evidence.passages, depth=given.contexts, match=match):
            ctxs = [
                {"id": doc.id, "title": doc.title, "text": doc.text, "score": score, "has_answer": found}
                for doc, score, found in zip(row.docs, row.scores.tolist(), row.has_answer)
            ]
            question = questions[row.query]
            yield {
                "question": row.query if question.text is None else question.text,
                "answers": list(question.answers), "ctxs": ctxs,
            }  # fmt: skip

    write_retrieved(Path(given.retrieved), records())
