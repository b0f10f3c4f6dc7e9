"""Dialects of training data: what other libraries train from, read as one stream and written as any of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ... import storage
from ...errors import DataError, UsageError
from ..policy import Reading
from ..scores import read_scores
from ._collecting import write_beir
from ._holdout import HoldOut
from ._items import (
    SCORES,
    Dialect,
    Judgement,
    Query,
    Ranked,
    Score,
    Stream,
    content_id,
    data_files,
    read_text_file,
    text_files,
)
from ._turns import Turns
from ._writing import WRITERS, Collection, write_beir_folder
from .chatrag import ChatRAG, Histories
from .colbert import ColBERT
from .dpr import DPR
from .flagembedding import FlagEmbedding
from .irds import PREFIX, IrDatasets
from .matchmaker import Matchmaker, MatchmakerTexts
from .msmarco import MSMarco
from .questions import Questions
from .rankgpt import RankGPT
from .sentence_transformers import SentenceTransformers
from .tevatron import Tevatron, TevatronIds
from .trec_run import TrecRun
from .trove import SyDir, Trove

__all__ = [
    "BEIR",
    "DIALECTS",
    "WRITERS",
    "Collection",
    "Converted",
    "Dialect",
    "HoldOut",
    "Judgement",
    "Query",
    "Ranked",
    "Score",
    "Stream",
    "Turns",
    "content_id",
    "convert",
    "detect",
    "read",
]  # fmt: skip

_READERS: tuple[Dialect, ...] = (
    Trove(), SyDir(), Tevatron(), TevatronIds(), DPR(), FlagEmbedding(), SentenceTransformers(), MSMarco(), ColBERT(),
    Matchmaker(), MatchmakerTexts(), RankGPT(), ChatRAG(), Histories(), TrecRun(), Questions(), IrDatasets(),
)  # fmt: skip
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _READERS}
BEIR = "beir"  # folders that `Dataset` opens as they are


class Converted(NamedTuple):
    """What `convert` did: from which dialect, and how much of what."""

    dialect: str
    folder: Path
    counts: dict[str, int]


def detect(source: str | Path) -> str:
    """The name of the dialect that a file, a folder or an id is in, by its layout and its first record.

    Raises:
        DataError: there is nothing of this name, or it looks like none of them or like several.
    """
    path = Path(source)
    if str(source).startswith(PREFIX):
        return IrDatasets.name
    if str(source).startswith("bundled:") or _is_beir(path):
        return BEIR
    if not path.exists():
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(str(path), siblings, 1)
        fix = f"did you mean '{close[0]}'?" if close else f"give a file, a folder, or {PREFIX}<id>"
        raise DataError("there is no such file or folder", where=path, fix=fix)
    fitting = [dialect.name for dialect in _READERS if dialect.sniff(path)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what = f"looks like {' and like '.join(fitting)}"
        raise DataError(what, where=path, fix=f"say which: --from {fitting[0]}")
    known = "; ".join(f"{dialect.name}: {dialect.layout}" for dialect in _READERS)
    raise DataError("looks like no dialect of training data", where=path, fix=f"name one by --from; known are {known}")


def _is_beir(path: Path) -> bool:
    rows = (path / "qrels").is_dir() or ((path / SCORES).is_file() and not data_files(path))
    return rows and all(text_files(path, role) for role in ("corpus", "queries"))


def read(
    source: str | Path,
    dialect: str | Dialect,
    reading: Reading | None = None,
    *,
    corpus: str | Path | None = None,
    queries: str | Path | None = None,
) -> Stream:
    """Everything in `source` as a stream of (file:line, document, query, judgement or score).

    Args:
        dialect: a key of `DIALECTS`, or one with arguments of its own.
        corpus: a file of documents by id (BEIR JSON lines, TSV or Parquet), for dialects that name ids only.
        queries: a file of queries, likewise. What is not given is looked for beside the source.

    Raises:
        DataError: texts are missing; while iterating, a problem of policy.py.
    """
    path, reading = Path(source), reading or Reading()
    reader = dialect if isinstance(dialect, Dialect) else DIALECTS[dialect]
    for role, given in (("corpus", corpus), ("queries", queries)):
        beside = (
            path.is_dir() and not reader.own_texts
        ) or role in reader.separate  # what lies in a folder belongs to it
        files = [Path(given)] if given else text_files(path, role) if beside else []
        if role in reader.separate and not files:
            texts = "documents" if role == "corpus" else role
            what = f"{reader.name} names the {texts} by id, and no {role} file is there"
            raise DataError(what, where=path, fix=f"give it: --{role} FILE (JSON lines, TSV or Parquet)")
        for file in files:
            yield from read_text_file(file, role, reading)
    yield from reader.read(path, reading)
    if (path / SCORES).is_file():
        for query, docs, values in read_scores(path / SCORES, reading):
            yield from ((str(path / SCORES), Score(query, doc, v)) for doc, v in zip(docs, values.tolist()))


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str = BEIR,
    dialect: str | None = None,
    split: str = "train",
    corpus: str | Path | None = None,
    queries: str | Path | None = None,
    permutations: str | Path | None = None,
    repair: bool = False,
    strata: bool = False,
    turns: Turns | None = None,
    answers: bool = False,
    held: HoldOut | None = None,
    reading: Reading | None = None,
) -> Converted:
    """Write `source` to the folder `out` in another dialect; either all of it is there in the end, or nothing.

    Args:
        source: file, folder, ``bundled:`` name or ``ir_datasets:`` id.
        to: a key of `WRITERS`.
        dialect: of the source, a key of `DIALECTS` or "beir"; None: told from its first record.
        split: of judgements whose file names none.
        corpus, queries: as in `read`.
        permutations, repair: as in `RankGPT`.
        strata: as in `DPR`.
        turns, answers: as in `ChatRAG` and `Histories`; None: as these have it.
        held: which queries are set aside for validation, in a data set; None: none.

    Raises:
        UsageError: an unknown dialect, what does not go together, or something that is no artefact stands at `out`.
        DataError: a problem of policy.py.
    """
    reading, out = reading or Reading(), Path(out)
    for name, known in ((to, list(WRITERS)), (dialect or BEIR, [BEIR, *DIALECTS])):
        if name not in known:
            raise UsageError(f"'{name}' is no dialect here", fix=f"use one of {', '.join(known)}")
    if held is not None and to != BEIR:
        raise UsageError(f"--validation divides data sets, and {to} is another layout", fix="leave --to out")
    dialect = dialect or detect(source)
    reader = _reader(dialect, source, permutations, turns, repair=repair, strata=strata, answers=answers)
    counts = _written(
        source, out, to=to, reader=reader, split=split, texts=(corpus, queries), held=held, reading=reading
    )
    return Converted(dialect, out, counts)


def _reader(
    dialect: str,
    source: str | Path,
    permutations: str | Path | None,
    turns: Turns | None,
    *,
    repair: bool,
    strata: bool,
    answers: bool,
) -> str | Dialect:
    """The dialect as it was asked for, else its name.

    Raises:
        UsageError: something was asked for that this dialect knows nothing of.
    """
    wanted = {
        "--permutations and --repair": (permutations is not None or repair, (RankGPT.name,)),
        "--strata": (strata, (DPR.name,)),
        "--turns, --roles and --turn": (turns is not None, (ChatRAG.name, Histories.name)),
        "--answers": (answers, (ChatRAG.name,)),
    }
    for what, (asked, of) in wanted.items():
        if asked and dialect not in of:
            fix = "leave them out, or check the source"
            raise UsageError(f"{what}: for {' and '.join(of)}, and {source} is {dialect}", fix=fix)
    if dialect == RankGPT.name:
        return RankGPT(None if permutations is None else Path(permutations), repair=repair)
    if dialect == ChatRAG.name:
        return ChatRAG(turns or ChatRAG().turns, answers)
    if dialect == Histories.name:
        return Histories(turns or Histories().turns)
    return DPR(strata=True) if strata else dialect


def _written(
    source: str | Path,
    out: Path,
    *,
    to: str,
    reader: str | Dialect,
    split: str,
    texts: tuple[str | Path | None, str | Path | None],
    held: HoldOut | None,
    reading: Reading,
) -> dict[str, int]:
    """How much of what was published at `out`."""
    if reader == BEIR:
        data = Collection.open(source, reading)
        counts = _counts(data)
        with storage.publish(out, "dataset", meta={"source": str(source)}) as draft:
            if to == BEIR:
                counts |= write_beir_folder(data, draft.path, held)
            else:
                WRITERS[to](data, draft.path)
            draft.meta["counts"] = counts
        return counts
    stream = read(source, reader, reading, corpus=texts[0], queries=texts[1])
    if to == BEIR:
        with storage.publish(out, "dataset", meta={"source": str(source)}) as draft:
            counts = write_beir(draft.path, stream, source=str(source), split=split, reading=reading, held=held)
            draft.meta["counts"] = counts
        return counts
    with storage.publish(out, "dataset", meta={"source": str(source)}) as draft, _staging(out) as stage:
        with storage.publish(stage / "beir", "dataset") as inner:
            counts = write_beir(inner.path, stream, source=str(source), split=split, reading=reading)
        draft.meta["counts"] = counts
        WRITERS[to](Collection.open(stage / "beir", reading, cache=stage / "cache"), draft.path)
    return counts


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` for the time of the block."""
    stage = out.with_name(f".{out.name}.staging")
    storage.remove_folder(stage)
    try:
        yield stage
    finally:
        storage.remove_folder(stage)


def _counts(data: Collection) -> dict[str, int]:
    dataset = data.dataset
    judgements = sum(len(dataset.qrels(split)) for split in dataset.splits)
    scores = 0 if data.scores is None else len(data.scores)
    return {
        "documents": len(dataset.corpus), "queries": len(dataset.queries), "judgements": judgements, "scores": scores,
        "ranked documents": len(data.ranking or ()),
        "questions with answers": sum(len(dataset.answers(split)) for split in dataset.answered),
    }  # fmt: skip
