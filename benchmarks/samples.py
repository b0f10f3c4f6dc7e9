"""Random training samples from memory-mapped stores against ByteDataset's reading and unpickling; memory a process."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.console import table
from rankwright.data import Corpus, TokenStore
from rankwright.types import Document

from .common import Cell, interleave, publish

OURS = "rankwright"
BATCH, VOCABULARY = 128, 30_000
WORDS, TOKENS = 100, 130  # of a passage, as DPR cuts them; a question has a tenth
DOCS = 2  # passages a sample: a relevant one and a hard negative


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks samples", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40, help=f"of {BATCH} samples, each round")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args([a for a in sys.argv[1:] if a != "samples"])
    if args.child:
        return _child(**json.loads(args.child))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        make(Path(folder), args.samples)
        made = time.perf_counter() - began
        sizes = {path.name: _size(path) for path in sorted(Path(folder).iterdir())}
        cells = [
            timed(Path(folder), what, args.samples, batches=args.batches, rounds=args.rounds)
            for what in ("texts", "token ids")
        ]
        memory = [_memory(Path(folder), who, args.samples, args.processes) for who in READERS]
    rates = {
        f"{cell.task}: {who}": round(BATCH * args.batches / float(np.median(seconds)))
        for cell in cells
        for who, seconds in cell.seconds.items()
    }
    rows = [[row["reader"], *(f"{row[k]:.1f} MB" for k in ("own", "shared"))] for row in memory]
    notes = {
        "samples": args.samples, "texts a sample": 1 + DOCS, "tokens a passage": TOKENS, "bytes on disk": sizes,
        "samples a second": rates, "seconds to make": round(made), "memory of each extra process": memory,
    }  # fmt: skip
    publish("samples", cells, ours=OURS, packages=["tokenizers"], notes=notes)
    print(table(["samples a second", ""], [[name, f"{rate:,}"] for name, rate in rates.items()]))
    print(table(["each extra process", "memory of its own", "mapped, shared"], rows))


# --- the data: the same samples in each layout ------------------------------------------------------------------------


def make(folder: Path, samples: int) -> None:
    """Random words: `samples` questions, each with its passages, as ByteDatasets, as a corpus and as tokens."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(5000)]
    pool = [" ".join(words[i] for i in rng.integers(0, 5000, WORDS)) for _ in range(4096)]
    ids = rng.integers(5, VOCABULARY, TOKENS + 4096).astype(np.int64)

    def text(row: int) -> str:  # every text is another: a number, then words from a pool
        return f"{row} {pool[row % 4096]}"

    def tokens(row: int, length: int) -> np.ndarray:
        return ids[row % 4096 : row % 4096 + length]

    def records() -> Iterator[dict[str, Any]]:
        for i in range(samples):
            docs = [{"title": f"title {d}", "text": text(d)} for d in range(DOCS * i, DOCS * i + DOCS)]
            yield {"sample_id": i, "questions": [f"what is {i}"], "positive_contexts": docs[:1],
                   "hardneg_contexts": docs[1:]}  # fmt: skip

    def token_records() -> Iterator[dict[str, Any]]:
        for i in range(samples):
            docs = [tokens(d, TOKENS).tolist() for d in range(DOCS * i, DOCS * i + DOCS)]
            yield {"sample_id": i, "questions": [tokens(i, TOKENS // 10).tolist()], "positive_contexts": docs[:1],
                   "hardneg_contexts": docs[1:]}  # fmt: skip

    _write_bytes(folder / "bytes", records())
    _write_bytes(folder / "token-bytes", token_records())
    Corpus.build(folder / "docs", (Document(str(d), f"title {d}", text(d)) for d in range(DOCS * samples)), key="1")
    Corpus.build(folder / "queries", (Document(str(i), "", f"what is {i}") for i in range(samples)), key="1")
    for name, rows, length in (("doc-tokens", DOCS * samples, TOKENS), ("query-tokens", samples, TOKENS // 10)):

        def tokenise(chunk: list[str], length: int = length) -> Any:
            return _Made(np.concatenate([tokens(int(row), length) for row in chunk]), length)

        TokenStore.build(folder / name, _Rows(rows), tokenise, key="1", vocabulary=VOCABULARY)


def _write_bytes(folder: Path, records: Iterator[dict[str, Any]]) -> None:
    """A ByteDataset: pickles one behind the other; a count of 4 bytes, then an offset of 6 bytes for each."""
    folder.mkdir()
    offsets, place = [], 0
    with (folder / "data.pkl").open("wb") as file:
        for record in records:
            offsets.append(place)
            place += file.write(pickle.dumps(record))
    places = b"".join(offset.to_bytes(6, "big") for offset in offsets)
    (folder / "idxs.pkl").write_bytes(len(offsets).to_bytes(4, "big") + places)


class _Rows:
    """The numbers of rows as texts, for a tokenizer that looks rows up."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int, /) -> str:
        return str(row)


class _Made:
    """Token ids of texts that are equally long."""

    def __init__(self, values: np.ndarray, length: int) -> None:
        self.values, self.offsets = values, np.arange(0, len(values) + 1, length)


# --- the readers: rows of samples -> the texts or token ids of one batch ----------------------------------------------

Reader = Callable[[np.ndarray], object]


class _ByteDataset:
    """Random access as the layout was made for: read the offset, go there, unpickle; files stay open."""

    def __init__(self, folder: Path) -> None:
        self.index, self.data = (folder / "idxs.pkl").open("rb"), (folder / "data.pkl").open("rb")

    def __getitem__(self, row: int) -> dict[str, Any]:
        self.index.seek(4 + 6 * row)
        self.data.seek(int.from_bytes(self.index.read(6), "big"))
        return pickle.load(self.data)  # noqa: S301 - our own file, to time what it costs


def _unpickled(folder: Path, name: str = "bytes") -> Reader:
    samples = _ByteDataset(folder / name)
    return lambda rows: [samples[row] for row in rows.tolist()]


def _unpickled_ids(folder: Path) -> Reader:
    samples = _ByteDataset(folder / "token-bytes")

    def batch(rows: np.ndarray) -> object:
        found = [samples[row] for row in rows.tolist()]
        questions = [np.array(sample["questions"][0], np.int64) for sample in found]
        docs = [
            np.array(ids, np.int64) for s in found for ids in (*s["positive_contexts"], *s["hardneg_contexts"])
        ]  # fmt: skip
        return [(np.concatenate(part), np.cumsum([0, *map(len, part)])) for part in (questions, docs)]

    return batch


def _tokenised(folder: Path) -> Reader:
    """Texts are unpickled and tokenised at each access, as where `cached` tokens are not made beforehand."""
    from tokenizers import Tokenizer

    samples = _ByteDataset(folder / "bytes")
    tokenizer = Tokenizer.from_file(str(Path(__file__).parents[1] / "tests" / "tiny" / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)

    def batch(rows: np.ndarray) -> object:
        found = [samples[row] for row in rows.tolist()]
        docs = [c["text"] for s in found for c in (*s["positive_contexts"], *s["hardneg_contexts"])]
        return [tokenizer.encode_batch(texts) for texts in ([s["questions"][0] for s in found], docs)]

    return batch


def _mapped_texts(folder: Path) -> Reader:
    queries, docs = Corpus.open(folder / "queries"), Corpus.open(folder / "docs")

    def batch(rows: np.ndarray) -> object:
        return queries.take(rows), docs.take((DOCS * rows[:, None] + np.arange(DOCS)).ravel())

    return batch


def _mapped_ids(folder: Path) -> Reader:
    queries, docs = TokenStore.open(folder / "query-tokens"), TokenStore.open(folder / "doc-tokens")

    def batch(rows: np.ndarray) -> object:
        return queries.take(rows), docs.take((DOCS * rows[:, None] + np.arange(DOCS)).ravel())

    return batch


READERS: dict[str, Callable[[Path], Reader]] = {
    "ByteDataset, texts": _unpickled, "ByteDataset, token ids": _unpickled_ids, "ByteDataset, tokenised": _tokenised,
    f"{OURS}, texts": _mapped_texts, f"{OURS}, token ids": _mapped_ids,
}  # fmt: skip
TASKS = {
    "texts": {"ByteDataset": _unpickled, OURS: _mapped_texts},
    "token ids": {"ByteDataset of ids": _unpickled_ids, "ByteDataset, tokenised": _tokenised, OURS: _mapped_ids},
}


def timed(folder: Path, task: str, samples: int, *, batches: int, rounds: int) -> Cell:
    """Seconds for so many batches of `BATCH` random samples."""
    asked = np.random.default_rng(1).integers(0, samples, (batches, BATCH))

    def over(reader: Reader) -> Callable[[], None]:
        def work() -> None:
            for rows in asked:
                reader(rows)

        return work

    return interleave(task, {name: over(make(folder)) for name, make in TASKS[task].items()}, rounds=rounds)


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory(folder: Path, reader: str, samples: int, processes: int) -> dict[str, Any]:
    """Mean over processes that live at the same time: what reading 20,000 random samples added to each."""
    command = [sys.executable, "-m", "benchmarks", "samples", "--child"]
    given = [
        json.dumps({"folder": str(folder), "reader": reader, "samples": samples, "seed": n}) for n in range(processes)
    ]
    started = [
        subprocess.Popen([*command, one], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in given
    ]
    found = [json.loads(process.stdout.readline()) for process in started if process.stdout]
    for process in started:  # each waits until all have measured
        process.communicate("\n")
    return {"reader": reader, **{key: sum(one[key] for one in found) / len(found) for key in found[0]}}


def _child(*, folder: str, reader: str, samples: int, seed: int) -> None:
    import torch  # noqa: F401 - every training process has it

    rng = np.random.default_rng(seed)
    READERS["ByteDataset, texts"](Path(folder))(rng.integers(0, samples, 8))  # what is imported on the way
    before = _status()
    read = READERS[reader](Path(folder))
    for _ in range(min(20_000, 10 * samples) // BATCH):
        read(rng.integers(0, samples, BATCH))
    after = _status()
    print(json.dumps({name: (after[name] - before[name]) / 1e6 for name in after}), flush=True)
    sys.stdin.readline()


def _status() -> dict[str, int]:
    """Bytes of this process: anonymous memory is its own, pages of files are the system's and shared."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 for name, key in (("own", "RssAnon"), ("shared", "RssFile"))}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
