"""The joints between the rooms: data x model -> tokens, vectors, indexes, runs, negatives, loaders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from . import storage
from .data import (
    Batches,
    Collection,
    Corpus,
    Dataset,
    Drawn,
    Group,
    Loader,
    Mixture,
    Reading,
    Source,
    Supervision,
    TokenRows,
    TokenStore,
    TokenStores,
    file_hash,
    supervise,
)
from .errors import DataError, RecipeError, UsageError
from .ledger import fingerprint
from .randomness import permutation
from .training import distributed
from .types import Precision, Run, Side

if TYPE_CHECKING:
    from .models import Ranker
    from .plan import Validation
    from .search import BM25, AnnIndex, Exact, Fuse, LateIndex, LexicalIndex, TokenVectors, Vectors
    from .training import Validator


def pick_device(name: str) -> str:
    """The torch device of a recipe's or a command's `device`.

    Raises:
        UsageError: no such kind of device, or this machine has none.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if distributed.world() > 1 and name.startswith("cuda"):
        return distributed.own_cuda(name)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UsageError(f"device {name!r} is not known", fix="give auto, cpu, cuda, cuda:1 ... or mps")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: this machine has no CUDA device", fix="use device: auto or cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise UsageError(f"device {name!r}: this machine has {there} CUDA device(s)", fix="count from cuda:0")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': this machine has none", fix="use device: auto or cpu")
    return name


def pick_precision(name: Precision, device: str) -> Precision:
    """What a recipe's or a command's `precision` means on this device; none is left ``auto``.

    Raises:
        UsageError: half precision that the device would only emulate.
    """
    from .models.precision import chosen

    return chosen(name, device)


def open_dataset(name: str, *, reading: Reading, cache: Path | None = None) -> Dataset:
    """A data set, its texts in the cache; of several processes the first puts them there."""
    with distributed.first_alone():
        return Dataset.open(name, reading=reading, cache=cache)


def require_positions(ranker: Ranker, side: Side, length: int | None, *, where: str) -> None:
    """
    Raises:
        RecipeError: texts of that many tokens are more than the ranker has positions for.
    """
    if length is not None and length > (most := ranker.longest[side]):
        what = f"{side}_length is {length}, this model has positions for {most} tokens"
        raise RecipeError(what, where=where, fix=f"give {side}_length {most} or less, or the model more positions")


class _Rendered:
    """A corpus as the strings that a ranker reads."""

    def __init__(self, ranker: Ranker, corpus: Corpus, side: Side) -> None:
        self._ranker, self._corpus, self._side = ranker, corpus, side

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, row: int) -> str:
        document = self._corpus[row]
        return self._ranker.render(document) if self._side == "doc" else document.text


def tokens(ranker: Ranker, corpus: Corpus, side: Side, *, cache: Path, limit: int | None = None) -> TokenStore:
    """Every text of a corpus tokenised for one side; made once, kept in the cache by tokenizer and content."""
    key = fingerprint([ranker.tokenizer_key(side, limit=limit), corpus.fingerprint])
    folder = cache / "tokens" / key
    with distributed.first_alone():
        if storage.is_current(folder, "tokens", key):
            return TokenStore.open(folder)
        return TokenStore.build(
            folder,
            _Rendered(ranker, corpus, side),
            lambda texts: ranker.tokenize(texts, side, limit=limit),
            key=key,
            vocabulary=ranker.vocabulary,
        )


class Rows:
    """Some rows of a token store, as a token store."""

    def __init__(self, store: TokenStore, rows: np.ndarray) -> None:
        self._store, self._rows = store, rows
        self.lengths = store.lengths[rows]
        self.key = fingerprint([store.key, rows.tolist()])

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray):
        return self._store.take(self._rows[rows])


def all_tokens(ranker: Ranker, texts: Collection, side: Side, *, cache: Path, limit: int | None = None) -> TokenRows:
    """The tokens of corpora side by side; each corpus has its own store, whatever it is mixed with."""
    stores = [tokens(ranker, corpus, side, cache=cache, limit=limit) for _, corpus in texts.parts]
    return stores[0] if len(stores) == 1 else TokenStores(stores)


def rows_of(corpus: Corpus | Collection, ids: Sequence[str], what: str) -> np.ndarray:
    """Rows of ids that must be there."""
    rows = corpus.rows(ids)
    if (rows < 0).any():
        absent = ids[int(np.flatnonzero(rows < 0)[0])]
        raise DataError(f"{what} {absent!r} has no text", fix="add it to the data set or remove it from the file")
    return rows


# --- search --------------------------------------------------------------------------------------


