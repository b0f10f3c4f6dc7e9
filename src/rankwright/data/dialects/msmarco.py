"""MS MARCO's files: collection.tsv, queries.tsv, qrels and triples by id."""

from __future__ import annotations

from pathlib import Path

from .._lines import kind_of, read_lines
from ..formats import read_qrels
from ..policy import Reading, shown
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Judgement, Stream, checked_id, data_files, split_of
from ._records import first_line


class MSMarco(Dialect):
    """A folder with ``collection.tsv``, ``queries*.tsv`` and ``qrels*.tsv`` or ``*triples*.tsv``; or such a file.

    Triples are query, relevant document, other document, all by id: grades 1 and 0.
    """

    name = "msmarco"
    layout = "collection.tsv, queries*.tsv and qrels*.tsv or *triples*.tsv (by id)"
    separate = frozenset({"corpus", "queries"})

    def sniff(self, path: Path) -> bool:
        files = _rows(path)
        return bool(files) and (path.is_dir() or _columns(files[0]) in (3, 4))

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in _rows(path) or data_files(path):
            if "triples" in file.name:
                yield from _triples(file, reading)
                continue
            split = split_of(file, path)
            for query, docs, grades in read_qrels(file, reading):
                for doc, grade in zip(docs, grades.tolist()):
                    yield str(file), Judgement(query, doc, grade, split)


def _rows(path: Path) -> list[Path]:
    files = [file for file in data_files(path) if kind_of(file) in (".tsv", ".txt")]
    return [file for file in files if "qrel" in file.name or ("triples" in file.name and _columns(file) == 3)]


def _columns(path: Path) -> int:
    """How many ids stand in the first line; 0 where there are texts."""
    fields = first_line(path).split("\t")
    fields = fields[0].split() if len(fields) == 1 else fields
    return 0 if any(" " in field.strip() for field in fields) else len(fields)


def _triples(file: Path, reading: Reading) -> Stream:
    for number, line in read_lines(file, reading):
        where, fields = f"{file}:{number}", line.split()
        if len(fields) != 3:
            what = f"{len(fields)} columns, expected 3 (query, relevant document, other document): {shown(line)}"
            reading.problem("wrong number of columns", what, where=where, fix="check that these are triples by id")
            continue
        query, above, below = (checked_id(field, "id", where, reading) for field in fields)
        if query is not None and above is not None and below is not None:
            yield where, Judgement(query, above, JUDGED_ABOVE)
            yield where, Judgement(query, below, JUDGED_BELOW)
