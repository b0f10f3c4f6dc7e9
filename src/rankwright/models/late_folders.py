"""Reads every dialect of late-interaction model folder into one description: PyLate, sentence-transformers 6, Stanford.

PyLate and Stanford ColBERT name a marker token that is inserted; sentence-transformers 6 puts it into the prompt.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ArtefactError
from ..types import Side
from .folders import (
    SETTINGS,
    Head,
    integer_in,
    json_object,
    read_config,
    read_folder,
    read_head,
    read_lengths,
    read_modules,
    read_prompts,
    read_settings,
    saved_chunks,
)
from .long import Chunks

PUNCTUATION = tuple(string.punctuation)
GENERAL = "config_sentence_transformers.json"
STANFORD = "artifact.metadata"
_KINDS = ("ColBERT", "MultiVectorEncoder")  # model types of PyLate and sentence-transformers 6
_PYLATE_KEYS = ("query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens")


@dataclass(frozen=True)
class LateFolder:
    """What the folder says; None where it says nothing."""

    path: Path  # where config.json, the weights and the tokenizer lie
    config: dict[str, Any]
    heads: tuple[Head, ...] = ()
    lower_case: bool = False
    similarity: Literal["dot", "cosine"] | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    markers: dict[Side, str] | None = None
    lengths: dict[Side, int | None] = field(default_factory=dict)
    expansion: bool | None = None
    attend: bool | None = None
    skiplist: tuple[str, ...] | None = None
    template: str | None = None
    query_cut: str | None = None
    chunks: Chunks | None = None
    whole: int | None = None  # tokens of a document that is read in chunks


def kind_of(folder: Path) -> Literal["Cross", "Dense", "Late"]:
    """Which kind of ranker the folder states; a plain checkpoint is read as Dense.

    Raises:
        ArtefactError: its files cannot be read.
    """
    if (folder / SETTINGS).is_file():
        kind = json_object(folder / SETTINGS).get("kind")
        return kind if kind in ("Cross", "Late") else "Dense"
    general = json_object(folder / GENERAL, optional=True)
    if general.get("model_type") in _KINDS or any(name in general for name in _PYLATE_KEYS):
        return "Late"
    if general.get("model_type") == "CrossEncoder" or _classifies(folder):
        return "Cross"
    return "Late" if _is_stanford(folder) else "Dense"


def _classifies(folder: Path) -> bool:
    """Whether it is a plain checkpoint with a classification head."""
    if (folder / "modules.json").is_file() or not (folder / "config.json").is_file():
        return False
    names = json_object(folder / "config.json").get("architectures") or [""]
    return isinstance(names, list) and str(names[0]).endswith("ForSequenceClassification")


def read_late(folder: Path) -> LateFolder:
    """A late-interaction folder of any dialect, or any encoder's folder to make one of.

    Raises:
        ArtefactError: files missing or malformed, custom code, modules or settings that are not read here.
    """
    if kind_of(folder) != "Late":
        dense = read_folder(folder)
        return LateFolder(dense.path, dense.config, lower_case=dense.lower_case)
    settings = read_settings(folder, "Late")
    if not (folder / "modules.json").is_file():
        return _stanford(folder)
    modules, where = read_modules(folder), folder / GENERAL
    kinds = [kind for kind, _ in modules if kind != "MultiVectorMask"]
    body = kinds[1 : -1 if kinds[-1] == "Normalize" else None]
    if modules[0][0] != "Transformer" or any(kind != "Dense" for kind in body):
        what = f"modules {', '.join(kinds)} are not a late-interaction retriever this library reads"
        raise ArtefactError(what, where=folder / "modules.json")
    general, at = json_object(where, optional=True), modules[0][1]
    typed = general.get("model_type") == "MultiVectorEncoder"
    if typed and not any(name in general for name in _PYLATE_KEYS):  # else ours, with vectors of any length
        masks = [place for kind, place in modules if kind == "MultiVectorMask"]
        stated = _native(at / "sentence_bert_config.json", masks[0] / "config.json" if masks else None)
        lower_case = json_object(at / "sentence_bert_config.json", optional=True).get("do_lower_case")
    else:
        stated, lower_case = _pylate(general, where), read_lengths(at)[1]
    prompts = read_prompts(general, where)
    return LateFolder(
        path=at,
        config=read_config(at),
        heads=tuple(read_head(place, "token_embeddings") for kind, place in modules if kind == "Dense"),
        lower_case=lower_case is True,
        similarity=_similarity(modules) if typed else "cosine",
        prompts={side: prompts[side].removeprefix(marker) for side, marker in stated["markers"].items()},
        template=settings.get("template"),
        query_cut=settings.get("query_cut"),
        chunks=saved_chunks(settings),
        whole=settings.get("doc_length"),
        **stated,
    )


def _similarity(modules: list[tuple[str, Path]]) -> Literal["dot", "cosine"]:
    """sentence-transformers 6 normalises by a module; PyLate always does, and lists none."""
    kind, place = modules[-1]
    if kind != "Normalize":
        return "dot"
    name = json_object(place / "config.json", optional=True).get("module_input_name")
    if name != "token_embeddings":
        raise ArtefactError(f"a Normalize module of {name!r} is not read here", where=place / "config.json")
    return "cosine"


def _pylate(general: dict[str, Any], where: Path) -> dict[str, Any]:
    """The dialect that PyLate writes and sentence-transformers 6 reads."""
    if str(general.get("similarity_fn_name") or "MaxSim").lower() != "maxsim":
        raise ArtefactError(f"similarity {general['similarity_fn_name']!r} is not read here", where=where)
    words = general.get("skiplist_words")
    return {
        "markers": {
            "query": _text(general, "query_prefix", "[Q] ", where),
            "doc": _text(general, "document_prefix", "[D] ", where),
        },
        "lengths": {
            "query": integer_in(general, "query_length", where) or 32,
            "doc": integer_in(general, "document_length", where) or 180,
        },
        "expansion": general.get("do_query_expansion") is not False,
        "attend": general.get("attend_to_expansion_tokens") is True,
        "skiplist": PUNCTUATION if words is None else _words(words, where),
    }


def _native(transformer: Path, mask: Path | None) -> dict[str, Any]:
    """sentence-transformers 6's own: lengths and expansion beside the backbone, the skip list in the mask."""
    config, masked = json_object(transformer, optional=True), {} if mask is None else json_object(mask)
    if masked.get("keep_only_token_ids") or "query" in masked.get("skiplist_tasks", []):
        raise ArtefactError("a mask over queries, or of tokens to keep, is not read here", where=mask)
    expansion = config.get("query_expansion")
    lengths: dict[Side, int | None] = {
        "query": integer_in(config, "query_length", transformer),
        "doc": integer_in(config, "document_length", transformer),
    }
    if expansion is not None:
        if not isinstance(expansion, dict) or expansion.get("strategy") != "fixed" or expansion.get("token"):
            what = f"query expansion {expansion!r} is not read here (only strategy 'fixed' with the mask token)"
            raise ArtefactError(what, where=transformer)
        lengths["query"] = integer_in(expansion, "length", transformer)
    return {
        "markers": {"query": "", "doc": ""},
        "lengths": lengths,
        "expansion": expansion is not None,
        "attend": bool(expansion and expansion.get("attend")),
        "skiplist": _words(masked.get("skiplist_words", []), transformer),
    }


