"""Reads every dialect of single-encoder model folder into one description; refuses whatever would run code.

Dialects: ours, sentence-transformers before and since 5.4, and plain Hugging Face checkpoints. Nothing is imported by
a name that a folder gives, only safetensors are read, and no file name leaves the folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import ArtefactError, RecipeError
from . import dpr
from .long import Chunks

SETTINGS = "rankwright.json"
FORMAT = 1

_ROOTS = tuple(f"sentence_transformers.{root}." for root in ("models", "base.modules", "sentence_transformer.modules"))
_MODULES = {
    f"{root}{path}": kind
    for root in _ROOTS
    for kind in ("Transformer", "Pooling", "Dense", "Normalize")
    for path in (kind, f"{kind}.{kind}", f"{kind.lower()}.{kind}")
}
_MASK = "sentence_transformers.multi_vector_encoder.modules."
_MODULES |= {
    "pylate.models.Dense.Dense": "Dense",
    f"{_MASK}MultiVectorMask": "MultiVectorMask",
    f"{_MASK}multi_vector_mask.MultiVectorMask": "MultiVectorMask",
}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "Identity",
    "torch.nn.modules.activation.Tanh": "Tanh",
    "torch.nn.modules.activation.ReLU": "ReLU",
    "torch.nn.modules.activation.GELU": "GELU",
}
ACTIVATION_NAMES = {short: name for name, short in _ACTIVATIONS.items()}
_LENGTH_FILES = ["sentence_bert_config.json"] + [
    f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
POOLING_NAMES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # sentence-transformers' name -> ours
POOLING_FLAGS = {  # the flags of its dialect before 5.4 -> the name since
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
_DOC_PROMPTS = ("document", "passage", "corpus")
_CONVERT = "save it again as a standard architecture, or choose another model: custom code is never run"


@dataclass(frozen=True)
class Head:
    """A linear layer over the pooled vector, as the folder holds it."""

    weights: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str
    layer: str = "linear"  # the name that its tensors bear


@dataclass(frozen=True)
class ModelFolder:
    """What one encoder's folder says; None where it says nothing."""

    path: Path  # where config.json, the weights and the tokenizer lie
    config: dict[str, Any]
    pooling: str | None = None
    include_prompt: bool = True
    heads: tuple[Head, ...] = ()
    similarity: str | None = None
    dims: int | None = None
    max_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def read_settings(folder: Path, kind: str = "Dense") -> dict[str, Any]:
    """Our own small file, checked to be of that kind of ranker; empty where the folder is somebody else's."""
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    if (folder / storage.MANIFEST).is_file():
        storage.verify(folder)
    settings = json_object(path)
    if settings.get("format") != FORMAT or settings.get("kind") != kind:
        raise ArtefactError(
            f"holds {settings.get('kind')!r}, format {settings.get('format')!r}; expected {kind!r}, {FORMAT}",
            where=path,
            fix="open it with `load`, or with the version of rankwright that wrote it",
        )
    return settings


def read_folder(folder: Path) -> ModelFolder:
    """One encoder's folder.

    Raises:
        ArtefactError: files missing or malformed, custom code, paths that leave the folder, modules not known here.
    """
    settings = read_settings(folder)
    if not (folder / "modules.json").is_file():
        config = read_config(folder)
        if config.get("model_type") != "dpr":
            return ModelFolder(folder, config, settings=settings)
        return ModelFolder(
            folder, dpr.as_bert(config), pooling="cls", similarity="dot", heads=dpr.head_of(config, folder),
            settings={"template": dpr.TEMPLATE},
        )  # fmt: skip
    modules = read_modules(folder)
    kinds = [kind for kind, _ in modules]
    order = "TPD*N?: Transformer, Pooling, any Dense, at most one Normalize"
    if kinds[:2] != ["Transformer", "Pooling"] or any(
        k != "Dense" for k in kinds[2 : -1 if kinds[-1] == "Normalize" else None]
    ):
        raise ArtefactError(
            f"modules {', '.join(kinds)} are not a dense retriever this library reads ({order})",
            where=folder / "modules.json",
        )
    at = modules[0][1]
    general = json_object(folder / "config_sentence_transformers.json", optional=True)
    if general.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ArtefactError(f"holds a {general['model_type']!r}, not a dense retriever", where=folder)
    pooling, include_prompt = _pooling(modules[1][1] / "config.json")
    max_length, lower_case = read_lengths(at)
    return ModelFolder(
        path=at,
        config=read_config(at),
        pooling=pooling,
        include_prompt=include_prompt,
        heads=tuple(read_head(path) for kind, path in modules if kind == "Dense"),
        similarity="cosine" if kinds[-1] == "Normalize" else _similarity(general, folder),
        dims=integer_in(general, "truncate_dim", folder / "config_sentence_transformers.json"),
        max_length=max_length,
        lower_case=lower_case,
        prompts=read_prompts(general, folder / "config_sentence_transformers.json"),
        settings=settings,
    )


