"""A stage's hard negatives: mined by model, BM25 or a given run, written beside the stage with what was dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import assemble, storage
from .data import Dataset, Reading, read_run, write_qrels
from .errors import RecipeError
from .ledger import Ledger, fingerprint
from .loading import choices
from .plan import Mining
from .progress import say
from .search import Exact, LateIndex, LexicalIndex, mine
from .types import Qrels, Run

if TYPE_CHECKING:
    from .models import Ranker

NO_NEGATIVES = "widen ranks, lower the margins, or search deeper (depth)"


def require_relevant(known: Qrels) -> None:
    """Before any work: negatives are mined for queries that have a relevant document.

    Raises:
        RecipeError: no query has one.
    """
    if not (known.grades > 0).any():
        what = "no document of the stage's first data set is known to be relevant"
        fix = "name a Judged source, or state relevant_from of a Scored one"
        raise RecipeError(what, where="mine", fix=fix)


@dataclass(frozen=True)
class Miner:
    """What the negatives of a stage come from.

    Attributes:
        known: judgements that negatives must not contradict.
        index: of the data set's vectors, for mining by model.
        lexical: makes the BM25 index, for mining by BM25.
    """

    spec: Mining
    dataset: Dataset
    known: Qrels
    ranker: Ranker
    index: Exact | LateIndex | None
    lexical: Callable[[], LexicalIndex]
    reading: Reading
    device: str

    def into(self, path: Path, ledger: Ledger) -> str:
        """Write the negatives unless they are there already; what was found and dropped, in words."""
        note = path.with_suffix(".txt")

        def work() -> None:
            run, positives = self._candidates()
            found, report = mine(run, self.known, self.spec.keep, positives=positives)
            if not len(found):
                what = f"mining by {self.spec.by} found no negatives: {report}"
                raise RecipeError(what, where="mine", fix=NO_NEGATIVES)
            write_qrels(path, found)
            storage.write_text(note, str(report))
            say(str(report))

        by = Path(self.spec.by).name if self._given else self.spec.by
        name = f"mine negatives for {path.parent.name} by {by}"
        ledger.do(name, self._inputs(), outputs=[path, note], work=work)
        return note.read_text(encoding="utf-8")

    @property
    def _given(self) -> bool:
        return self.spec.by not in ("model", "bm25")

    def _inputs(self) -> dict[str, object]:
        inputs: dict[str, object] = {
            "known": fingerprint(self.known.to_dict()), "spec": choices(self.spec),
            "corpus": self.dataset.corpus.fingerprint, "queries": self.dataset.queries.fingerprint,
        }  # fmt: skip
        if self.spec.by == "model":
            inputs["model"] = fingerprint([self.ranker.fingerprint("query"), self.ranker.fingerprint("doc")])
        elif self._given:
            inputs["run"] = fingerprint(read_run(Path(self.spec.by), self.reading).to_dict())
        return inputs

    def _candidates(self) -> tuple[Run, Run | None]:
        """The ranking that negatives come from, and the scores of the relevant documents where margins need them."""
        if self._given:
            return read_run(Path(self.spec.by), self.reading), None
        ids, depth, margins = self.known.queries, self.spec.depth, self.spec.keep.needs_positive_scores
        if self.index is not None:
            queries = assemble.encode_queries(self.ranker, self.dataset, ids, device=self.device)
            run = self.index.search(queries, ids, k=depth)
            return run, self.index.score(queries, ids, pairs=self.known) if margins else None
        lexical, corpus = self.lexical(), self.dataset.queries
        texts = [corpus[int(row)].text for row in assemble.rows_of(corpus, ids, "query")]
        return lexical.search(texts, ids, k=depth), lexical.score(texts, ids, pairs=self.known) if margins else None
