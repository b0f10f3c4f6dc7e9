"""Re-ranks a run with any ranker or several: a cross-encoder reads its pairs, packed by length; restartable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float64, Int

from .. import signals, storage
from ..errors import NonFiniteError, UsageError
from ..progress import progress
from ..types import Precision, Run, Side, Texts, picked
from .encode import TokenRows, embed, encode, encoder
from .late import exact_index
from .runs import Fuse, fuse
from .token_vectors import TokenVectors

if TYPE_CHECKING:
    from ..models.ranker import Ranker
else:
    Ranker = Any

Tail = Literal["drop", "keep"]
Tokens = Callable[[Side, Sequence[str]], TokenRows]  # (side, ids) -> their tokens as the ranker wants them

KIND = "pair-scores"
_CHUNK = 8192  # pairs sorted together, written together, and what a kill can lose


def rerank(
    ranker: Ranker,
    run: Run,
    tokens: Tokens,
    *,
    depth: int = 100,
    tail: Tail = "drop",
    folder: Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    precision: Precision = "float32",
    tokens_per_batch: int = 1024,
    chunk: int = _CHUNK,
) -> Run:
    """The first `depth` documents of each query in the order of the ranker's own scores (float64).

    A pair's score does not depend on the number of workers: micro-batches are fixed, each is computed by one thread.

    Args:
        tokens: gives the token ids of queries and documents by id.
        tail: what becomes of documents below `depth`: left out, or kept in their order below the others, under
            scores that only say so.
        folder: where finished scores are kept, so that a stopped re-ranking goes on; it is the caller's to remove.
        workers: threads that compute micro-batches; as many as torch has on CPU, one on an accelerator.
        precision: of the arithmetic.
        tokens_per_batch: padded tokens (rows x longest) of a micro-batch.
        chunk: pairs that are sorted by length together.

    Raises:
        UsageError: a depth below 1, or a precision that this device lacks.
        NonFiniteError: a score is NaN or infinite. DataError: `tokens` knows an id not.
    """
    _check_depth(depth)
    whole = run.ranked()
    top = whole.ranked(depth)
    if not len(top):
        return top
    found = _How(device, workers, precision, tokens_per_batch, chunk).scored(ranker, top, tokens, folder)
    return (found if tail == "drop" else _with_tail(found, whole, depth)).ranked()


def rerank_together(
    rankers: Iterable[Ranker],
    run: Run,
    tokens: Callable[[Ranker], Tokens],
    spec: Fuse | None = None,
    *,
    depth: int = 100,
    tail: Tail = "drop",
    folder: Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    precision: Precision = "float32",
    tokens_per_batch: int = 1024,
    chunk: int = _CHUNK,
) -> Run:
    """An ensemble: several rankers score the same documents, and their scores become one as `fuse` combines runs.

    Args:
        rankers: taken one after the other, so that an iterator which loads them holds one in memory at a time.
        tokens: gives each ranker's token ids.
        spec: how scores are normalised and combined. None: the sum of min-max scores.

    The others, and what is raised, as in `rerank`; a UsageError too for fewer than two rankers or weights that do not
    fit them.
    """
    _check_depth(depth)
    whole = run.ranked()
    top = whole.ranked(depth)
    if not len(top):
        return top
    how = _How(device, workers, precision, tokens_per_batch, chunk)
    made = [
        how.scored(ranker, top, tokens(ranker), None if folder is None else folder / f"ranker-{number}")
        for number, ranker in enumerate(rankers, start=1)
    ]
    found = _with_values(top, fuse(made, spec or Fuse("sum")))
    return (found if tail == "drop" else _with_tail(found, whole, depth)).ranked()


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise UsageError(f"depth must be at least 1, got {depth}")


@dataclass(frozen=True)
class _How:
    """How scores are computed: what `rerank` is told of it."""

    device: str
    workers: int | None
    precision: Precision
    tokens_per_batch: int
    chunk: int

    def scored(self, ranker: Ranker, top: Run, tokens: Tokens, folder: Path | None) -> Run:
        """A run, its documents in the order they had, under a ranker's scores."""
        if ranker.pairing is None:
            how = {"device": self.device, "workers": self.workers, "precision": self.precision}
            scores = _by_vectors(ranker, top, tokens, folder, **how)
        else:
            pairs = _Pairs.of(ranker.pairing, top, tokens)
            facts = [pairs.queries.key, pairs.docs.key, self.precision, self.chunk]
            work = _Work(ranker, pairs, self.chunk, self.tokens_per_batch, self.device, self.workers, self.precision)
            scores = work.carry_out(folder, _key(ranker, top, facts))
        _require_finite(scores, top)
        return Run(top.queries, top.docs, top.offsets, top.columns, scores)


def _with_values(top: Run, fused: Run) -> Run:
    """The documents of `top` in its order, under the scores that `fused` has for them."""
    named = dict(zip(fused.docs, range(len(fused.docs))))
    columns = np.array([named[doc] for doc in top.docs], np.int64)
    keys = []
    for run, column in ((top, columns[top.columns]), (fused, fused.columns)):
        query = np.repeat(np.arange(len(run.queries)), np.diff(run.offsets))  # both name them in one order
        keys.append(query * len(fused.docs) + column)
    order = np.argsort(keys[1])
    values = fused.values[order][np.searchsorted(keys[1][order], keys[0])]
    return Run(top.queries, top.docs, top.offsets, top.columns, values)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a run: a row of each side's tokens for each."""

    join: Callable[[Texts, Texts], Texts]
    queries: TokenRows
    docs: TokenRows
    query_rows: Int[np.ndarray, " pairs"]
    doc_rows: Int[np.ndarray, " pairs"]

    @classmethod
    def of(cls, join: Callable[[Texts, Texts], Texts], run: Run, tokens: Tokens) -> _Pairs:
        used, doc_rows = np.unique(run.columns, return_inverse=True)
        query_rows = np.repeat(np.arange(len(run.queries)), np.diff(run.offsets))
        return cls(join, tokens("query", run.queries), tokens("doc", picked(run.docs, used)), query_rows, doc_rows)

    def __len__(self) -> int:
        return len(self.doc_rows)

    def joined(self, span: slice) -> _Joined:
        return _Joined(
            self.join(self.queries.take(self.query_rows[span]), self.docs.take(self.doc_rows[span])),
        )


