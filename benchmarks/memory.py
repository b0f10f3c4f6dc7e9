"""Peak memory of a training step over the length of texts and over the batch, each cell in its own process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rankwright.console import table
from rankwright.storage import write_json, write_text

from .common import RESULTS, machine

WORDS = 32
BATCHES = (64, 512, 4096)
LENGTHS = (1024, 4096)


def main() -> None:
    if len(sys.argv) > 2:
        return _child(json.loads(sys.argv[2]))
    records = []
    for length in LENGTHS:
        for who in ("transformers", "transformers, checkpointing", "rankwright"):
            records.append(_measured({"cell": "length", "who": who, "length": length}))
    for size in BATCHES:
        for who in ("ST cached", "rankwright"):
            records.append(_measured({"cell": "batch", "who": who, "size": size}))
    publish(records)


def publish(records: list[dict[str, Any]]) -> None:
    """The table, printed and written."""
    rows = []
    for record in records:
        what = f"{record['length']} tokens" if record["cell"] == "length" else f"batch of {record['size']}"
        rows.append([what, record["who"], f"{record['megabytes']:.0f} MB", f"{record['seconds']:.2f} s"])
    text = table(["cell", "who", "peak above what was loaded", "time"], rows)
    print(text)
    facts = machine(["transformers", "sentence-transformers"])
    write_json(RESULTS / "memory.json", {"results": records, "machine": facts})
    write_text(RESULTS / "memory.txt", f"{text}\n\n{json.dumps(facts, indent=1)}\n")


def _measured(cell: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "memory", json.dumps(cell)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = cell | json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def _child(cell: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    work = _length(cell["who"], cell["length"]) if cell["cell"] == "length" else _batch(cell["who"], cell["size"])
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
    import torch
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

    import torch
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
