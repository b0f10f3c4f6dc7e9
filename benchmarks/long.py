"""A training step over texts of 512 to 8,192 tokens and batches of 4 to 64, against sentence-transformers' cached loss.

Every cell is a process of its own: a one-layer BERT of MiniLM's width, queries of 32 tokens, one relevant document each
of a quarter of the length to the whole length, negatives in the batch. Both have graphs of at most 16,384 tokens at a
time: sentence-transformers in a mini-batch, ours in those that are kept and the one at work. A cell that passes the
caps is ended; one that would, is not begun: both say so.

    python -m benchmarks long            # all, about 30 minutes
    python -m benchmarks long smoke      # one small cell
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankwright.console import table
from rankwright.storage import write_json, write_text

from .common import RESULTS, machine
from .memory import resident

LENGTHS, BATCHES = (512, 1024, 2048, 4096, 8192), (4, 16, 64)
SECONDS, GIGABYTES = 300.0, 12.0  # a cell's caps
QUERY, AT_ONCE, MICRO = 32, 16384, 4096  # tokens
WHO = ("ST cached", "rankwright")


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[2] != "smoke":
        return _child(json.loads(sys.argv[2]))
    smoke = len(sys.argv) > 2
    lengths, batches = ((64,), (4,)) if smoke else (LENGTHS, BATCHES)
    records: list[dict[str, Any]] = []
    for length in lengths:
        for size in batches:
            for who in WHO:
                cell = {"who": who, "length": length, "size": size}
                records.append(cell | (_foreseen(cell, records) or _measured(cell)))
                print(records[-1], flush=True)
    text = table(["tokens", "batch", *WHO, "speed", "memory"], _rows(records))
    print(text)
    if not smoke:
        facts = machine(["transformers", "sentence-transformers"])
        write_json(RESULTS / "long.json", {"results": records, "machine": facts})
        write_text(RESULTS / "long.txt", f"{text}\n\n{json.dumps(facts, indent=1)}\n")


def _rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """One row a length and batch: each contestant's tokens/s and peak, then ours against theirs."""
    rows = []
    for theirs, ours in zip(records[::2], records[1::2]):
        shown = [r.get("ended") or f"{r['rate']:,.0f}/s, {r['megabytes']:,.0f} MB" for r in (theirs, ours)]
        both = "rate" in theirs and "rate" in ours
        ratios = [f"{ours[of] / theirs[of]:.2f}x" if both else "" for of in ("rate", "megabytes")]
        rows.append([str(theirs["length"]), str(theirs["size"]), *shown, *ratios])
    return rows


def _foreseen(cell: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What to say of a cell that would pass the time cap: a smaller batch of this length took too much of it."""
    smaller = [r for r in records if (r["who"], r["length"]) == (cell["who"], cell["length"])]
    if not smaller:
        return None
    last = smaller[-1]
    if "ended" in last:
        return {"ended": "not begun"}
    seconds = last["seconds"] * cell["size"] / last["size"]
    return {"ended": f"about {seconds:.0f} s: not begun"} if seconds > SECONDS else None


def _measured(cell: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "long", json.dumps(cell)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            time.sleep(0.2)
            if _size(child.pid) > GIGABYTES * 1e9:
                child.kill()
                return {"ended": f"over {GIGABYTES:g} GB"}
            if time.perf_counter() - began > 2 * SECONDS:  # loading included
                child.kill()
                return {"ended": f"over {SECONDS:g} s"}
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
    if child.returncode:
        raise RuntimeError(f"{cell} failed")
    return json.loads(lines[-1])


def _size(pid: int) -> int:
    """Bytes that a process holds; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _child(cell: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    _step(cell["who"], 64, 2)[0]()  # what is imported and allocated once
    work, tokens = _step(cell["who"], cell["length"], cell["size"])
    before, began = resident(), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"megabytes": (top - before) / 1e6, "seconds": seconds, "rate": tokens / seconds}))


def _step(who: str, length: int, size: int) -> tuple[Callable[[], object], int]:
    """One step, and how many tokens it reads."""
    import tempfile

    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from rankwright.models.hub import resolve

    from ._texts import BACKBONE
    from .training import make_batch

    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    tokenizer = AutoTokenizer.from_pretrained(str(resolve(BACKBONE)))
    config = BertConfig(
        num_hidden_layers=1, hidden_size=384, intermediate_size=1536, num_attention_heads=12, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, max_position_embeddings=max(length, 512), vocab_size=len(tokenizer),
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    columns = _columns(tokenizer, length, size)
    tokens = sum(len(text.split()) + 2 for column in columns for text in column)
    if who == "rankwright":
        from rankwright.losses import InfoNCE
        from rankwright.models import Dense
        from rankwright.training import Memory, Objective, Step, Term

        ranker = Dense(folder, query_length=QUERY, doc_length=length, similarity="cosine").load().train()
        batch = make_batch(ranker, columns)
        step = Step(ranker, Objective([Term(InfoNCE(0.05))]), memory=Memory(tokens=MICRO, graph_tokens=AT_ONCE - MICRO))
        return lambda: step(batch, step=0), tokens
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(folder, device="cpu").train()
    model.max_seq_length = length
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=max(1, AT_ONCE // length))
    features = [model.preprocess(column) for column in columns]
    return lambda: loss(features, torch.zeros(size)).backward(), tokens


def _columns(tokenizer: Any, length: int, size: int) -> list[list[str]]:
    """Queries and documents of words that are one token each; documents of length / 4 to length tokens."""
    import numpy as np

    draw = np.random.default_rng(0)
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 3)
    sizes = [[QUERY - 2] * size, draw.integers(length // 4, length - 1, size).tolist()]
    return [[" ".join(draw.choice(words, count)) for count in column] for column in sizes]
