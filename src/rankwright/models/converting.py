"""The child process that turns a DPR checkpoint into safetensors: memory-limited, it imports neither torch nor pickle.

    python -m rankwright.models.converting CHECKPOINT FOLDER GIB

Prints a line of JSON: what it wrote, or why the file was refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import ArtefactError, RankwrightError
from .pickled import KINDS, Checkpoint, Stored, opened

_SIDES = {"question": ("question_model.", "question_encoder."), "doc": ("ctx_model.", "ctx_encoder.")}
_UNUSED = ("pooler.", "embeddings.position_ids")  # of BERT's, not of DPR's vectors
_SETTINGS = ("pretrained_model_cfg", "sequence_length", "max_length", "do_lower_case", "projection_dim", "sim_func")


def main(checkpoint: str, folder: str, gib: str) -> None:
    """Convert, under a limit on this process's memory."""
    _limit(float(gib))
    try:
        facts: dict[str, Any] = convert(Path(checkpoint), Path(folder))
    except MemoryError:
        facts = {"refused": f"it takes more than {gib} GiB to read"}
    except RankwrightError as error:
        facts = {"refused": error.what}
    sys.stdout.write(json.dumps(facts) + "\n")


def _limit(gib: float) -> None:
    size = int(gib * (1 << 30))
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits, other systems may refuse to set them
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def convert(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Write ``question`` and ``doc/model.safetensors`` under the names of transformers' DPR models.

    Returns:
        ``sides`` that were found, ``projection`` (dimensions, 0 for none) and the plain ``settings`` of the training.

    Raises:
        ArtefactError: refused, damaged, or no DPR model.
    """
    with opened(checkpoint) as found:
        content = found.content if isinstance(found.content, dict) else {}
        weights = content.get("model_dict", content)
        weights = weights if isinstance(weights, dict) else {}
        named = {str(name).removeprefix("module."): t for name, t in weights.items() if isinstance(t, Stored)}
        _check_size(named.values(), 2 * checkpoint.stat().st_size)  # two encoders may share their numbers
        sides, projection = [], 0
        for side, (prefix, new) in _SIDES.items():
            own = {name.removeprefix(prefix): t for name, t in named.items() if name.startswith(prefix)}
            own = {name: t for name, t in own.items() if not name.startswith(_UNUSED)}
            if own:
                head = own.get("encode_proj.weight")
                projection = max(projection, head.shape[0] if head else 0)
                own = {new + (n if n.startswith("encode_proj.") else f"bert_model.{n}"): t for n, t in own.items()}
                _write(folder / side / "model.safetensors", own, found)
                sides.append(side)
        if "question" not in sides:
            names = ", ".join(list(named)[:3]) or "no tensors"
            raise ArtefactError(f"no question_model in it, as DPR's checkpoints have: {names}")
        params = content.get("encoder_params")
        params = params if isinstance(params, dict) else {}
        plain = {name: params[name] for name in _SETTINGS if isinstance(params.get(name), str | int | bool)}
        return {"sides": sides, "projection": projection, "settings": plain}


def _check_size(tensors: Iterable[Stored], most: int) -> None:
    """Refuse tensors that share numbers over and over: a small file would fill the disk."""
    if sum(prod(map(abs, tensor.shape)) * KINDS[tensor.storage.kind][1] for tensor in tensors) > most:
        raise ArtefactError("its tensors are larger than the file, they stand for the same numbers many times")


def _write(path: Path, tensors: dict[str, Stored], source: Checkpoint) -> None:
    """A safetensors file, one tensor in memory at a time: a length of 8 bytes, a header of JSON, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        kind, width = KINDS[tensor.storage.kind]
        size = width * prod(tensor.shape)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with storage.write_file(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            file.write(source.read(tensor))


if __name__ == "__main__":
    main(*sys.argv[1:])
