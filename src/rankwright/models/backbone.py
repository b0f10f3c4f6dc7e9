"""Builds a Hugging Face encoder from a checked config and safetensors: no remote code, no pickle, SDPA attention."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import storage
from ..errors import ArtefactError, RecipeError, UsageError, missing_extra
from ..randomness import key
from .dense import Lora
from .dpr import bert_weights
from .dropout import checkpoint_contexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .positions import Grow


@dataclass(frozen=True)
class Family:
    """What differs between the architectures that are read: names of config keys, and what positions are."""

    attention: str = "attention_dropout"  # dropout of attention probabilities
    hidden: tuple[str, ...] = ()  # dropouts of token vectors
    offset: bool = False  # positions start behind the padding token's id
    relative: bool = False  # positions are distances, without a limit: a learned bias of the attention scores
    packs: bool = True  # False: its bias would be built for a whole row of packed texts, quadratic in the row


_BERT = Family("attention_probs_dropout_prob", ("hidden_dropout_prob",))
_ROBERTA = Family("attention_probs_dropout_prob", ("hidden_dropout_prob",), offset=True)
_T5 = Family("dropout_rate", ("dropout_rate",), relative=True)
FAMILIES = {
    "bert": _BERT, "electra": _BERT, "albert": _BERT, "nomic_bert": _BERT,
    "roberta": _ROBERTA, "xlm-roberta": _ROBERTA, "camembert": _ROBERTA, "mpnet": _ROBERTA,
    "distilbert": Family(hidden=("dropout",)),
    "modernbert": Family(hidden=("embedding_dropout", "mlp_dropout")),
    "qwen2": Family(), "qwen3": Family(), "llama": Family(), "mistral": Family(),
    "t5": _T5, "mt5": _T5, "umt5": replace(_T5, packs=False),
}  # fmt: skip

_HEAD_DROPOUTS = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout")
_DECODERS = ("qwen2", "qwen3", "llama", "mistral")
_UNREAD = ("quantization_config", "compression_config")
_NOISE = ("torch_dtype", "dtype", "architectures", "transformers_version", "attn_implementation")
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers")
_MOST_LAYERS = 1000
_RANGE = re.compile(r"layers\.(\d+)(?:-(\d+))?")
_LAYER_NAME = re.compile(r"(?:^|\.)(?:layers?|block)\.(\d+)\.")  # the first match: T5 has layers within blocks
_EMBEDDINGS = re.compile(r"[^.]*embed|shared\.")


def clean_config(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """The keys of a config.json that shape the vectors; refuses what is not read here.

    Raises:
        ArtefactError: an unknown architecture, quantised weights, an absurd size.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ArtefactError(
            f"architecture {family!r} is not read here", where=where, fix=f"known: {', '.join(FAMILIES)}"
        )
    if unread := [name for name in _UNREAD if config.get(name)]:
        raise ArtefactError(f"{unread[0]} is not read here", where=where, fix="save the model unquantised")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ArtefactError("relative position embeddings are not read here", where=where)
    for name in _LAYERS:
        if name in config and not (isinstance(config[name], int) and 0 < config[name] <= _MOST_LAYERS):
            raise ArtefactError(f"{name} is {config[name]!r}", where=where, fix="the folder is damaged: fetch it again")
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in _NOISE}


def load_backbone(
    folder: Path, config: dict[str, Any], *, dtype: torch.dtype, dropout: float | None, grow: Grow | None = None
) -> tuple[PreTrainedModel, str]:
    """The encoder in `folder`, and a note saying which dropout it applies; `grow` changes the tensors before.

    The dropout of attention probabilities is set to 0: it leaves torch's fast kernels, and its masks belong to the
    kernel, not to the text.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    made, note = _configured(folder, config, dropout)
    encoders = MODEL_FOR_TEXT_ENCODING_MAPPING if type(made) in MODEL_FOR_TEXT_ENCODING_MAPPING else MODEL_MAPPING
    model, missing = _build(folder, encoders[type(made)], made, dtype, grow)
    _refuse(folder, [name for name in missing if not name.startswith("pooler.")])
    if missing:
        model.pooler = None  # it would hold random numbers; vectors never pass through it
    for name, parameter in model.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)
    family = FAMILIES[config["model_type"]]
    for module in model.modules() if family.attention in family.hidden else ():
        if isinstance(getattr(module, "dropout", None), float):  # T5's attention; the others are nn.Dropout
            module.dropout = 0.0  # type: ignore[assignment]
    return model.eval(), note


def load_classifier(
    folder: Path,
    config: dict[str, Any],
    *,
    dtype: torch.dtype,
    dropout: float | None,
    seed: int,
    grow: Grow | None = None,
) -> tuple[PreTrainedModel, str]:
    """The encoder in `folder` under a sequence classification head with one output, which is drawn where it is absent.

    Raises:
        ArtefactError: transformers has no such model of this architecture, or the encoder's weights do not fit.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    made, note = _configured(folder, config, dropout)
    for name in _HEAD_DROPOUTS if dropout is not None else ():
        if getattr(made, name, None) is not None:
            setattr(made, name, dropout)
    if type(made) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        what = f"{config['model_type']} has no sequence classification"
        raise ArtefactError(what, where=folder, fix="start from another encoder")
    model, missing = _build(folder, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(made)], made, dtype, grow)
    prefix = f"{model.base_model_prefix}."
    _refuse(folder, [name for name in missing if name.startswith(prefix) and not name.startswith(f"{prefix}pooler.")])
    with torch.no_grad():
        for name in missing:  # drawn again: transformers drew from the global generator
            parameter = model.get_parameter(name)
            if parameter.dim() > 1:
                generator = torch.Generator().manual_seed(key(seed, "head", name))
                drawn = torch.empty(parameter.shape).normal_(0, made.initializer_range, generator=generator)
                parameter.copy_(drawn)
    return model.eval(), f"{note}, {'a new' if missing else 'its own'} head"


