"""Corpus to vectors: length-sorted micro-batches by token budget, one durable shard at a time, restartable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from .. import signals, storage
from ..errors import ResourceError, UsageError
from ..progress import Progress, progress
from ..types import Precision, Side, Texts
from .index import DocIds
from .vectors import Vectors, max_norm, require_finite, shard_name

if TYPE_CHECKING:
    from ..models.ranker import Ranker
else:
    Ranker = Any

Dtype = Literal["float32", "float16"]
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class Team(Protocol):
    """The processes that encode together; each calls the same methods in the same order."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    def told(self, value: Any) -> Any:
        """The first process's plain value."""
        ...

    def gathered(self, rows: np.ndarray) -> list[np.ndarray]:
        """Every process's rows, in rank order."""
        ...


class Alone:
    """One process."""

    rank, world = 0, 1

    def told(self, value: Any) -> Any:
        return value

    def gathered(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows]


class TokenRows(Protocol):
    """What encoding needs of a token store."""

    lengths: np.ndarray
    key: str

    def __len__(self) -> int: ...
    def take(self, rows: np.ndarray) -> Texts: ...


def encode(
    ranker: Ranker,
    tokens: TokenRows,
    folder: Path,
    *,
    ids: Sequence[str],
    side: Side = "doc",
    dtype: Dtype = "float32",
    shard_rows: int = 4096,
    tokens_per_batch: int = 4096,
    device: str = "cpu",
    workers: int | None = None,
    team: Team | None = None,
    precision: Precision = "float32",
) -> Vectors:
    """Represent every row of `tokens` and publish the vectors in `folder`; reuses what is there of the same key.

    A killed encoding goes on behind its last finished shard and ends in the same bytes. So does any number of
    workers or processes: micro-batches are fixed, and each is computed by one thread.

    Args:
        ids: document id of each row.
        shard_rows: rows per file, and what a kill can lose.
        tokens_per_batch: padded tokens (rows x longest) per micro-batch. 1024 to 4096 suit a CPU's cache.
        workers: threads that compute micro-batches; as many as torch has on CPU, one on an accelerator.
        team: processes among which the shards are dealt out; the first of them alone writes. None: this one.
        precision: of the arithmetic, not of what is stored. bf16 is about twice as fast where the device multiplies
            it natively (`auto` finds out), and turns a vector by less than half a degree.

    Raises:
        UsageError: no rows, ids that do not fit, or a precision that this device lacks. DataError: an id occurs twice.
        NonFiniteError: a vector holds NaN or infinity; its shard is not written.
        ResourceError: no memory for a single text, or no disk space.
    """
    from ..models.precision import chosen

    doc_ids = _checked_ids(ids, tokens, dtype, shard_rows)
    arithmetic = chosen(precision, device)
    facts = ["vectors", ranker.fingerprint(side), tokens.key, side, dtype, str(shard_rows), doc_ids.digest()]
    facts += [arithmetic] if arithmetic != "float32" else []
    key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()
    team = team or Alone()
    if team.told(team.rank == 0 and storage.is_current(folder, "vectors", key)):
        return Vectors.open(folder)
    meta: dict[str, Any] = {"rows": len(doc_ids), "dtype": dtype, "shard_rows": shard_rows, "side": side}
    meta["precision"] = arithmetic
    work = _Shards(doc_ids, shard_rows, tokens, tokens_per_batch, dtype, folder)
    with _encoder(ranker, side, device=device, workers=workers, precision=arithmetic) as run, ExitStack() as stack:
        if team.rank:
            work.help(team, run)
        else:
            draft = stack.enter_context(storage.publish(folder, "vectors", key=key, meta=meta, resume=True))
            doc_ids.write(draft)
            work.carry_out(team, run, draft)
    team.told(None)  # it is published
    return Vectors.open(folder)


