"""Readers and writers of corpora, queries, qrels and runs in the field's formats; plain, .gz or .zst by suffix."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError, NonFiniteError, UsageError
from ..storage import write_file
from ..types import Document, Qrels, Run
from ._columns import QRELS_EXPECTED, RUN_EXPECTED, qrels_dialect, run_dialect
from ._fields import LARGEST_GRADE, is_clean_id
from ._json import JsonParser, read_jsonl
from ._lines import read_lines
from ._parting import UNDIVIDED, Parting
from ._tables import Table
from ._texts import CORPUS, QUERIES, read_texts
from .policy import Reading, shown

__all__ = [
    "JsonParser",
    "read_corpus",
    "read_jsonl",
    "read_lines",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_qrels",
    "write_run",
]

_BATCH = 1 << 14  # lines a write


def read_corpus(path: Path, reading: Reading | None = None) -> Iterator[Document]:
    """The documents of a corpus in file order, one at a time: BEIR JSON lines, TSV or Parquet.

    Memory does not grow with the corpus but for 16 to 32 bytes an id, which find duplicates.

    Raises:
        DataError: while iterating, a problem of policy.py.
    """
    for row in read_texts(Path(path), CORPUS, reading or Reading()):
        yield Document(*row)


def read_queries(path: Path, reading: Reading | None = None) -> Iterator[tuple[str, str]]:
    """(query id, text) in file order: BEIR JSON lines, TSV or Parquet.

    Raises:
        DataError: while iterating, a problem of policy.py.
    """
    for key, _, text in read_texts(Path(path), QUERIES, reading or Reading()):
        yield key, text


def read_qrels(path: Path, reading: Reading | None = None) -> Qrels:
    """Judgements: BEIR TSV, TREC (4 columns), JSON lines grouped by query, or Parquet.

    Raises:
        DataError: a problem of policy.py.
    """
    return next(qrels_parts(path, reading or Reading()))


def qrels_parts(path: Path, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
    """`read_qrels` for the queries of one part after the other."""
    table = Table(Path(path), reading, grades=True, parting=parting)
    table.read(qrels_dialect, QRELS_EXPECTED)
    yield from table.parts(Qrels)


def read_run(path: Path, reading: Reading | None = None) -> Run:
    """A ranking: TREC (6 columns; the score orders, the rank does not) or MS MARCO (3 or 4; score = -rank if absent).

    Raises:
        DataError: a problem of policy.py.
    """
    return next(run_parts(path, reading or Reading()))


def run_parts(path: Path, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Run]:
    """`read_run` for the queries of one part after the other."""
    table = Table(Path(path), reading, grades=False, parting=parting)
    table.read_text(run_dialect, RUN_EXPECTED)
    yield from table.parts(Run)


def write_run(path: Path, run: Run, *, tag: str = "rankwright", depth: int | None = None) -> None:
    """Write a TREC run, ordered as `Run.ranked`, cut at `depth`; scores read back to the same bits.

    Raises:
        UsageError: `tag` is empty or has white space in it.
        DataError: an id that a TREC file cannot hold, or a document twice for one query.
        NonFiniteError: a score that is NaN or infinite.
    """
    if not is_clean_id(tag):
        raise UsageError(f"{tag!r} cannot be the tag of a run", fix="use a word without white space")
    _check_rows(path, run)
    if len(bad := np.flatnonzero(~np.isfinite(run.values))):
        query, doc = _pair(run, int(bad[0]))
        what = f"the score of query {shown(query)} and document {shown(doc)} is {run.values[bad[0]]}"
        raise NonFiniteError(what, where=path, fix="find out which step made it: rankwright writes finite scores only")
    write_lines(Path(path), _run_lines(run.ranked(depth), tag))


def _run_lines(run: Run, tag: str) -> Iterator[str]:
    for query, docs, scores in run:
        for rank, (doc, score) in enumerate(zip(docs, scores.tolist()), start=1):
            yield f"{query} Q0 {doc} {rank} {score!r} {tag}\n"


def write_qrels(path: Path, qrels: Qrels, *, dialect: Literal["beir", "trec"] = "beir") -> None:
    """Write judgements in the order of the table: BEIR's TSV with its header, or TREC's four columns.

    Raises:
        UsageError: an unknown dialect.
        DataError: an id that these files cannot hold, a pair listed twice, a grade that is not whole.
    """
    if dialect not in ("beir", "trec"):
        raise UsageError(f"{dialect!r} is no dialect of qrels", fix="use 'beir' or 'trec'")
    _check_rows(path, qrels)
    whole = (np.trunc(qrels.values) == qrels.values) & (np.abs(qrels.values) <= LARGEST_GRADE)  # False for NaN and Inf
    if len(bad := np.flatnonzero(~whole)):
        query, doc = _pair(qrels, int(bad[0]))
        what = f"the grade of query {shown(query)} and document {shown(doc)} is {qrels.values[bad[0]]}"
        raise DataError(what, where=path, fix="use whole grades")
    write_lines(Path(path), _qrels_lines(qrels, dialect))


def _qrels_lines(qrels: Qrels, dialect: Literal["beir", "trec"]) -> Iterator[str]:
    if dialect == "beir":
        yield "query-id\tcorpus-id\tscore\n"
    for query, docs, grades in qrels:
        for doc, grade in zip(docs, grades.tolist()):
            yield f"{query}\t{doc}\t{int(grade)}\n" if dialect == "beir" else f"{query} 0 {doc} {int(grade)}\n"


def _pair(table: Run | Qrels, row: int) -> tuple[str, str]:
    query = int(np.searchsorted(table.offsets, row, side="right")) - 1
    return str(table.queries[query]), str(table.docs[int(table.columns[row])])


def _check_rows(path: Path, table: Run | Qrels) -> None:
    """What we write we can read: ids without white space, no pair twice."""
    for name in (*table.queries, *table.docs):
        if not is_clean_id(name):
            what = f"the id {shown(name)} cannot be written: it is empty or has white space, NUL or half characters"
            raise DataError(what, where=path, fix="rename it in the corpus, the queries and the qrels")
    pair = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets)) * len(table.docs) + table.columns
    order = np.argsort(pair, kind="stable")
    if len(again := np.flatnonzero(np.diff(pair[order]) == 0)):
        query, doc = _pair(table, int(order[again[0]]))
        what = f"document {shown(doc)} occurs twice for query {shown(query)}"
        raise DataError(what, where=path, fix="keep one of the rows")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines that end in a newline; a suffix .gz or .zst compresses, the same lines to the same bytes."""
    with write_file(path) as raw, ExitStack() as stack:
        file: Any = raw
        if path.suffix == ".gz":  # no name and no time inside: the same rows make the same bytes
            file = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
        elif path.suffix == ".zst":
            import zstandard

            compressor = zstandard.ZstdCompressor(write_checksum=True)
            file = stack.enter_context(compressor.stream_writer(file, closefd=False))
        batch: list[str] = []
        for line in lines:
            batch.append(line)
            if len(batch) == _BATCH:
                file.write("".join(batch).encode())
                batch.clear()
        file.write("".join(batch).encode())