class _Joined:
    """Some pairs' texts as encoding wants them."""

    key = ""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.lengths: np.ndarray = texts.lengths.numpy()

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, rows: np.ndarray) -> Texts:
        import torch

        return self._texts.take(torch.from_numpy(rows))


@dataclass(frozen=True)
class _Work:
    """The scoring of pairs, chunk by chunk."""

    ranker: Ranker
    pairs: _Pairs
    chunk: int
    tokens_per_batch: int
    device: str
    workers: int | None
    precision: Precision

    def carry_out(self, folder: Path | None, key: str) -> Float64[np.ndarray, " pairs"]:
        """The scores of all pairs, from the folder where it holds them."""
        if folder is None:
            return self._scores(None)
        if not storage.is_current(folder, KIND, key):
            meta = {"pairs": len(self.pairs), "chunk": self.chunk}
            with storage.publish(folder, KIND, key=key, meta=meta, resume=True) as draft:
                return self._scores(draft)
        names = [_name(begin // self.chunk) for begin in range(0, len(self.pairs), self.chunk)]
        return np.concatenate([storage.read_npy(folder / name) for name in names])

    def _scores(self, draft: storage.Draft | None) -> Float64[np.ndarray, " pairs"]:
        scores = np.empty(len(self.pairs))
        with (
            progress("re-rank", len(self.pairs), "pairs") as bar,
            encoder(
                self.ranker, "doc", device=self.device, workers=self.workers, precision=self.precision
            ) as represented,
        ):
            for number, begin in enumerate(range(0, len(scores), self.chunk)):
                signals.check()
                span, name = slice(begin, min(begin + self.chunk, len(scores))), _name(number)
                if draft is not None and draft.has(name):
                    scores[span] = storage.read_npy(draft.file(name))
                    bar.skip(span.stop - span.start)
                    continue
                texts = self.pairs.joined(span)
                values, _ = represented(texts, np.arange(len(texts)), self.tokens_per_batch, bar)
                scores[span] = values[:, 0]
                if draft is not None:
                    storage.write_npy(draft.file(name), scores[span])
                    draft.done(name)
        return scores


def _by_vectors(
    ranker: Ranker, run: Run, tokens: Tokens, folder: Path | None, *, device: str, workers: int | None,
    precision: Precision,
) -> Float64[np.ndarray, " pairs"]:  # fmt: skip
    """The scores of a ranker that represents texts apart: each document of the run is encoded once."""
    used, columns = np.unique(run.columns, return_inverse=True)
    ids = picked(run.docs, used)
    if folder is None:
        made = embed(ranker, tokens("doc", ids), ids=ids, side="doc", device=device, workers=workers,
                     precision=precision)  # fmt: skip
    else:
        made = encode(ranker, tokens("doc", ids), folder, ids=ids, device=device, workers=workers,
                      precision=precision)  # fmt: skip
    asked = embed(ranker, tokens("query", run.queries), ids=run.queries, side="query", device=device)
    queries = asked.padded() if isinstance(asked, TokenVectors) else asked.take(np.arange(len(run.queries)))
    pairs = Run(run.queries, ids, run.offsets, columns.astype(np.int32), run.values)
    return exact_index(made, device if device.startswith("cuda") else "cpu").score(queries, run.queries, pairs=pairs).values  # fmt: skip  # noqa: E501


def _with_tail(found: Run, whole: Run, depth: int) -> Run:
    """The documents below `depth` behind the others of their query, in their old order."""
    sizes = np.diff(whole.offsets)
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(whole)) - whole.offsets[:-1][group]
    lowest = np.zeros(len(sizes))
    there = np.diff(found.offsets) > 0
    lowest[there] = np.minimum.reduceat(found.values, found.offsets[:-1][there])
    values = lowest[group] - (place - depth + 1)
    values[place < depth] = found.values
    return Run(whole.queries, whole.docs, whole.offsets, whole.columns, values)


def _require_finite(scores: np.ndarray, run: Run) -> None:
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query = run.queries[int(np.searchsorted(run.offsets, bad[0], side="right")) - 1]
        what = f"the score of query {query!r} and document {run.docs[int(run.columns[bad[0]])]!r} is {scores[bad[0]]}"
        raise NonFiniteError(what, fix="check the model folder")


def _key(ranker: Ranker, run: Run, facts: list[object]) -> str:
    """A content hash of everything that the scores depend on."""
    content = hashlib.sha256(repr([ranker.fingerprint("doc"), *facts]).encode())
    for part in (run.offsets, run.columns):
        content.update(np.ascontiguousarray(part).tobytes())
    for names in (run.queries, run.docs):
        content.update("\x1f".join(names).encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def _name(number: int) -> str:
    return f"scores-{number:05d}.npy"
