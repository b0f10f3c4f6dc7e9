"""DPR's models: transformers' folders of one side, and checkpoints of DPR, GC-DPR and SR-DPR."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .. import storage
from ..errors import ArtefactError, RecipeError, UsageError
from .dense import Dense
from .hub import resolve

if TYPE_CHECKING:
    from .folders import Head

TEMPLATE = "{title}[SEP]{text}"  # a pair under one segment id, as all three programs encode passages
_PREFIXES = ("question_encoder.", "ctx_encoder.")
_Tensor = TypeVar("_Tensor")


class Imported(NamedTuple):
    """What `import_checkpoint` made, and the training's settings as the checkpoint states them."""

    folder: Path
    encoders: int
    settings: dict[str, Any]


def as_bert(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the BERT within a DPR encoder."""
    architectures = {"architectures": ["BertModel"]}
    return {name: v for name, v in config.items() if name != "projection_dim"} | {"model_type": "bert"} | architectures


def head_of(config: dict[str, Any], folder: Path) -> tuple[Head, ...]:
    """The projection of the first token's vector, where there is one."""
    from .folders import Head, integer_in

    width = config.get("projection_dim") and integer_in(config, "projection_dim", folder / "config.json")
    hidden = integer_in(config, "hidden_size", folder / "config.json")
    if not width or hidden is None:
        return ()
    return (Head(folder / "model.safetensors", hidden, width, True, "Identity", layer="encode_proj"),)


def bert_weights(weights: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """The tensors of the BERT within a DPR encoder under their own names; others as they are."""
    for prefix in _PREFIXES:
        own = {name: t for name, t in weights.items() if name.startswith(f"{prefix}bert_model.")}
        if own:
            return {name.removeprefix(f"{prefix}bert_model."): t for name, t in own.items()}
    return weights


def import_checkpoint(checkpoint: Path, out: Path, *, base: str, memory: float = 4.0) -> Imported:
    """Publish a checkpoint of DPR, GC-DPR or SR-DPR (``.cp``, ``dpr_biencoder.40``) as a model folder of ours.

    The file is a pickle. It is never unpickled: a child process follows its opcodes, calls nothing, refuses whatever is
    neither a tensor nor a plain value, and may take so much memory and no more.

    Args:
        base: the BERT it was trained from (folder or hub id), for its config and its tokenizer.
        memory: GiB that the child may take.

    Raises:
        ArtefactError: refused, damaged, or it does not fit `base`.
        UsageError: no such file.
    """
    from .folders import read_config
    from .tokenizer import TextTokenizer

    if not checkpoint.is_file():
        raise UsageError("there is no such checkpoint", where=checkpoint, fix="name a file, e.g. dpr_biencoder.40")
    if not 0 < memory < 1 << 20:
        raise UsageError(f"reading may take {memory:g} GiB", fix="give a number above 0, e.g. --memory 8")
    origin = resolve(base)
    config = read_config(origin)
    if config.get("model_type") != "bert":
        what = f"{base} is {config.get('model_type')!r}, these checkpoints hold BERT"
        raise UsageError(what, fix="name the model that it was trained from")
    stage = out.with_name(f".{out.name}.staging")
    storage.remove_folder(stage)
    try:
        with storage.publish(stage, "weights") as draft:
            facts = _child(checkpoint, draft.path, memory)
            files = TextTokenizer(origin, lower_case=False).files
            for side in facts["sides"]:
                own = config | {"model_type": "dpr", "projection_dim": facts["projection"]}
                storage.write_json(draft.path / side / "config.json", own)
                for name, content in files.items():
                    storage.write_bytes(draft.path / side / name, content)
        settings = facts["settings"]
        length = settings.get("max_length") or settings.get("sequence_length")
        two = str(stage / "doc") if "doc" in facts["sides"] else None
        try:
            if length is not None and type(length) is not int:
                raise ArtefactError(f"it states a length of {length!r} tokens")
            spec = Dense(str(stage / "question"), doc_backbone=two, query_length=length, doc_length=length)
            ranker = spec.load()
        except (ArtefactError, RecipeError) as error:  # not the fault of the folder it lies in by now
            what, fix = f"does not fit {base}: {error.what}", "name the model that it was trained from: --base"
            raise ArtefactError(what, where=checkpoint, fix=fix) from None
        with storage.publish(out, "model", meta={"checkpoint": checkpoint.name}) as draft:
            ranker.save(draft.path)
    finally:
        storage.remove_folder(stage)
    return Imported(out, len(facts["sides"]), settings)


def _child(checkpoint: Path, folder: Path, memory: float) -> dict[str, Any]:
    words = [sys.executable, "-m", "rankwright.models.converting", str(checkpoint.absolute()), str(folder.absolute())]
    done = subprocess.run([*words, f"{memory:g}"], capture_output=True, text=True, check=False)
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ArtefactError(
            f"the process that read it died ({last[:200]})", where=checkpoint, fix="give it more memory: --memory 8"
        ) from None
    if "refused" in facts:
        fix = "do not open this file; if you trust it, save its weights as safetensors, or give more memory"
        raise ArtefactError(f"refused: {facts['refused']}", where=checkpoint, fix=fix)
    return facts
