"""Reads and writes cross-encoder folders: a plain `...ForSequenceClassification` checkpoint that everybody reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import storage
from ..errors import ArtefactError
from .folders import (
    FORMAT,
    SETTINGS,
    integer_in,
    json_object,
    read_config,
    read_folder,
    read_modules,
    read_settings,
)
from .late_folders import kind_of
from .tokenizer import TextTokenizer

_ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
# scores are raw logits: sentence-transformers would put a sigmoid on them (the second key is its older dialect)
_IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
_OLD_ACTIVATION = "sbert_ce_default_activation_function"
_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags: [sentence-transformers, cross-encoder, rankwright]
---
# A cross-encoder trained with Rankwright

Scores pairs of query and document; higher is better, the scale is that of raw logits. A pair has at most {length}
tokens. Documents were written as `{template}`.

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("path/of/this/folder")
scores = model.predict([("a question", {example!r})])
```

| | |
| --- | --- |
| truncation | {truncate} |
| query length | {query_length} |
| token types | {segments} |
| architecture | {architecture} |
"""


_ASKING_CARD = """\
---
library_name: transformers
pipeline_tag: text-ranking
tags: [rankwright]
---
# A language model that re-ranks, trained with Rankwright

The score of a pair is the logit of `{answers[0]}` less that of `{answers[1]}` behind this prompt, in which documents
were written as `{template}` and a pair has at most {length} tokens:

```
{prompt}
```

| | |
| --- | --- |
| architecture | {architecture} |
"""


@dataclass(frozen=True)
class CrossFolder:
    """What the folder says; None where it says nothing."""

    path: Path  # where config.json, the weights and the tokenizer lie
    config: dict[str, Any]
    max_length: int | None = None
    lower_case: bool = False
    headed: bool = True  # it is a cross-encoder already
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CrossFacts:
    """What a cross-encoder knows beyond its weights and tokenizer."""

    template: str
    length: int
    query_length: int | None
    truncate: str
    segments: bool
    head: str = "classification"
    prompt: str | None = None
    answers: tuple[str, str] | None = None
    query_cut: str | None = None
    chunks: dict[str, Any] | None = None


def read_cross(folder: Path) -> CrossFolder:
    """A cross-encoder's folder, ours, sentence-transformers' or a plain checkpoint; or any encoder's folder.

    Raises:
        ArtefactError: files missing or malformed, custom code, a head with several labels.
    """
    if kind_of(folder) != "Cross":
        dense = read_folder(folder)
        return CrossFolder(dense.path, dense.config | _ONE_LABEL | _IDENTITY, lower_case=dense.lower_case, headed=False)
    settings = read_settings(folder, "Cross")
    if (folder / "modules.json").is_file() and [kind for kind, _ in read_modules(folder)] != ["Transformer"]:
        what = "a cross-encoder of several modules is not read here"
        raise ArtefactError(what, where=folder / "modules.json", fix="choose a sequence classification model")
    config, lengths = read_config(folder), json_object(folder / "sentence_bert_config.json", optional=True)
    names = config.get("id2label")
    labels = len(names) if isinstance(names, dict) else config.get("num_labels", 2)
    if labels != 1 and settings.get("head") != "yes_no":
        fix = "choose a model with one label, or start from its encoder alone"
        raise ArtefactError(f"its head has {labels} labels, a ranker has one", where=folder / "config.json", fix=fix)
    max_length = integer_in(lengths, "max_seq_length", folder / "sentence_bert_config.json")
    config = {name: value for name, value in config.items() if name != _OLD_ACTIVATION} | _IDENTITY
    return CrossFolder(folder, config, max_length, lengths.get("do_lower_case") is True, settings=settings)


def write_cross(
    folder: Path,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    tokenizer: TextTokenizer,
    facts: CrossFacts,
    *,
    architecture: str,
) -> None:
    """One checkpoint; `rankwright.json` adds what it cannot say."""
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    storage.write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    storage.write_json(folder / "config.json", config | {"architectures": [architecture], "dtype": dtype})
    for name, content in (tokenizer.files | _tokenizer_files(tokenizer, facts)).items():
        storage.write_bytes(folder / name, content)
    own = {field.name: getattr(facts, field.name) for field in fields(facts)}
    storage.write_json(folder / SETTINGS, {"format": FORMAT, "kind": "Cross", **own})
    example = facts.template.format(title="a title", text="and the text of a document")
    card = _CARD if facts.head == "classification" else _ASKING_CARD
    said = own | {"query_length": facts.query_length or "as it comes"}
    card = card.format(**said, example=example, architecture=architecture)
    storage.write_text(folder / "README.md", card)


def _tokenizer_files(tokenizer: TextTokenizer, facts: CrossFacts) -> dict[str, bytes]:
    """The tokenizer's files where they must say what others take from them: length, token types, lower case."""
    config = json.loads(tokenizer.files.get("tokenizer_config.json", b"{}"))
    config["model_max_length"] = facts.length if facts.chunks is None else facts.chunks["length"]
    if not facts.segments:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    files = {"tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode()}
    return files | ({"tokenizer.json": tokenizer.whole()} if tokenizer.lower_case else {})