def encode_corpus(
    ranker: Ranker,
    dataset: Dataset,
    folder: Path,
    *,
    device: str,
    dtype: str = "float32",
    precision: Precision = "float32",
) -> Vectors | TokenVectors:
    """The vectors of a data set's documents, one or many each, published in `folder`; restartable, reused."""
    from .search import encode

    store = tokens(ranker, dataset.corpus, "doc", cache=dataset.cache)
    kind = "float16" if dtype == "float16" else "float32"
    budget = 1024 if device == "cpu" else 16384  # what fits a core's cache; what fills a GPU
    return encode(
        ranker, store, folder, ids=dataset.corpus.ids, dtype=kind, tokens_per_batch=budget, device=device,
        team=distributed.Team.of_all(), precision=precision,
    )  # fmt: skip


def encode_queries(ranker: Ranker, dataset: Dataset, query_ids: Sequence[str], *, device: str) -> np.ndarray:
    """float32 [q, dim] of some of a data set's queries; [q, t, dim] of a ranker with many vectors a text."""
    from .search import TokenVectors, embed

    store = tokens(ranker, dataset.queries, "query", cache=dataset.cache)
    rows = rows_of(dataset.queries, query_ids, "query")
    vectors = embed(ranker, Rows(store, rows), ids=query_ids, side="query", device=device)
    return vectors.padded() if isinstance(vectors, TokenVectors) else vectors.take(np.arange(len(query_ids)))


def open_vectors(folder: Path) -> Vectors | TokenVectors:
    """The vectors that `encode_corpus` published in `folder`, one or many a document."""
    from .search import TokenVectors, Vectors

    return (TokenVectors if storage.read_manifest(folder).kind == "token-vectors" else Vectors).open(folder)


def dense_run(
    ranker: Ranker,
    dataset: Dataset,
    vectors: Vectors | TokenVectors,
    query_ids: Sequence[str],
    *,
    depth: int,
    device: str,
    folder: Path | None = None,
) -> Run:
    """Exact search of some queries; with a `folder` it restarts where it was."""
    from .search import exact_index, search_into

    index = exact_index(vectors, device if device.startswith("cuda") else "cpu")
    queries = encode_queries(ranker, dataset, query_ids, device=device)
    if folder is None:
        return index.search(queries, query_ids, k=depth)
    return search_into(folder, index, queries=queries, query_ids=query_ids, k=depth)


def rerank_run(
    ranker: Ranker | Iterable[Ranker],
    dataset: Dataset,
    run: Run,
    *,
    together: Fuse | None = None,
    depth: int,
    tail: Literal["drop", "keep"] = "drop",
    device: str,
    precision: Precision = "float32",
    folder: Path | None = None,
) -> Run:
    """A run's first documents in the order of a ranker's own scores, or of several rankers' scores `together`.

    With a `folder` it restarts where it was.
    """
    from .search import rerank, rerank_together

    corpora: dict[Side, Corpus] = {"query": dataset.queries, "doc": dataset.corpus}

    def of(ranker: Ranker) -> Callable[[Side, Sequence[str]], Rows]:
        def texts(side: Side, ids: Sequence[str]) -> Rows:
            store = tokens(ranker, corpora[side], side, cache=dataset.cache)
            return Rows(store, rows_of(corpora[side], ids, "query" if side == "query" else "document"))

        return texts

    how: dict[str, Any] = {"depth": depth, "tail": tail, "folder": folder, "device": device, "precision": precision}
    how |= {"tokens_per_batch": 1024 if device == "cpu" else 16384}
    if isinstance(ranker, Iterable):
        return rerank_together(ranker, run, of, together, **how)
    return rerank(ranker, run, of(ranker), **how)


def index_vectors(source: Path, folder: Path, *, kind: str) -> int:
    """Publish an index of the vectors in `source`, or with kind int8 a smaller copy of them; how many there are."""
    from .search import Ann, Vectors

    vectors = Vectors.open(source)
    made = vectors.quantised(folder) if kind == "int8" else Ann(cast(Any, kind)).build(folder, vectors)
    return len(made.ids)


def dense_index(folder: str, *, device: str, nprobe: int | None, ef_search: int | None) -> Exact | LateIndex | AnnIndex:
    """What searches a folder of vectors, or an approximate index, with the vectors of queries."""
    from .search import AnnIndex, exact_index

    if storage.read_manifest(folder).kind == "ann":
        return AnnIndex.open(Path(folder)).at(nprobe=nprobe, ef_search=ef_search)
    return exact_index(open_vectors(Path(folder)), device if device.startswith("cuda") else "cpu")


def recall_report(folder: Path, source: Path, *, seed: int) -> list[dict[str, Any]]:
    """What an ann index finds of the exact 10 best; 200 of the documents, drawn by seed, are the queries."""
    from .search import AnnIndex, Exact, Vectors, recall

    vectors = Vectors.open(source)
    drawn = permutation(len(vectors), seed, "recall queries")[:200]
    queries = vectors.take(np.sort(drawn)).astype(np.float32)
    return recall(AnnIndex.open(folder), Exact(vectors), queries, k=10)


