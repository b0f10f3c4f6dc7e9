"""The verb that asks a language model for an order: rank."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import assemble
from ..console import out, out_json
from ..data import Dataset, Reading, read_run, write_run
from ..data.dataset import rows_where
from ..errors import UsageError
from ..outputs import command, new_file

if TYPE_CHECKING:
    from ..llm import Journal, Outcome


def rank(given: Namespace) -> None:
    from ..llm import Budget, Client, Endpoint, Journal, ListWise, rank_run

    path, limits = new_file(given.out), (given.budget_requests, given.budget_tokens)
    endpoint = Endpoint(
        given.endpoint, given.llm, key_env=given.key_env, parameters=_parameters(given.parameters),
        timeout=given.timeout, attempts=given.attempts, insecure=given.insecure_http,
    )  # fmt: skip
    spec = ListWise(given.window, given.step, given.depth, given.characters, given.unanswered)
    Client(endpoint, budget=Budget(*limits))  # all that may be wrong is said before the work
    dataset = assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))
    run = dataset.checked(read_run(Path(given.run), dataset.reading), Path(given.run), reading=dataset.reading)
    run = rows_where(run, (dataset.corpus.rows(run.docs) >= 0)[run.columns])
    with Journal.open(given.journal or f"{given.out}.journal.jsonl") as journal:
        budget = Budget(*limits, used_requests=len(journal), used_tokens=journal.tokens)
        client, texts = Client(endpoint, budget=budget, trusted=len(journal) > 0), _Texts(dataset)
        done = rank_run(
            run, client=client, journal=journal, query_text=texts.query, doc_text=texts.doc, spec=spec,
            workers=given.workers,
        )  # fmt: skip
    write_run(path, done.run, tag="llm")
    if given.json:
        facts = {"run": given.out, "journal": str(journal.path), "queries": len(done.run.queries)}
        return out_json(facts | {"documents": len(done.run), "counts": dict(done.counts)})
    return _said(given, done, journal)


class _Texts:
    """The texts of ids, as a language model reads them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def query(self, query: str) -> str:
        row = self._dataset.queries.row(query)
        assert row is not None, "a query without a text"
        return self._dataset.queries[row].text

    def doc(self, doc: str) -> str:
        row = self._dataset.corpus.row(doc)
        assert row is not None, "a document without a text"
        document = self._dataset.corpus[row]
        return f"{document.title} {document.text}".strip()


def _said(given: Namespace, done: Outcome, journal: Journal) -> None:
    c = done.counts
    out(f"answers: {c['complete']:,} complete, {c['repaired']:,} repaired, {c['unanswered']:,} unanswered")
    if c["repaired"]:
        out(f"         {c['repeated']:,} numbers twice, {c['foreign']:,} foreign, {c['missing']:,} missing")
    if c["cut off"]:
        out(f"         {c['cut off']:,} were cut off: give a larger max_tokens by --parameters")
    for example in done.examples:
        out(f"         unanswered, e.g. {example}")
    if affected := c["queries with an unanswered window"]:
        what = "left out" if given.unanswered == "drop" else "in part as they were"
        out(f"         {affected:,} queries with an unanswered window are {what}")
    asked = f"{c['asked']:,} questions, {c['tokens']:,} tokens; {c['tried again']:,} requests failed"
    out(f"asked:   {asked}, {c['known']:,} answers were there already")
    out(f"journal: {journal.path}  ({len(journal):,} answers, {journal.tokens:,} tokens)")
    out(f"run:     {given.out}  ({len(done.run.queries):,} queries, {len(done.run):,} documents)")
    out(f"next:    in a recipe: data: [{{Ranking: {{dataset: {given.data}, run: {given.out}, target: rank}}}}]")
    out(f"         or {command('compare', given.run, given.out, '--qrels', 'QRELS')}")


def _parameters(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or {"messages", "model", "stream", "n"} & set(value):
        what = f"--parameters is {text[:80]!r}"
        raise UsageError(what, fix="""give a JSON object without messages, model, n and stream, e.g. '{"top_p": 1}'""")
    return value
