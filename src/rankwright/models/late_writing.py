"""Writes the late-interaction folder that PyLate and sentence-transformers 6 read; safetensors only.

PyLate knows token vectors of length 1 only: for others the folder is one of sentence-transformers 6.
The root is also a plain Hugging Face checkpoint. Our own `rankwright.json` adds what that dialect cannot say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from .. import storage
from ..types import Side
from .encoder import Encoder
from .folders import FORMAT, SETTINGS
from .late_folders import GENERAL
from .long import Chunks
from .writing import write_checkpoint, write_head, write_modules

_CARD = """\
---
library_name: PyLate
pipeline_tag: sentence-similarity
tags: [ColBERT, PyLate, sentence-transformers, late-interaction, rankwright]
---
# A late-interaction retriever trained with Rankwright

One vector of {width} dimensions per token{norm}, compared by MaxSim. Queries have {query_length} tokens,
of a document at most {doc_length} are read. Documents were written as `{template}`.

```python
from sentence_transformers import MultiVectorEncoder  # version 6{or_pylate}

model = MultiVectorEncoder("path/of/this/folder")
queries = model.encode_query(["a question"])
docs = model.encode_document([{example!r}])
scores = model.similarity(queries, docs)
```

| | |
| --- | --- |
| query marker, prompt | `{query_marker}`, `{query_prompt}` |
| document marker, prompt | `{doc_marker}`, `{doc_prompt}` |
| query expansion | {expansion} |
| architecture | {architecture} |
"""


_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"


@dataclass(frozen=True)
class LateFacts:
    """What a late-interaction ranker knows beyond its encoder."""

    cosine: bool
    template: str
    prompts: dict[Side, str]
    markers: dict[Side, str]
    lengths: dict[Side, int]
    expansion: bool
    attend: bool
    skiplist: tuple[str, ...]
    query_cut: str | None = None  # None: as the tokenizer does it
    chunks: Chunks | None = None


def write_late(folder: Path, encoder: Encoder, facts: LateFacts) -> None:
    """The whole model folder."""
    kind = write_checkpoint(folder, encoder)
    modules = [("sentence_transformers.models.Transformer", "")]
    for head in encoder.projections:
        place = f"{len(modules)}_Dense"
        modules.append(("pylate.models.Dense.Dense", place))
        write_head(folder / place, head.linear.weight, head.linear.bias, head.activation)
    if not facts.cosine:  # stated modules in place of PyLate's implied ones, which end in Normalize
        modules.append((_MASK, f"{len(modules)}_MultiVectorMask"))
        storage.write_json(folder / modules[-1][1] / "config.json", {"skiplist_words": list(facts.skiplist)})
    write_modules(folder, modules)
    at_once = facts.lengths["doc"] if facts.chunks is None else facts.chunks.length
    lengths = {"max_seq_length": max(facts.lengths["query"], at_once), "do_lower_case": encoder.tokenizer.lower_case}
    storage.write_json(folder / "sentence_bert_config.json", lengths)
    general = {
        "model_type": "ColBERT" if facts.cosine else "MultiVectorEncoder",
        "prompts": {"query": facts.prompts["query"], "document": facts.prompts["doc"]},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": facts.markers["query"],
        "document_prefix": facts.markers["doc"],
        "query_length": facts.lengths["query"],
        "document_length": at_once,
        "do_query_expansion": facts.expansion,
        "attend_to_expansion_tokens": facts.attend,
        "skiplist_words": list(facts.skiplist),
    }
    storage.write_json(folder / GENERAL, general)
    own: dict[str, object] = {"query_cut": facts.query_cut} if facts.query_cut else {}
    own |= {"chunks": asdict(facts.chunks), "doc_length": facts.lengths["doc"]} if facts.chunks else {}
    storage.write_json(folder / SETTINGS, {"format": FORMAT, "kind": "Late", "template": facts.template, **own})
    storage.write_text(folder / "README.md", _card(encoder, facts, kind))


def _card(encoder: Encoder, facts: LateFacts, architecture: str) -> str:
    attended = "attended to" if facts.attend else "not attended to by the query's own tokens"
    return _CARD.format(
        width=encoder.width,
        norm=" and length 1" if facts.cosine else ", of any length",
        or_pylate="; or pylate.models.ColBERT" if facts.cosine else "",
        query_length=facts.lengths["query"],
        doc_length=facts.lengths["doc"],
        template=facts.template,
        example=facts.template.format(title="a title", text="and the text of a document"),
        query_marker=facts.markers["query"],
        query_prompt=facts.prompts["query"],
        doc_marker=facts.markers["doc"],
        doc_prompt=facts.prompts["doc"],
        expansion=f"[MASK] up to the query's length, {attended}" if facts.expansion else "none",
        architecture=architecture,
    )