def bm25_index(dataset: Dataset, folder: Path, spec: BM25) -> LexicalIndex:
    """The BM25 index of titles and texts, published in `folder`; reused when unchanged."""
    key = fingerprint([repr(spec), dataset.corpus.fingerprint])
    texts = (f"{document.title} {document.text}".strip() for document in dataset.corpus)
    return spec.build(folder, dataset.corpus.ids, texts, key=key)


def bm25_run(dataset: Dataset, index: LexicalIndex, query_ids: Sequence[str], *, depth: int) -> Run:
    """BM25's ranking of some of a data set's queries."""
    rows = rows_of(dataset.queries, query_ids, "query")
    texts = [dataset.queries[int(row)].text for row in rows]
    return index.search(texts, query_ids, k=depth)


# --- training ------------------------------------------------------------------------------------


def open_mixture(sources: Sequence[Source], *, reading: Reading, cache: Path | None = None) -> Mixture:
    """The data sets that sources are over, their texts in the cache."""
    return Mixture.open(sources, lambda name: open_dataset(name, reading=reading, cache=cache))


def merged(mixture: Mixture, sources: Sequence[Source]) -> Supervision:
    """What a stage learns from, its sources merged; where that is kept on disk, the first process writes it."""
    with distributed.first_alone():
        return supervise(mixture, sources)


def make_loader(
    ranker: Ranker,
    mixture: Mixture,
    supervision: Supervision,
    *,
    group: Group,
    batches: Batches,
    seed: int,
    limits: dict[Side, int | None],
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    drawn: Drawn | None = None,
) -> Loader:
    """Judgements and texts as a stream of batches, a pure function of the seed.

    Raises:
        RecipeError: `limits` are more than the ranker has positions for.
    """
    cache = mixture.first.cache
    for side, length in limits.items():
        require_positions(ranker, side, length, where="stages")
    return Loader(
        supervision,
        group=group,
        batches=batches,
        query_tokens=all_tokens(ranker, mixture.queries, "query", cache=cache, limit=limits["query"]),
        doc_tokens=all_tokens(ranker, mixture.corpus, "doc", cache=cache, limit=limits["doc"]),
        query_rows=rows_of(mixture.queries, supervision.queries, "query"),
        doc_rows=rows_of(mixture.corpus, supervision.docs, "document"),
        seed=seed,
        rank=rank,
        world=world,
        workers=workers,
        pair=ranker.pairing,
        drawn=drawn,
    )


def named_files(group: Group, batches: Batches, *, cache: Path) -> list[str]:
    """The content, as hashes, of the files that group and batches name.

    Raises:
        DataError: one cannot be read.
    """
    return [file_hash(path, cache=cache) for path in (*group.files(), *batches.files())]


def make_validator(
    ranker: Ranker, dataset: Dataset, spec: Validation, candidates: Run | None, *, device: str, precision: Precision
) -> Validator:
    """Measures a ranker in training: by retrieval from the whole corpus, or by ranking the candidates of a run."""
    from .evaluation import evaluate, parse
    from .search import embed, exact_index, without_self
    from .training import Validator

    qrels = dataset.qrels(spec.split)
    name = str(parse(spec.measure)[0])
    if ranker.pairing is not None:
        assert candidates is not None, "a cross-encoder without candidates"

        def measure_pairs() -> dict[str, float]:
            deepest = int(np.diff(candidates.offsets).max(initial=1))
            run = rerank_run(ranker, dataset, candidates, depth=deepest, device=device, precision=precision)
            run = without_self(run, depth=deepest) if spec.drop_self else run
            return evaluate(run, qrels, [spec.measure]).mean()

        return Validator(measure_pairs, name, every=spec.every, patience=spec.patience)
    doc_ids = list(candidates.docs) if candidates else list(dataset.corpus.ids)
    store = tokens(ranker, dataset.corpus, "doc", cache=dataset.cache)
    some = Rows(store, rows_of(dataset.corpus, doc_ids, "document"))

    depth = max(100, parse(spec.measure)[0].cutoff or 1000)

    def measure() -> dict[str, float]:
        vectors = embed(ranker, some, ids=doc_ids, side="doc", device=device, precision=precision)
        index = exact_index(vectors, device)
        queries = encode_queries(ranker, dataset, qrels.queries, device=device)
        if candidates is not None:
            run = index.score(queries, qrels.queries, pairs=candidates)
        else:
            run = index.search(queries, qrels.queries, k=depth + spec.drop_self)
        run = without_self(run, depth=depth) if spec.drop_self else run
        return evaluate(run, qrels, [spec.measure]).mean()

    return Validator(measure, name, every=spec.every, patience=spec.patience)
