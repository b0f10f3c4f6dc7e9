"""Writes the model folder that everybody reads: sentence-transformers' dialect from before 5.4, safetensors only.

The root is also a plain Hugging Face checkpoint. Our own `rankwright.json` adds what that dialect cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import storage
from ..types import Side
from .encoder import Encoder
from .folders import ACTIVATION_NAMES, FORMAT, POOLING_FLAGS, POOLING_NAMES, SETTINGS
from .long import Chunks

_TYPE = "sentence_transformers.models."
_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, dense-retrieval, rankwright]
---
# A dense retriever trained with Rankwright

One vector of {width} dimensions per text, compared by {similarity}. At most {query_length} tokens of a query and
{doc_length} of a document are read. Documents were written as `{template}`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name!r})
queries = model.encode_query(["a question"])
docs = model.encode_document([{example!r}])
scores = model.similarity(queries, docs)
```

| | |
| --- | --- |
| query prompt | `{query_prompt}` |
| document prompt | `{doc_prompt}` |
| pooling | {pooling} |
| architecture | {architecture} |
"""


@dataclass(frozen=True)
class Facts:
    """What a ranker knows beyond its encoders."""

    cosine: bool
    template: str
    prompts: dict[Side, str]
    lengths: dict[Side, int]
    query_cut: str | None = None  # None: as the tokenizer does it
    chunks: Chunks | None = None

    @property
    def longest(self) -> int:
        """Tokens that the model reads at once."""
        doc = self.lengths["doc"] if self.chunks is None else self.chunks.length
        return max(self.lengths["query"], doc)


def write_pair(folder: Path, encoders: Mapping[Side, Encoder], facts: Facts) -> None:
    """Separate encoders: a whole model folder for each side, in subfolders."""
    for side, encoder in encoders.items():
        write_encoder(folder / side, encoder, facts)
    places = {side: side for side in encoders}
    storage.write_json(folder / SETTINGS, {"format": FORMAT, "kind": "Dense", "encoders": places})
    text = "# A dense retriever with separate encoders\n\n`query/` and `doc/` are sentence-transformers folders.\n"
    storage.write_text(folder / "README.md", text)


def write_encoder(folder: Path, encoder: Encoder, facts: Facts) -> None:
    """One encoder's folder."""
    kind = write_checkpoint(folder, encoder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    storage.write_json(folder / "1_Pooling" / "config.json", _pooling(encoder))
    for weight, bias, activation in _heads(encoder):
        place = f"{len(modules)}_Dense"
        modules.append(("Dense", place))
        write_head(folder / place, weight, bias, activation)
    if facts.cosine:
        place = f"{len(modules)}_Normalize"
        modules.append(("Normalize", place))
        storage.write_json(folder / place / "config.json", {})
    write_modules(folder, [(_TYPE + name, path) for name, path in modules])
    lengths = {"max_seq_length": facts.longest, "do_lower_case": encoder.tokenizer.lower_case}
    storage.write_json(folder / "sentence_bert_config.json", lengths)
    general = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": facts.prompts["query"], "document": facts.prompts["doc"]},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if facts.cosine else "dot",
    }
    storage.write_json(folder / "config_sentence_transformers.json", general)
    own: dict[str, object] = {f"{side}_length": length for side, length in facts.lengths.items()}
    own |= {"query_cut": facts.query_cut} if facts.query_cut else {}
    own |= {"chunks": asdict(facts.chunks)} if facts.chunks else {}
    storage.write_json(folder / SETTINGS, {"format": FORMAT, "kind": "Dense", "template": facts.template, **own})
    storage.write_text(folder / "README.md", _card(encoder, facts, kind))


def write_checkpoint(folder: Path, encoder: Encoder) -> str:
    """Weights, config and tokenizer as a plain Hugging Face checkpoint; its architecture."""
    weights = encoder.weights()
    kind = type(encoder.backbone).__name__
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    storage.write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    storage.write_json(folder / "config.json", encoder.config | {"architectures": [kind], "dtype": dtype})
    for name, content in encoder.tokenizer.files.items():
        storage.write_bytes(folder / name, content)
    return kind


def write_modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    """`modules.json` from the (type, path) of each module."""
    rows = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    storage.write_json(folder / "modules.json", rows)


def _pooling(encoder: Encoder) -> dict[str, object]:
    ours = {name: POOLING_NAMES.get(mode) == encoder.pooling for name, mode in POOLING_FLAGS.items()}
    mode = next(POOLING_FLAGS[name] for name, on in ours.items() if on)
    size = {"word_embedding_dimension": encoder.hidden}
    return {**size, **ours, "include_prompt": encoder.include_prompt, "pooling_mode": mode}


def _heads(encoder: Encoder) -> list[tuple[Tensor, Tensor | None, str]]:
    """(weight, bias, activation) of each linear layer; kept dimensions become a linear layer that selects them.

    So every reader truncates before it normalises, as we do. The `truncate_dim` of sentence-transformers comes after
    the normalisation and few readers know it.
    """
    heads: list[tuple[Tensor, Tensor | None, str]] = [
        (head.linear.weight, head.linear.bias, head.activation) for head in encoder.projections
    ]
    if encoder.dims is None:
        return heads
    if heads and heads[-1][2] == "Identity":
        weight, bias, _ = heads[-1]
        heads[-1] = (weight[: encoder.dims], None if bias is None else bias[: encoder.dims], "Identity")
        return heads
    first = next(encoder.backbone.parameters())
    inputs = heads[-1][0].shape[0] if heads else encoder.hidden
    return [*heads, (torch.eye(encoder.dims, inputs, dtype=first.dtype), None, "Identity")]


def write_head(folder: Path, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    """A linear layer as a `Dense` module."""
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": ACTIVATION_NAMES[activation],
    }
    storage.write_json(folder / "config.json", config)
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    storage.write_tensors(folder / "model.safetensors", tensors)


def _card(encoder: Encoder, facts: Facts, architecture: str) -> str:
    return _CARD.format(
        width=encoder.width,
        similarity="cosine" if facts.cosine else "dot product",
        query_length=facts.lengths["query"],
        doc_length=facts.lengths["doc"],
        template=facts.template,
        name="path/of/this/folder",
        example=facts.template.format(title="a title", text="and the text of a document"),
        query_prompt=facts.prompts["query"],
        doc_prompt=facts.prompts["doc"],
        pooling=encoder.pooling,
        architecture=architecture,
    )
