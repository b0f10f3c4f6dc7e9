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
from .token_vectors import KIND as MANY
from .token_vectors import TokenVectors, lengths_name, spans
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

    @property
    def lengths(self) -> np.ndarray: ...

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
) -> Vectors | TokenVectors:
    """Represent every row of `tokens` and publish the vectors in `folder`; reuses what is there of the same key.

    A ranker with one vector a text makes `Vectors`, one with many `TokenVectors`, whose masked tokens are left out.

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

    doc_ids = _checked_ids(ranker, ids, tokens, dtype, shard_rows)
    arithmetic = chosen(precision, device)
    many = ranker.vectors_per_text == "many"
    kind, opened = (MANY, TokenVectors.open) if many else ("vectors", Vectors.open)
    facts = [kind, ranker.fingerprint(side), tokens.key, side, dtype, str(shard_rows), doc_ids.digest()]
    facts += [arithmetic] if arithmetic != "float32" else []
    key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()
    team = team or Alone()
    if team.told(team.rank == 0 and storage.is_current(folder, kind, key)):
        return opened(folder)
    meta: dict[str, Any] = {"rows": len(doc_ids), "dtype": dtype, "shard_rows": shard_rows, "side": side}
    meta |= {"precision": arithmetic} | ({"best_of": ranker.best_of} if many else {})
    work = _Shards(doc_ids, shard_rows, tokens, tokens_per_batch, dtype, folder, many)
    with encoder(ranker, side, device=device, workers=workers, precision=arithmetic) as run, ExitStack() as stack:
        if team.rank:
            work.help(team, run)
        else:
            draft = stack.enter_context(storage.publish(folder, kind, key=key, meta=meta, resume=True))
            doc_ids.write(draft)
            work.carry_out(team, run, draft)
    team.told(None)  # it is published
    return opened(folder)


@dataclass(frozen=True)
class _Shards:
    """The work of one encoding: in each round every process makes one shard, and the first writes them all."""

    ids: DocIds
    size: int
    tokens: TokenRows
    tokens_per_batch: int
    dtype: Dtype
    folder: Path
    many: bool  # vectors a text: their numbers are written beside them

    def rows(self, shard: int) -> np.ndarray:
        return np.arange(shard * self.size, min((shard + 1) * self.size, len(self.ids)))

    def carry_out(self, team: Team, run: _Run, draft: storage.Draft) -> None:
        """What the first process does; notes `dim` and `max_norm` in the draft."""
        shards = range(-(-len(self.ids) // self.size))
        there = [shard for shard in shards if all(map(draft.has, self._files(shard)))]
        missing = team.told(sorted(set(shards) - set(there)))
        arrays = (storage.read_npy(draft.file(shard_name(shard))) for shard in there)
        facts = [(values.shape[1], max_norm(values)) for values in arrays]
        with progress(f"encode {draft.meta['side']}s", len(self.ids), f"{draft.meta['side']}s") as bar:
            bar.skip(sum(len(self.rows(shard)) for shard in there))
            for begin in range(0, len(missing), team.world):
                dealt = missing[begin : begin + team.world]
                for shard, (values, lengths) in zip(dealt, self._gathered(team, self._made(dealt[0], run, bar))):
                    self._write(shard, values, lengths, draft)
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
                nothing = np.empty((0, 0), self.dtype), np.empty(0, np.int64)
                self._gathered(team, self._made(mine[0], run, bar) if mine else nothing)

    def _files(self, shard: int) -> list[str]:
        return [lengths_name(shard), shard_name(shard)] if self.many else [shard_name(shard)]

    def _gathered(self, team: Team, made: _Ragged) -> list[_Ragged]:
        values = team.gathered(made[0])
        if not self.many:
            return [(part, np.ones(len(part), np.int64)) for part in values]
        return [(part, lengths[:, 0]) for part, lengths in zip(values, team.gathered(made[1][:, None]))]

    def _made(self, shard: int, run: _Run, bar: Progress) -> _Ragged:
        values, lengths = run(self.tokens, self.rows(shard), self.tokens_per_batch, bar)
        with np.errstate(over="ignore"):  # what overflows float16 is stopped by the gate
            return values.astype(self.dtype), lengths

    def _write(self, shard: int, values: np.ndarray, lengths: np.ndarray, draft: storage.Draft) -> None:
        start = shard * self.size
        starts = np.cumsum(lengths) - lengths
        sums = np.add.reduceat(values, starts, axis=0, dtype=np.float32) if self.many else values
        require_finite(sums, self.ids, first=start, shard=shard, where=self.folder)
        left = (len(self.ids) - start) / len(lengths)  # shards like this one
        storage.require_space(self.folder, int(left * values.nbytes))
        for name, array in zip(reversed(self._files(shard)), (values, lengths.astype(np.int32))):
            storage.write_npy(draft.file(name), array)
            draft.done(name)


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
) -> Vectors | TokenVectors:
    """The vectors that `encode` would write, kept in memory: for queries and for small corpora."""
    doc_ids = _checked_ids(ranker, ids, tokens, "float32", 1)
    title = "encode queries" if side == "query" else "encode docs"
    with (
        progress(title, len(doc_ids), title.removeprefix("encode ")) as bar,
        encoder(ranker, side, device=device, workers=workers, precision=precision) as run,
    ):
        values, lengths = run(tokens, np.arange(len(doc_ids)), tokens_per_batch, bar)
    many = ranker.vectors_per_text == "many"
    return TokenVectors(doc_ids, [(values, lengths)], best_of=ranker.best_of) if many else Vectors(doc_ids, [values])


def micro_batches(lengths: Int[np.ndarray, " rows"], tokens_per_batch: int) -> list[np.ndarray]:
    """Rows, longest first, cut so that rows x longest stays within the budget; a longer text travels alone."""
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _checked_ids(ranker: Ranker, ids: Sequence[str], tokens: TokenRows, dtype: str, shard_rows: int) -> DocIds:
    if ranker.vectors_per_text == "none":
        fix = "re-rank a first stage's run with it: `rankwright rerank`"
        raise UsageError("a cross-encoder reads pairs: it has no vectors to search", fix=fix)
    if len(ids) != len(tokens):
        raise UsageError(f"{len(ids)} ids for {len(tokens)} tokenised texts", fix="pass one id per row")
    if len(ids) == 0:
        raise UsageError("there is nothing to encode: no texts", fix="check the corpus or query file")
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r} cannot be stored", fix="use float32 or float16")
    if shard_rows < 1:
        raise UsageError(f"shard_rows must be at least 1, got {shard_rows}")
    return DocIds.of(ids)


_Ragged = tuple[Float[np.ndarray, "vectors dim"], Int[np.ndarray, " rows"]]  # vectors in row order, how many a row has
_Run = Callable[[TokenRows, np.ndarray, int, Progress], _Ragged]


@contextmanager
def encoder(ranker: Ranker, side: Side, *, device: str, workers: int | None, precision: Precision) -> Iterator[_Run]:
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

    def represent(tokens: TokenRows, rows: np.ndarray) -> _Ragged:
        with torch.inference_mode(), arithmetic():  # per thread, hence here
            return _represent(ranker, side, device, tokens, rows)

    def run(tokens: TokenRows, rows: np.ndarray, tokens_per_batch: int, bar: Progress) -> _Ragged:
        batches = micro_batches(np.asarray(tokens.lengths[rows]), tokens_per_batch)
        futures = [pool.submit(represent, tokens, rows[batch]) for batch in batches]
        lengths, made = np.empty(len(rows), np.int64), []
        for batch, future in zip(batches, futures):
            values, lengths[batch] = future.result()
            made.append(values)
            bar.advance(len(batch))
            signals.check()
        del futures
        starts, together = np.cumsum(lengths) - lengths, np.empty((int(lengths.sum()), made[0].shape[1]), np.float32)
        for batch in reversed(batches):  # each part is dropped when it is in its place
            together[spans(starts[batch], lengths[batch])] = made.pop()
        return together, lengths

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        ranker.train(training)


def _represent(ranker: Ranker, side: Side, device: str, tokens: TokenRows, rows: np.ndarray) -> _Ragged:
    """float32 vectors of the rows, without masked tokens; when memory runs out, in two halves."""
    try:
        reps = ranker.represent(tokens.take(rows).to(device), side)
        return reps.values[reps.mask].float().cpu().numpy(), reps.mask.sum(1).cpu().numpy()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        if len(rows) == 1:
            length = int(tokens.lengths[rows[0]])
            raise ResourceError(
                f"no memory to encode row {rows[0]} of {length} tokens", fix="lower the length limit of the model"
            ) from error
    halves = [_represent(ranker, side, device, tokens, half) for half in np.split(rows, [len(rows) // 2])]
    return np.concatenate([values for values, _ in halves]), np.concatenate([lengths for _, lengths in halves])
