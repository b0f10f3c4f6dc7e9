"""BM25: words to stems, a published index, hits in trec_eval's order."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .. import signals, storage
from ..errors import ArtefactError, DataError, RecipeError
from ..progress import Progress, progress
from .index import DocIds, Hits, Index, places
from .postings import Postings

_TERMS = "terms.json"
_SCORES_AT_ONCE = 1 << 18  # of queries x documents: 1 MiB, which stays in the cache
# what PyStemmer stems, and the languages for which bm25s has stop words (its English list is Lucene's 33)
_STEMMED = (
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german", "greek",
    "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "porter",
    "portuguese", "romanian", "russian", "serbian", "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip
_STOP_WORDS = {
    "danish": "DANISH", "dutch": "DUTCH", "english": "EN", "french": "FRENCH", "german": "GERMAN",
    "italian": "ITALIAN", "norwegian": "NORWEGIAN", "portuguese": "PORTUGUESE", "russian": "RUSSIAN",
    "spanish": "SPANISH", "swedish": "SWEDISH", "turkish": "TURKISH",
}  # fmt: skip
_ASCII_WORD, _WORD = re.compile(r"[a-z0-9]+"), re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class BM25:
    """Lexical ranking by Robertson's BM25 with Lucene's idf (Kamphuis et al. 2020).

    Text is lowercased and split into words (``[a-z0-9]+`` in English, letters and digits of any script elsewhere);
    stop words go, the rest is stemmed.

    Args:
        k1: how soon a word's repetitions stop counting.
        b: how much long documents are discounted, 0 to 1.
        language: of the stemmer and the stop words.
        stem: reduce words to Snowball stems.
        stop_words: true for the language's list (Lucene's 33 in English), false for none, or a list of your own.

    Raises:
        RecipeError: a number out of range, or a language without stemmer or stop words.
    """

    k1: float = 0.9
    b: float = 0.4
    language: str = "english"
    stem: bool = True
    stop_words: bool | tuple[str, ...] = True

    def __post_init__(self) -> None:
        if not 0 <= self.k1 < float("inf"):
            raise RecipeError(f"k1 must be 0 or more, got {self.k1}", fix="0.9 and 1.2 are usual")
        if not 0 <= self.b <= 1:
            raise RecipeError(f"b must lie between 0 and 1, got {self.b}", fix="0.4 and 0.75 are usual")
        if self.stem and self.language not in _STEMMED:
            raise RecipeError(
                f"there is no stemmer for language {self.language!r}",
                fix=f"set stem: false, or use one of {', '.join(_STEMMED)}",
            )
        if self.stop_words is True and self.language not in _STOP_WORDS:
            raise RecipeError(
                f"there is no list of stop words for language {self.language!r}",
                fix=f"give stop_words: [...] or false, or use one of {', '.join(_STOP_WORDS)}",
            )
        if not isinstance(self.stop_words, bool):
            object.__setattr__(self, "stop_words", tuple(self.stop_words))

    def build(self, folder: Path, ids: Sequence[str], texts: Iterable[str], *, key: str) -> LexicalIndex:
        """Index `texts` (one per id) in `folder`; reuses what is there of the same settings and key.

        Args:
            key: content hash of ids and texts.

        Raises:
            DataError: no document holds a word, an id occurs twice, or there are not as many texts as ids.
        """
        settings = json.dumps(asdict(self), sort_keys=True)
        key = hashlib.sha256(f"bm25 postings\x1f{settings}\x1f{key}".encode()).hexdigest()
        if storage.is_current(folder, "bm25", key):
            return LexicalIndex.open(folder)
        doc_ids, words = DocIds.of(ids), self._splitter()
        vocabulary: dict[str, int] = {}
        terms, lengths = array("i"), array("q")
        with progress("index", len(doc_ids), "docs") as bar:
            for text in texts:
                found = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
                terms.extend(found)
                lengths.append(len(found))
                bar.advance()
                if len(lengths) % 1024 == 0:
                    signals.check()
        if len(lengths) != len(doc_ids):
            raise DataError(f"{len(doc_ids)} ids but {len(lengths)} texts", where=folder)
        if not vocabulary:
            raise DataError(
                "no document holds a word that can be indexed", where=folder, fix="check the corpus and the language"
            )
        postings = Postings.of(terms, lengths, k1=self.k1, b=self.b)
        with storage.publish(folder, "bm25", key=key, meta={"spec": asdict(self)}) as draft:
            doc_ids.write(draft)
            storage.write_json(draft.file(_TERMS), list(vocabulary))
            postings.write(draft)
        return LexicalIndex.open(folder)

    def _splitter(self) -> Callable[[str], list[str]]:
        """A function from text to index terms; each distinct word is stemmed once."""
        from bm25s import stopwords

        stop = self.stop_words
        if isinstance(stop, bool):
            stop = getattr(stopwords, f"STOPWORDS_{_STOP_WORDS[self.language]}") if stop else ()
        stem = _stemmer(self.language) if self.stem else str
        terms: dict[str, str | None] = {word.lower(): None for word in stop}
        pattern = _ASCII_WORD if self.language in ("english", "porter") else _WORD

        def split(text: str) -> list[str]:
            found = []
            for word in pattern.findall(text.lower()):
                if word not in terms:
                    terms[word] = stem(word)
                if term := terms[word]:
                    found.append(term)
            return found

        return split


class LexicalIndex(Index[Sequence[str]]):
    """A BM25 index; documents that share no word with a query are no hits."""

    def __init__(self, spec: BM25, ids: DocIds, *, terms: Sequence[str], postings: Postings, fingerprint: str) -> None:
        self.spec, self.ids, self._postings, self._fingerprint = spec, ids, postings, fingerprint
        self._words, self._vocabulary = spec._splitter(), {term: number for number, term in enumerate(terms)}

    @classmethod
    def open(cls, folder: Path) -> LexicalIndex:
        """Map the index that `BM25.build` wrote.

        Raises:
            ArtefactError: missing, damaged or of another kind.
        """
        manifest = storage.verify(folder, "bm25")
        terms, ids = storage.read_json(manifest.folder / _TERMS), DocIds.open(manifest.folder)
        postings = Postings.open(manifest.folder, size=len(ids))
        if len(terms) != len(postings.offsets) - 1:
            raise ArtefactError("its terms and postings do not fit together", where=folder, fix="index again")
        try:
            spec = BM25(**manifest.meta["spec"])
        except (TypeError, KeyError, RecipeError) as error:
            raise ArtefactError(f"not a BM25 index ({error})", where=folder, fix="index again") from error
        return cls(spec, ids, terms=terms, postings=postings, fingerprint=manifest.key)

    @property
    def fingerprint(self) -> str:
        return f"bm25 {self._fingerprint}"

    def check(self, queries: Sequence[str], query_ids: Sequence[str]) -> None:
        """Any text can be asked; one without a known word finds nothing."""

    def hits(self, queries: Sequence[str], *, k: int, bar: Progress) -> Hits:
        return self.hits_of_terms(self.terms(queries), k=k, bar=bar)

    def terms(self, queries: Sequence[str]) -> list[list[int]]:
        """The numbers of the words of each query that the index knows."""
        known = self._vocabulary
        return [[known[word] for word in self._words(text) if word in known] for text in queries]

    def hits_of_terms(self, queries: Sequence[Sequence[int]], *, k: int, bar: Progress) -> Hits:
        """`hits` of queries that are split already, by `terms`."""
        parts, step = [], max(1, _SCORES_AT_ONCE // len(self.ids))
        for start in range(0, len(queries), step):
            signals.check()
            scores = self._postings.scores(queries[start : start + step])
            parts.append(_best(scores, self.ids, k))
            bar.advance(scores.size)
        return Hits.concatenate(parts)

    def scores(self, queries: Sequence[str], *, query_rows: np.ndarray, doc_rows: np.ndarray) -> np.ndarray:
        made = np.empty(len(doc_rows), np.float64)
        order = np.argsort(query_rows, kind="stable")
        wanted, starts = np.unique(query_rows[order], return_index=True)
        for row, pairs in zip(wanted, np.split(order, starts[1:])):
            made[pairs] = self._postings.scores(self.terms([queries[int(row)]]))[0, doc_rows[pairs]]
        return made


def _best(scores: Float[np.ndarray, "queries docs"], ids: DocIds, k: int) -> Hits:
    """The k best above zero of each row: score descending, ties by document id descending."""
    found = np.flatnonzero(scores >= _floor(scores, k)[:, None])
    query, row = np.divmod(found, scores.shape[1])
    # one integer orders as score, then id: the bits of floats that are not negative order as the floats do
    keys = scores.ravel()[found].view(np.int32).astype(np.int64) << 32 | ids.ranks[row]
    sizes = np.bincount(query, minlength=len(scores))
    table = np.zeros((len(scores), int(sizes.max(initial=0))), np.int64)
    table[query, places(query, len(scores))] = keys
    table.sort(axis=1)
    table = table[:, ::-1][:, :k]
    best = table[table > 0]
    rows = ids.order[best & 0xFFFFFFFF]
    return Hits(np.minimum(sizes, k), rows, (best >> 32).astype(np.int32).view(np.float32).astype(np.float64))


def _floor(scores: Float[np.ndarray, "queries docs"], k: int) -> Float[np.ndarray, " queries"]:
    """A score above zero that the k-th best of each row reaches, if there is one: few others do.

    The documents are dealt into about 4 k groups. The k-th best of the groups' best is such a score, and cheaper than
    the k-th best of all.
    """
    queries, docs = scores.shape
    floor = np.full(queries, np.finfo(np.float32).smallest_subnormal, np.float32)
    if docs <= k:
        return floor
    deep = max(1, docs // (4 * k))
    groups = docs // deep
    highest = scores[:, : deep * groups].reshape(queries, deep, groups).max(axis=1)
    return np.maximum(floor, np.partition(highest, groups - k, axis=1)[:, groups - k])


def _stemmer(language: str) -> Callable[[str], str]:
    from Stemmer import Stemmer

    return Stemmer(language, 0).stemWord  # 0: the caller remembers stems
