"""An inverted index of BM25 impacts: for each term its documents and what the term adds to their scores."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .. import storage
from ..errors import ArtefactError

_OFFSETS, _DOCS, _IMPACTS = "postings.offsets.npy", "postings.docs.npy", "postings.impacts.npy"


class Postings:
    """Term t adds `impacts[i]` (float32) to document `docs[i]`, for i from `offsets[t]` to `offsets[t + 1]`."""

    def __init__(self, offsets: np.ndarray, docs: np.ndarray, impacts: np.ndarray, *, size: int) -> None:
        from scipy.sparse import csr_matrix

        self.offsets, self.docs, self.impacts, self.size = offsets, docs, impacts, size
        self._matrix = csr_matrix((impacts, docs, offsets), shape=(len(offsets) - 1, size), copy=False)

    @classmethod
    def of(cls, terms: array[int] | np.ndarray, lengths: Sequence[int], *, k1: float, b: float) -> Postings:
        """Index documents given as the numbers of their terms, one document behind the other.

        The score is Robertson's BM25 with Lucene's idf (Kamphuis et al. 2020). A sparse transposition, which is a
        counting sort, brings the terms together; there is no loop over documents.
        """
        from scipy.sparse import csr_matrix

        flat, length = np.asarray(terms, np.int32), np.asarray(lengths, np.int64)
        starts = np.concatenate([[0], np.cumsum(length)])
        shape = (len(length), int(flat.max()) + 1)
        by_term = csr_matrix((np.ones(len(flat), np.int8), flat, starts), shape=shape).tocsc()
        first = np.empty(len(flat), bool)  # of its (term, document): a document's repetitions of a term are neighbours
        np.not_equal(by_term.indices[1:], by_term.indices[:-1], out=first[1:])
        first[by_term.indptr[:-1]] = True  # every term occurs
        postings = np.flatnonzero(first)
        counts, docs = np.diff(np.append(postings, len(flat))), by_term.indices[postings]
        offsets = np.searchsorted(postings, by_term.indptr)
        containing = np.diff(offsets)
        idf = np.log1p((len(length) - containing + 0.5) / (containing + 0.5))
        saturation = k1 * (1 - b + b * length / length.mean())
        impacts = (np.repeat(idf, containing) * counts / (counts + saturation[docs])).astype(np.float32)
        return cls(offsets, docs, impacts, size=len(length))

    def scores(self, queries: Sequence[Sequence[int]]) -> Float[np.ndarray, "queries docs"]:
        """float32; a term that a query repeats counts each time.

        Terms are added in the query's order, so that a row has the same bits whatever else is asked.
        """
        from scipy.sparse import coo_matrix

        terms = np.array([term for query in queries for term in query], np.int32)
        found = self._matrix[terms]  # their postings, one term behind the other
        query = np.repeat(np.arange(len(queries), dtype=np.int32), [len(query) for query in queries])
        rows = np.repeat(query, np.diff(found.indptr))
        # to write (row, column, value) triples into an array, SciPy adds up those of one cell, in compiled code
        return coo_matrix((found.data, (rows, found.indices)), shape=(len(queries), self.size)).toarray()

    def write(self, draft: storage.Draft) -> None:
        for name, part in ((_OFFSETS, self.offsets), (_DOCS, self.docs), (_IMPACTS, self.impacts)):
            storage.write_npy(draft.file(name), part)

    @classmethod
    def open(cls, folder: Path, *, size: int) -> Postings:
        """Map those that `write` left in a published folder of `size` documents.

        Raises:
            ArtefactError: missing, or they do not fit together.
        """
        offsets, docs, impacts = (np.asarray(storage.read_npy(folder / name)) for name in (_OFFSETS, _DOCS, _IMPACTS))
        fits = offsets.ndim == docs.ndim == impacts.ndim == 1 and len(docs) == len(impacts) and len(offsets) > 0
        fits = fits and offsets.dtype == np.int64 and docs.dtype in (np.int32, np.int64) and impacts.dtype == np.float32
        fits = fits and offsets[0] == 0 and offsets[-1] == len(docs) and not bool((np.diff(offsets) < 0).any())
        if not fits or (len(docs) and not (docs.min() >= 0 and docs.max() < size)):
            raise ArtefactError("the postings do not fit together", where=folder, fix="index again")
        return cls(offsets, docs, impacts, size=size)