def load_language_model(
    folder: Path, config: dict[str, Any], *, dtype: torch.dtype, dropout: float | None, grow: Grow | None = None
) -> tuple[PreTrainedModel, str]:
    """The causal language model in `folder`.

    Raises:
        ArtefactError: no causal model of this architecture, or its weights do not fit.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    made, note = _configured(folder, config, dropout)
    if config["model_type"] not in _DECODERS:
        what = f"{config['model_type']} is no causal language model"
        raise ArtefactError(what, where=folder, fix=f"head: classification, or one of {', '.join(_DECODERS)}")
    model, missing = _build(folder, MODEL_FOR_CAUSAL_LM_MAPPING[type(made)], made, dtype, grow)
    _refuse(folder, missing)
    return model.eval(), f"{note}, the language model's own head"


def _configured(folder: Path, config: dict[str, Any], dropout: float | None) -> tuple[Any, str]:
    """The config object, attention dropout off, and a note on the dropout that remains."""
    from transformers import CONFIG_MAPPING

    family = FAMILIES[config["model_type"]]
    values = {name: value for name, value in config.items() if name != "model_type"} | {"use_cache": False}
    if dropout and not family.hidden:
        fix = "leave `dropout` out or set it to 0"
        raise RecipeError(f"{config['model_type']} has no hidden dropout to set", where=folder, fix=fix)
    try:
        made = CONFIG_MAPPING[config["model_type"]].from_dict(values)
    except Exception as error:  # transformers checks a config's values with several libraries
        raise ArtefactError(f"config.json does not fit its architecture ({error})", where=folder) from error
    stated = getattr(made, family.attention)
    for name in family.hidden if dropout is not None else ():
        setattr(made, name, dropout)
    hidden = max((getattr(made, name) for name in family.hidden), default=0.0)
    if family.attention not in family.hidden:
        setattr(made, family.attention, 0.0)
    off = f"; attention dropout 0 (the checkpoint says {stated:g})" if stated else ""
    return made, f"hidden dropout {hidden:g}, drawn by text{off}"


def _build(folder: Path, cls: Any, config: Any, dtype: torch.dtype, grow: Grow | None) -> tuple[Any, list[str]]:
    """The model, and the names of the weights that the folder lacks."""
    weights = read_weights(folder)
    if grow is not None:
        grow(weights)
    attention = "sdpa" if cls._supports_sdpa else "eager"
    try:
        with _quiet():
            model, report = cls.from_pretrained(
                None, config=config, state_dict=weights, attn_implementation=attention, dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtefactError(f"the weights do not fit config.json ({reason})", where=folder) from error
    _refuse(folder, list(map(str, report["mismatched_keys"])))
    return model, sorted(report["missing_keys"])


def _refuse(folder: Path, lacking: list[str]) -> None:
    if lacking:
        fix = "give the folder of the whole model: an encoder, not an adapter or another architecture"
        raise ArtefactError(f"the weights lack or misshape {', '.join(lacking[:3])}", where=folder, fix=fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and load report: what matters of it is raised as an error."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors or of its shards.

    Raises:
        ArtefactError: absent, not safetensors, or an index that names files elsewhere.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if not (folder / names[0]).is_file() and index.is_file():
        names = _shards(index)
    elif not (folder / names[0]).is_file():
        pickled = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        raise ArtefactError(
            f"only pickled weights ({pickled[0]}), which can run code" if pickled else "no model.safetensors",
            where=folder,
            fix="convert the weights with safetensors, or choose a revision of the model that has them",
        )
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= read_tensors(folder / name)
    return bert_weights(weights)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """One safetensors file.

    Raises:
        ArtefactError: absent or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArtefactError(
            f"not a readable safetensors file ({error})", where=path, fix="fetch the model again"
        ) from error