def _is_stanford(folder: Path) -> bool:
    return "HF_ColBERT" in (json_object(folder / "config.json", optional=True).get("architectures") or ())


def _stanford(folder: Path) -> LateFolder:
    """Stanford ColBERT's: `artifact.metadata` beside one checkpoint that holds the projection as `linear.weight`."""
    path = folder / STANFORD
    said = json_object(path, optional=True)
    if said.get("similarity", "cosine") != "cosine":
        raise ArtefactError(f"similarity {said['similarity']!r} is not read here", where=path)
    weights = folder / "model.safetensors"
    rows, columns = _shape(weights, "linear.weight")
    return LateFolder(
        path=folder,
        config=read_config(folder),
        heads=(Head(weights, columns, rows, bias=False, activation="Identity"),),
        markers={
            "query": _text(said, "query_token_id", "[unused0]", path),
            "doc": _text(said, "doc_token_id", "[unused1]", path),
        },
        lengths={
            "query": integer_in(said, "query_maxlen", path) or 32,
            "doc": integer_in(said, "doc_maxlen", path) or 180,
        },
        expansion=True,
        attend=said.get("attend_to_mask_tokens") is True,
        skiplist=PUNCTUATION if said.get("mask_punctuation", True) else (),
    )


def _shape(path: Path, name: str) -> tuple[int, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            rows, columns = file.get_slice(name).get_shape()
            return int(rows), int(columns)
    except (SafetensorError, OSError, ValueError) as error:
        fix = "convert the weights with safetensors, or choose a revision of the model that has them"
        raise ArtefactError(f"no readable {name} ({error})", where=path, fix=fix) from error


def _text(values: dict[str, Any], key: str, default: str, path: Path) -> str:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise ArtefactError(f"{key} is {value!r}, not a text", where=path)
    return default if value is None else value


def _words(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ArtefactError("skiplist_words must be a list of tokens", where=path)
    return tuple(value)
