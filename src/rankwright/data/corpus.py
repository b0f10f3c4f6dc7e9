"""A corpus as an artefact: id -> text, memory-mapped, found by a sorted hash of the ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import overload

import numpy as np
import xxhash

from .. import signals, storage
from ..errors import DataError
from ..types import Document
from ._ragged import Ragged, RaggedWriter, write_ragged
from .policy import Reading, shown

KIND = "corpus"


def _hash(identifier: bytes) -> int:
    return xxhash.xxh3_64_intdigest(identifier)


class Corpus(Sequence[Document]):
    """Documents by row and by id; opening one maps its files and reads next to nothing.

    Attributes:
        fingerprint: hash of all ids, titles and texts in their order.
        problems: what reading the source leniently came across, see `Reading.met`.
    """

    def __init__(self, folder: Path, ids: Ragged, texts: Ragged, manifest: storage.Manifest) -> None:
        self.folder, self._ids, self._texts = folder, ids, texts
        self._hashes = np.asarray(storage.read_npy(folder / "hashes.npy"))
        self._hash_rows = np.asarray(storage.read_npy(folder / "hash_rows.npy"))
        self.key = manifest.key
        self.fingerprint: str = manifest.meta["fingerprint"]
        self.problems: list[tuple[str, int, list[str]]] = manifest.meta["problems"]

    @classmethod
    def build(
        cls,
        folder: str | Path,
        documents: Iterable[Document],
        *,
        key: str,
        reading: Reading | None = None,
        where: str | Path | None = None,
    ) -> Corpus:
        """Write `documents` as a corpus artefact and open it; texts are streamed, 48 bytes a document are held.

        Args:
            key: content hash of everything the documents are made from.
            reading: the fresh reading that `documents` is read with; what it counts is kept with the corpus.
            where: the source file, for error messages.

        Raises:
            DataError: an id occurs twice, or an id or a text is not valid Unicode.
        """
        folder = Path(folder)
        with storage.publish(folder, KIND, key=key) as draft:
            fingerprint = xxhash.xxh3_128()
            with ExitStack() as stack:
                ids = stack.enter_context(write_ragged(draft, "ids", np.uint8))
                texts = stack.enter_context(write_ragged(draft, "texts", np.uint8))
                for number, document in enumerate(documents):
                    if number % 4096 == 0:
                        signals.check()
                    _add(document, ids, texts, fingerprint, where=where)
            _index(draft, where=where)
            draft.meta["documents"] = len(ids.offsets) - 1
            draft.meta["problems"] = reading.met() if reading else []
            draft.meta["fingerprint"] = fingerprint.hexdigest()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Map the artefact in `folder`.

        Raises:
            ArtefactError: not a corpus, or parts of it are missing.
        """
        manifest = storage.read_manifest(folder, KIND)
        folder = manifest.folder
        return cls(folder, Ragged(folder, "ids", np.uint8), Ragged(folder, "texts", np.uint8), manifest)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, row: int) -> Document: ...
    @overload
    def __getitem__(self, row: slice) -> list[Document]: ...
    def __getitem__(self, row: int | slice) -> Document | list[Document]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = _inside(row, len(self))
        return Document(self.id(row), self._texts.text(2 * row), self._texts.text(2 * row + 1))

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(len(self)))

    def id(self, row: int) -> str:
        """The id of the document in `row`."""
        return self._ids.text(_inside(row, len(self)))

    @property
    def ids(self) -> Sequence[str]:
        """All ids in row order; each is decoded when it is asked for."""
        return _Ids(self)

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in their order.

        Raises:
            DataError: there is none of an id.
        """
        rows = self.rows(ids)
        if len(missing := np.flatnonzero(rows < 0)):
            more = f" (nor {len(missing) - 1:,} others)" if len(missing) > 1 else ""
            what = f"the passage {shown(ids[int(missing[0])])} is not there{more}"
            raise DataError(what, fix="take the corpus that the run was made from")
        return self.take(rows)

    def take(self, rows: np.ndarray) -> list[Document]:
        """The documents of these rows (each from 0 to below the number of documents), in their order."""
        parts = self._ids.texts(rows), self._texts.texts(2 * rows), self._texts.texts(2 * rows + 1)
        return list(map(Document, *parts))

    def row(self, id: str) -> int | None:  # noqa: A002
        """The row of a document, None where there is none of this id."""
        row = int(self.rows([id])[0])
        return None if row < 0 else row

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of many documents (int64 [n]), -1 where there is none of the id."""
        encoded = [identifier.encode("utf-8", "surrogatepass") for identifier in ids]
        hashes = np.fromiter((_hash(e) for e in encoded), np.uint64, len(encoded))
        places = np.searchsorted(self._hashes, hashes)
        found = np.full(len(encoded), -1, np.int64)
        for i, (place, code, wanted) in enumerate(zip(places.tolist(), hashes, encoded)):
            while place < len(self) and self._hashes[place] == code:
                row = int(self._hash_rows[place])
                if self._ids.row(row).tobytes() == wanted:  # two ids may share a hash
                    found[i] = row
                    break
                place += 1
        return found


class _Ids(Sequence[str]):
    """The ids of a corpus as a sequence that holds none of them."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._corpus.id(i) for i in range(*row.indices(len(self)))]
        return self._corpus.id(row)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self._corpus.row(value) is not None


def _inside(row: int, size: int) -> int:
    if not -size <= row < size:
        raise IndexError(f"row {row} of {size}")
    return int(row) % size


def _add(
    document: Document,
    ids: RaggedWriter,
    texts: RaggedWriter,
    fingerprint: xxhash.xxh3_128,
    *,
    where: str | Path | None,
) -> None:
    try:
        parts = [part.encode() for part in document]
    except UnicodeEncodeError:
        raise DataError(
            f"document {shown(document.id)} holds half of a surrogate pair", where=where, fix="save the file as UTF-8"
        ) from None
    ids.add(parts[0])
    texts.extend(parts[1] + parts[2], [len(parts[1]), len(parts[2])])
    fingerprint.update(np.array([len(part) for part in parts], "<i8").tobytes())
    for part in parts:
        fingerprint.update(part)


def _index(draft: storage.Draft, *, where: str | Path | None) -> None:
    """Write the sorted hashes of the ids and the row of each; no two ids may be equal."""
    ids = Ragged(draft.path, "ids", np.uint8)
    hashes = np.fromiter((_hash(ids.row(row).tobytes()) for row in range(len(ids))), np.uint64, len(ids))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    for place in same.tolist():
        first = int(np.searchsorted(hashes, hashes[place]))  # the first of all that share this hash
        later = int(order[place + 1])
        for row in order[first : place + 1].tolist():
            if ids.row(row).tobytes() == ids.row(later).tobytes():
                raise DataError(
                    f"the id {shown(ids.text(row))} occurs twice, in records {row + 1} and {later + 1}",
                    where=where, fix="remove one of them",
                )  # fmt: skip
    storage.write_npy(draft.file("hashes.npy"), hashes)
    storage.write_npy(draft.file("hash_rows.npy"), order.astype(np.int64))