def _shards(index: Path) -> list[str]:
    body = storage.read_json(index)
    names = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(names, dict) or not names:
        raise ArtefactError("no weight_map", where=index)
    for name in names.values():
        try:
            plain = isinstance(name, str) and storage.safe_name(name).endswith(".safetensors")
        except UsageError:
            plain = False
        if not plain:
            raise ArtefactError(
                f"weight_map names {name!r}, not a shard of this folder", where=index, fix="do not open this folder"
            )
    return sorted(set(names.values()))


def first_position(config: Any) -> int:
    """The position id of a text's first token."""
    return config.pad_token_id + 1 if FAMILIES[config.model_type].offset else 0


def position_limit(model: PreTrainedModel) -> int:
    """How many tokens the model has positions for."""
    if FAMILIES[model.config.model_type].relative:
        return sys.maxsize
    return model.config.max_position_embeddings - first_position(model.config)


def add_vocabulary(model: PreTrainedModel, size: int, *, seed: int) -> int:
    """Give the model token ids up to `size`, which is returned; new embeddings are drawn from the old ones' spread."""
    old = model.get_input_embeddings()
    assert isinstance(old, nn.Embedding)
    weight = old.weight.detach()
    generator = torch.Generator().manual_seed(key(seed, "vocabulary", size))
    drawn = torch.randn(size - len(weight), weight.shape[1], generator=generator).to(weight)
    grown = torch.cat([weight, weight.mean(0) + weight.std(0) * drawn])
    model.set_input_embeddings(nn.Embedding.from_pretrained(grown, freeze=False, padding_idx=old.padding_idx))
    model.config.vocab_size = size
    return size


def add_lora(model: PreTrainedModel, lora: Lora, *, seed: int) -> None:
    """Put low-rank adapters on the model's linear layers, in place; the model's own weights are frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise missing_extra("peft", "lora", "lora") from None
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,  # type: ignore[arg-type]
        target_modules=list(lora.targets) or "all-linear", exclude_modules=r"(.*\.)?pooler(\..*)?",
    )  # fmt: skip
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        fix = f"endings of linear layers here: {', '.join(linear)}"
        raise RecipeError(f"lora targets {list(lora.targets)} name no layer", fix=fix) from error
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:  # drawn again: peft drew from the global generator
            generator = torch.Generator().manual_seed(key(seed, "lora", name))
            fresh = torch.empty(parameter.shape).uniform_(-1, 1, generator=generator) / parameter.shape[1] ** 0.5
            parameter.data.copy_(fresh)


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model under its plain names, LoRA adapters added to the weights they adapt."""
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - dict(model.named_parameters()).keys()
    state = {
        name.replace(".base_layer.", "."): t
        for name, t in model.state_dict().items()
        if ".lora_" not in name and name not in tied
    }
    if any(".lora_" in name for name, _ in model.named_parameters()):
        from peft.tuners.lora import Linear

        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, Linear):
                    weight = state[f"{name}.weight"]
                    state[f"{name}.weight"] = weight + module.get_delta_weight("default").to(weight.dtype)
    return state


def freeze(model: nn.Module, rules: tuple[str, ...]) -> None:
    """Exclude parameters from training: ``embeddings``, ``layers.0-2`` (both ends included), or a name's start.

    Raises:
        RecipeError: a rule that fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for rule in rules:
        frozen = [name for name in names if _fits(rule, name)]
        if not frozen:
            layers = {int(found[1]) for name in names if (found := _LAYER_NAME.search(name))}
            known = ["embeddings", *([f"layers.0-{max(layers)}"] if layers else []), *names]
            near = difflib.get_close_matches(rule, known, 3, 0.5) or known[:2]
            raise RecipeError(f"freeze: {rule!r} fits no parameter", fix=f"did you mean {' or '.join(near)}?")
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)


def _fits(rule: str, name: str) -> bool:
    if rule == "embeddings":
        return _EMBEDDINGS.match(name) is not None
    if span := _RANGE.fullmatch(rule):
        layer = _LAYER_NAME.search(name)
        return layer is not None and int(span[1]) <= int(layer[1]) <= int(span[2] or span[1])
    return name == rule or name.startswith(rule.rstrip(".") + ".")


def checkpoint_gradients(model: PreTrainedModel, where: Path) -> None:
    """Recompute activations in the backward pass, under the same dropout masks."""
    if not model.supports_gradient_checkpointing:
        raise RecipeError(
            "this architecture cannot recompute activations", where=where, fix="leave gradient_checkpointing out"
        )
    settings = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": checkpoint_contexts}
    model.gradient_checkpointing_enable(settings)
