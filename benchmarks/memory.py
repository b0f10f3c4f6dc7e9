"""Peak memory of a training step over the length of texts, over the batch, and with and without cached gradients.

    python -m benchmarks memory [--only length|batch|caching]

Every cell is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from rankwright.console import table
from rankwright.storage import write_json, write_text

from .common import RESULTS, machine

WORDS = 32
BATCHES = (64, 512, 4096)
LENGTHS = (1024, 4096)
QUESTIONS = (16, 64, 256)  # each with a relevant passage and a hard negative
KEPT, CACHED = "all graphs kept", "cached gradients"


def main() -> None:
    works = {"length": _length, "batch": _batch, "caching": _caching}
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--only", choices=works, help="measure it anew, keep the others as they were")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(sys.argv[2:])
    if given.child:
        cell = json.loads(given.child)
        torch.set_num_threads(1)
        return _child(works[cell["cell"]](cell["who"], cell["size"]))
    sizes = {"length": LENGTHS, "batch": BATCHES, "caching": QUESTIONS}
    peers = ("transformers", "transformers, checkpointing", "rankwright")
    contestants = {"length": peers, "batch": ("ST cached", "rankwright"), "caching": (KEPT, CACHED)}
    kept = RESULTS / "memory.json"
    found = json.loads(kept.read_text())["results"] if given.only and kept.exists() else []
    records = [record for record in found if record["cell"] != given.only]
    for what in [given.only] if given.only else works:
        for size in sizes[what]:
            records += [_measured({"cell": what, "who": who, "size": size}) for who in contestants[what]]
    publish(records)


def publish(records: list[dict[str, Any]]) -> None:
    """The table, printed and written."""
    names = {"length": "{} tokens", "batch": "batch of {}", "caching": "{} questions"}
    rows = []
    for record in records:
        what = names[record["cell"]].format(record["size"])
        rows.append([what, record["who"], f"{record['megabytes']:.0f} MB", f"{record['seconds']:.2f} s"])
    text = table(["cell", "who", "peak above what was loaded", "time"], rows)
    print(text)
    facts = machine(["transformers", "sentence-transformers"])
    write_json(RESULTS / "memory.json", {"results": records, "machine": facts})
    write_text(RESULTS / "memory.txt", f"{text}\n\n{json.dumps(facts, indent=1)}\n")


def _measured(cell: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "memory", "--child", json.dumps(cell)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = cell | json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def _child(work: Callable[[], object]) -> None:
    before = resident()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"megabytes": (top - before) / 1e6, "seconds": seconds}))


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _length(who: str, length: int) -> Callable[[], object]:
    """Forward and backward of a 6-layer BERT over one text of `length` tokens and one of a quarter of that."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=6, hidden_size=384, intermediate_size=1536, num_attention_heads=12, vocab_size=1000,
        max_position_embeddings=length, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).train()
    sizes = torch.tensor([length, length // 4])
    ids = torch.randint(1, 1000, (int(sizes.sum()),))
    if who == "rankwright":
        from rankwright.models.hidden import adopt_packing, token_vectors
        from rankwright.models.lean import mark_activations, slim
        from rankwright.models.packing import Packing
        from rankwright.types import Texts

        assert adopt_packing(model) == "packed"
        mark_activations(model)
        texts = Texts(ids, torch.tensor([0, length, length + length // 4]))

        def ours() -> None:
            with slim():
                hidden = token_vectors(model, texts, Packing(texts.offsets))
            hidden.square().sum().backward()

        return ours
    if "checkpointing" in who:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    padded = torch.zeros(2, length, dtype=torch.int64)
    padded[0], padded[1, : length // 4] = ids[:length], ids[length:]
    mask = torch.arange(length) < sizes[:, None]

    def theirs() -> None:
        model(input_ids=padded, attention_mask=mask.long()).last_hidden_state[mask].square().sum().backward()

    return theirs


def _batch(who: str, size: int) -> Callable[[], object]:
    """A contrastive step of a one-layer encoder over `size` queries with two documents each, cut at 32 tokens."""
    import tempfile

    from transformers import AutoTokenizer, BertConfig, BertModel

    from rankwright.models.hub import resolve

    from ._texts import BACKBONE
    from .training import make_batch

    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    config = BertConfig(
        num_hidden_layers=1, hidden_size=384, intermediate_size=1536, num_attention_heads=12, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(resolve(BACKBONE))).save_pretrained(folder)
    columns = _columns(size)
    if who == "rankwright":
        from rankwright.losses import InfoNCE
        from rankwright.models import Dense
        from rankwright.training import Memory, Objective, Step, Term

        ranker = Dense(folder, query_length=WORDS, doc_length=WORDS, similarity="cosine").load().train()
        batch = make_batch(ranker, columns)
        step = Step(ranker, Objective([Term(InfoNCE(0.05))]), memory=Memory(tokens=1024, graph_tokens=0))
        return lambda: step(batch, step=0)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(folder, device="cpu").train()
    model.max_seq_length = WORDS
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=32)
    return lambda: loss([model.preprocess(c) for c in columns], torch.zeros(size)).backward()


def _caching(who: str, size: int) -> Callable[[], object]:
    """A step of MiniLM on SciFact's queries, each with a relevant document and another, all documents contrasted."""
    from rankwright.losses import InfoNCE
    from rankwright.models import Dense
    from rankwright.training import Memory, Objective, Step, Term

    from ._texts import BACKBONE, tuples
    from .training import make_batch

    ranker = Dense(BACKBONE, query_length=256, doc_length=256, similarity="cosine").load().train()
    batch = make_batch(ranker, tuples("bundled:scifact", size))
    memory = Memory(tokens=4096, graph_tokens=0 if who == CACHED else 1 << 40)
    step = Step(ranker, Objective([Term(InfoNCE(0.05), "batch")]), memory=memory)
    return lambda: step(batch, step=0)


def _columns(size: int) -> list[list[str]]:
    """Three columns of sentences, all different: pieces of SciFact's abstracts."""
    from rankwright.data import Dataset

    corpus = Dataset.open("bundled:scifact").corpus
    pieces: list[str] = []
    row = 0
    while len(pieces) < 3 * size:
        words = corpus[row].text.split()
        pieces += [" ".join(words[i : i + 30]) for i in range(0, len(words) - 9, 30)]
        row += 1
    return [pieces[i * size : (i + 1) * size] for i in range(3)]
