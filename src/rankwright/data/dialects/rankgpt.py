"""RankGPT's distillation data: queries with retrieved passages, and beside them the order that a model gave each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...errors import DataError
from .._json import JsonParser, read_json_strings
from .._lines import kind_of, read_lines
from ..permutations import read_permutation
from ..policy import Reading, shown
from ._items import JUDGED_ABOVE, Dialect, Judgement, Ranked, Record, Stream, data_files
from ._records import first_record

DROPPED = "answer that is no permutation: query left out"
REPAIRED = "answer that is no permutation: repaired"


class RankGPT(Dialect):
    """``query_id, query, positive_passages[], retrieved_passages[{docid, rank, text}]`` and a list of permutations.

    Entry i of the list belongs to record i: ``"[5] > [18] > [1]"`` names retrieved passages by rank. A query whose
    answer is not exactly a permutation of its passages is left out, as in multi-stage fine-tuning (Pezzuti et al.
    2025, arXiv:2503.22672), or repaired, as in RankGPT itself (Sun et al., EMNLP 2023); either is counted.

    Args:
        permutations: the list; None: the JSON file beside the queries whose name begins as theirs does.
        repair: the first mention counts, and what is not named follows in the order in which it was retrieved.
    """

    name = "rankgpt"
    layout = "records with query_id, query and retrieved_passages, and a JSON list of permutations beside them"

    def __init__(self, permutations: Path | None = None, *, repair: bool = False) -> None:
        self.permutations, self.repair = permutations, repair

    def sniff(self, path: Path) -> bool:
        return path.exists() and any(map(_holds_queries, data_files(path)))

    def read(self, path: Path, reading: Reading) -> Stream:
        found = [file for file in data_files(path) if not path.is_dir() or _holds_queries(file)]
        if len(found) != 1:
            what = f"{len(found)} files hold records with retrieved_passages, one is read at a time"
            raise DataError(what, where=path, fix="name the file")
        file = found[0]
        answers = self.permutations or _beside(file)
        pairs = zip_longest(_records(file, reading), read_json_strings(answers, reading))
        for queries, (record, answer) in enumerate(pairs):
            if record is None or answer is None:
                here, there = ("queries", "permutations") if answer is None else ("permutations", "queries")
                what = f"there are more {here} than {there}, of which there are {queries:,}; one belongs to one"
                fix = "check that the two files belong together"
                raise DataError(what, where=file if answer is None else answers, fix=fix)
            (where, fields), (line, text) = record, answer
            if fields is not None:
                yield from self._query(Record(fields, where, reading), f"{answers}:{line}", text)

    def _query(self, record: Record, place: str, answer: str | None) -> Stream:
        passages = _by_rank([p for p in record.list("retrieved_passages") if _is_object(p, record)])
        found = read_permutation(answer or "", len(passages))
        if not passages or not (found.strict or (self.repair and found.named)):
            return record.reading.note(DROPPED, f"{place}: {shown(answer)}")
        if not found.strict:
            record.reading.note(REPAIRED, f"{place}: {shown(answer)}")
        query = record.query(record.get("query_id"), record.get("query"))
        if query is None:
            return None
        yield record.where, query
        seen: set[str] = set()
        for rank, row in enumerate(found.order, start=1):
            inner = Record(passages[row], record.where, record.reading)
            doc = inner.document(inner.get("docid"), inner.get("title"), inner.get("text", "contents", "content"))
            if doc is not None and doc.id in seen:
                what = f"passage {shown(doc.id)} was retrieved twice for query {shown(query.id)}"
                record.reading.problem("duplicate document", what, where=record.where, fix="keep one of the passages")
            elif doc is not None:
                seen.add(doc.id)
                yield record.where, doc
                yield record.where, Ranked(query.id, doc.id, 1.0 / rank)
        for passage in record.list("positive_passages"):
            if _is_object(passage, record):
                inner = Record(passage, record.where, record.reading)
                doc = inner.document(inner.get("docid"), inner.get("title"), inner.get("text", "contents", "content"))
                if doc is not None:
                    yield record.where, doc
                    yield record.where, Judgement(query.id, doc.id, JUDGED_ABOVE)
        return None


def _is_object(passage: Any, record: Record) -> bool:
    if not isinstance(passage, dict):
        record.wrong("a passage", "an object", passage)
    return isinstance(passage, dict)


def _by_rank(passages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of their ranks where these are 1 to n, else as they stand."""
    ranks = [passage.get("rank") for passage in passages]
    if all(type(rank) is int for rank in ranks) and set(ranks) == set(range(1, len(ranks) + 1)):
        return sorted(passages, key=lambda passage: passage["rank"])
    return passages


def _records(file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(file:line, record) of every line that is not blank; None where lenient reading skips it: places count."""
    parser = JsonParser(reading)
    for number, line in read_lines(file, reading):
        yield f"{file}:{number}", parser.parse(line, f"{file}:{number}")


def _holds_queries(file: Path) -> bool:
    return kind_of(file) in (".jsonl", ".ndjson") and "retrieved_passages" in first_record(file)


def _beside(file: Path) -> Path:
    """The one JSON file beside the queries whose name begins as theirs does."""
    stem = file.name.split(".jsonl")[0].split(".ndjson")[0]
    there: list[Path] = []
    with suppress(OSError):
        there = [p for p in sorted(file.parent.iterdir()) if kind_of(p) == ".json" and p.name.startswith(stem)]
    if len(there) == 1:
        return there[0]
    what = "no list of permutations lies beside it" if not there else f"{len(there)} lists lie beside it"
    example = there[0] if there else f"{stem}-gpt3.5.json"
    raise DataError(what, where=file, fix=f"name the list: --permutations {example}")