def saved_chunks(settings: dict[str, Any]) -> Chunks | None:
    """The chunks that a folder of ours states.

    Raises:
        ArtefactError: they are none.
    """
    said = settings.get("chunks")
    try:
        return Chunks(**said) if said else None
    except (TypeError, RecipeError) as error:
        fix = "the folder is damaged: fetch it again"
        raise ArtefactError(f"{SETTINGS} states chunks {said!r:.80}", fix=fix) from error


def json_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    value = storage.read_json(path)
    if not isinstance(value, dict):
        raise ArtefactError(f"expected a JSON object, found {type(value).__name__}", where=path)
    for key in _CODE_KEYS:
        if value.get(key):
            raise ArtefactError(f"asks for custom code ({key!r})", where=path, fix=_CONVERT)
    return value


def integer_in(values: dict[str, Any], key: str, path: Path) -> int | None:
    value = values.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ArtefactError(f"{key} is {value!r}, not a positive whole number", where=path)
    return value


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ArtefactError("no config.json: not a model folder", where=folder, fix="give a folder that holds a model")
    json_object(folder / "tokenizer_config.json", optional=True)
    return json_object(path)


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of each module; the class names are looked up, never imported."""
    path = folder / "modules.json"
    rows = storage.read_json(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ArtefactError("expected a list of modules", where=path)
    found = []
    for row in rows:
        name, place = row.get("type"), row.get("path", "")
        kind = _MODULES.get(name) if isinstance(name, str) else None
        if kind is None:
            known = "Transformer, Pooling, Dense and Normalize of sentence-transformers"
            raise ArtefactError(f"module type {name!r} is not one of {known}", where=path, fix=_CONVERT)
        found.append((kind, subfolder(folder, place, path)))
    return found


def subfolder(folder: Path, name: object, where: Path) -> Path:
    """`folder` itself for an empty name, else the plain subfolder `name`; names that lead elsewhere are refused."""
    if name == "":
        return folder
    if (
        not isinstance(name, str)
        or name.startswith(".")
        or any(c in "/\\\0" for c in name)
        or (folder / name).is_symlink()
    ):
        raise ArtefactError(f"path {name!r} is not a plain subfolder", where=where, fix="do not open this folder")
    return folder / str(name)


def _pooling(path: Path) -> tuple[str, bool]:
    config = json_object(path)
    modes = config.get("pooling_mode")
    if modes is None:  # the dialect before sentence-transformers 5.4: one flag per mode
        if not any(flag in config for flag in POOLING_FLAGS):
            raise ArtefactError("states no pooling", where=path, fix="the folder is damaged: fetch it again")
        modes = [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    names = modes if isinstance(modes, list) else [modes]
    if len(names) != 1 or names[0] not in POOLING_NAMES:
        raise ArtefactError(
            f"pooling {names} is not read here",
            where=path,
            fix=f"choose a model that pools by one of {', '.join(POOLING_NAMES)}",
        )
    return POOLING_NAMES[names[0]], config.get("include_prompt", True) is not False


def read_head(folder: Path, of: str = "sentence_embedding") -> Head:
    """A `Dense` module over the vectors that sentence-transformers calls `of`."""
    path = folder / "config.json"
    config = json_object(path)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")  # sentence-transformers' default
    odd = [key for key in ("module_input_name", "module_output_name") if config.get(key) not in (None, of)]
    if name not in _ACTIVATIONS or config.get("use_residual") or odd:
        raise ArtefactError(
            f"a Dense module with {odd or name!r} or a residual path is not read here",
            where=path,
            fix=f"activations known: {', '.join(_ACTIVATIONS)}",
        )
    sizes = [integer_in(config, key, path) for key in ("in_features", "out_features")]
    if sizes[0] is None or sizes[1] is None:
        raise ArtefactError("in_features or out_features is missing", where=path)
    return Head(folder / "model.safetensors", sizes[0], sizes[1], config.get("bias", True) is True, _ACTIVATIONS[name])


def read_lengths(folder: Path) -> tuple[int | None, bool]:
    path = next((folder / name for name in _LENGTH_FILES if (folder / name).is_file()), None)
    config = {} if path is None else json_object(path)
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise ArtefactError(f"made for {config['transformer_task']!r}, not for vectors", where=path)
    return integer_in(config, "max_seq_length", path or folder), config.get("do_lower_case") is True


def _similarity(general: dict[str, Any], folder: Path) -> str | None:
    name = general.get("similarity_fn_name")
    if name not in (None, "cosine", "dot", "dot_score"):
        raise ArtefactError(f"similarity {name!r} is not read here", where=folder, fix="state similarity dot or cosine")
    return "dot" if name == "dot_score" else name


def read_prompts(general: dict[str, Any], path: Path) -> dict[str, str]:
    """The prompt of each side; the default prompt serves a side that has none of its own."""
    prompts, default = general.get("prompts") or {}, general.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values() if text is not None):
        raise ArtefactError("prompts must map names to texts", where=path)
    sides = {"query": ("query",), "doc": _DOC_PROMPTS}
    common = "" if default in ("query", *_DOC_PROMPTS) else prompts.get(default)
    found = {}
    for side, names in sides.items():
        own = [prompts[name] for name in names if prompts.get(name) is not None]
        found[side] = next((text for text in own if text), "") if own else common or ""
    return found