@dataclass(frozen=True)
class _Shards:
    """The work of one encoding: in each round every process makes one shard, and the first writes them all."""

    ids: DocIds
    size: int
    tokens: TokenRows
    tokens_per_batch: int
    dtype: Dtype
    folder: Path

    def rows(self, shard: int) -> np.ndarray:
        return np.arange(shard * self.size, min((shard + 1) * self.size, len(self.ids)))

    def carry_out(self, team: Team, run: _Run, draft: storage.Draft) -> None:
        """What the first process does; notes `dim` and `max_norm` in the draft."""
        shards = range(-(-len(self.ids) // self.size))
        there = [shard for shard in shards if draft.has(shard_name(shard))]
        missing = team.told(sorted(set(shards) - set(there)))
        arrays = (storage.read_npy(draft.file(shard_name(shard))) for shard in there)
        facts = [(values.shape[1], max_norm(values)) for values in arrays]
        with progress(f"encode {draft.meta['side']}s", len(self.ids), f"{draft.meta['side']}s") as bar:
            bar.skip(sum(len(self.rows(shard)) for shard in there))
            for begin in range(0, len(missing), team.world):
                dealt = missing[begin : begin + team.world]
                for shard, values in zip(dealt, team.gathered(self._made(dealt[0], run, bar))):
                    self._write(shard, values, draft)
                    facts.append((values.shape[1], max_norm(values)))
                bar.advance(sum(len(self.rows(shard)) for shard in dealt[1:]))
        draft.meta |= {"dim": facts[0][0], "max_norm": max(norm for _, norm in facts)}

    def help(self, team: Team, run: _Run) -> None:
        """What the others do."""
        missing = team.told(None)
        with progress("encode", sum(len(self.rows(shard)) for shard in missing), "texts") as bar:
            for begin in range(0, len(missing), team.world):
                dealt = missing[begin : begin + team.world]
                mine = dealt[team.rank : team.rank + 1]
                team.gathered(self._made(mine[0], run, bar) if mine else np.empty((0, 0), self.dtype))

    def _made(self, shard: int, run: _Run, bar: Progress) -> np.ndarray:
        values = run(self.tokens, self.rows(shard), self.tokens_per_batch, bar)
        with np.errstate(over="ignore"):  # what overflows float16 is stopped by the gate
            return values.astype(self.dtype)

    def _write(self, shard: int, values: np.ndarray, draft: storage.Draft) -> None:
        start = shard * self.size
        require_finite(values, self.ids, first=start, shard=shard, where=self.folder)
        storage.require_space(self.folder, (len(self.ids) - start) * values.itemsize * values.shape[1])
        path = draft.file(shard_name(shard))
        storage.write_npy(path, values)
        draft.done(path.name)


def embed(
    ranker: Ranker,
    tokens: TokenRows,
    *,
    ids: Sequence[str],
    side: Side,
    tokens_per_batch: int = 4096,
    device: str = "cpu",
    workers: int | None = None,
    precision: Precision = "float32",
) -> Vectors:
    """The vectors that `encode` would write, kept in memory: for queries and for small corpora."""
    doc_ids = _checked_ids(ids, tokens, "float32", 1)
    title = "encode queries" if side == "query" else "encode docs"
    with (
        progress(title, len(doc_ids), title.removeprefix("encode ")) as bar,
        _encoder(ranker, side, device=device, workers=workers, precision=precision) as run,
    ):
        return Vectors(doc_ids, [run(tokens, np.arange(len(doc_ids)), tokens_per_batch, bar)])


def micro_batches(lengths: Int[np.ndarray, " rows"], tokens_per_batch: int) -> list[np.ndarray]:
    """Rows, longest first, cut so that rows x longest stays within the budget; a longer text travels alone."""
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _checked_ids(ids: Sequence[str], tokens: TokenRows, dtype: str, shard_rows: int) -> DocIds:
    if len(ids) != len(tokens):
        raise UsageError(f"{len(ids)} ids for {len(tokens)} tokenised texts", fix="pass one id per row")
    if len(ids) == 0:
        raise UsageError("there is nothing to encode: no texts", fix="check the corpus or query file")
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r} cannot be stored", fix="use float32 or float16")
    if shard_rows < 1:
        raise UsageError(f"shard_rows must be at least 1, got {shard_rows}")
    return DocIds.of(ids)


_Run = Callable[[TokenRows, np.ndarray, int, Progress], Float[np.ndarray, "rows dim"]]


@contextmanager
def _encoder(ranker: Ranker, side: Side, *, device: str, workers: int | None, precision: Precision) -> Iterator[_Run]:
    """A function that represents rows of a token store on a pool of threads; the ranker is in eval mode meanwhile."""
    import torch

    from ..models.precision import autocast, chosen

    arithmetic = autocast(chosen(precision, device), device)
    threads, training = torch.get_num_threads(), ranker.training
    on_cpu = torch.device(device).type == "cpu"
    ranker.to(device).eval()
    # One intra-op thread per worker, also when there is one worker: a micro-batch's bits must not depend on workers.
    start = torch.set_num_threads if on_cpu else (lambda _: None)
    pool = ThreadPoolExecutor(workers or (threads if on_cpu else 1), "encode", initializer=start, initargs=(1,))

    def represent(tokens: TokenRows, rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), arithmetic():  # per thread, hence here
            return _represent(ranker, side, device, tokens, rows)

    def run(tokens: TokenRows, rows: np.ndarray, tokens_per_batch: int, bar: Progress) -> np.ndarray:
        batches = micro_batches(np.asarray(tokens.lengths[rows]), tokens_per_batch)
        futures = [pool.submit(represent, tokens, rows[batch]) for batch in batches]
        values: np.ndarray | None = None
        for batch, future in zip(batches, futures):
            made = future.result()
            values = np.empty((len(rows), made.shape[1]), np.float32) if values is None else values
            values[batch] = made
            bar.advance(len(batch))
            signals.check()
        assert values is not None
        return values

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        ranker.train(training)


def _represent(ranker: Ranker, side: Side, device: str, tokens: TokenRows, rows: np.ndarray) -> np.ndarray:
    """float32 [rows, dim]; when memory runs out, in two halves."""
    try:
        values = ranker.represent(tokens.take(rows).to(device), side).values
        if values.shape[1] != 1:
            raise UsageError("this ranker has several vectors a text", fix="vectors are for single-vector rankers")
        return values[:, 0].float().cpu().numpy()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        if len(rows) == 1:
            length = int(tokens.lengths[rows[0]])
            raise ResourceError(
                f"no memory to encode row {rows[0]} of {length} tokens", fix="lower the length limit of the model"
            ) from error
    middle = len(rows) // 2
    return np.concatenate([_represent(ranker, side, device, tokens, half) for half in np.split(rows, [middle])])
