"""Writes a model in the dialect that others read, and proves that they compute the same vectors from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .. import storage
from ..errors import ArtefactError, UsageError
from ..types import Side
from .cross_ranker import CrossRanker
from .dense_ranker import DenseRanker
from .folders import read_folder
from .late_ranker import LateRanker
from .loading import load
from .ranker import Ranker

_TOLERANCE = 1e-5  # of float32 arithmetic in another order, relative to the largest value


@dataclass(frozen=True)
class Check:
    """What one other reader made of one side, or of pairs: the largest difference, relative to the largest value."""

    reader: str
    side: Side | Literal["pair"]
    difference: float | None
    verdict: Literal["equal", "differs", "not installed"]


def export(ranker: Ranker, out: Path) -> Path:
    """Publish `ranker` at `out` in the dialect that everybody reads; an earlier model there is replaced.

    Raises:
        UsageError: `out` holds something else, which would be lost; the errors of `storage.publish`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        try:
            storage.read_manifest(out, "model")
        except ArtefactError:
            fix = "choose a folder that does not exist yet"
            raise UsageError(f"{str(out)!r} exists and is not a model of ours", fix=fix) from None
    with storage.publish(out, "model", key=ranker.fingerprint("query") + ranker.fingerprint("doc")) as draft:
        ranker.save(draft.path)
    return out


def verify_export(folder: Path, texts: Sequence[str]) -> list[Check]:
    """Encode `texts` here, in sentence-transformers and (dense) in plain transformers, on both sides, and compare.

    A cross-encoder scores each text with the next one; where it reads in chunks, those that fit one. Of documents that
    other models read in chunks the first is compared.

    Raises:
        UsageError: only rankwright can read the model, or no pair fits a chunk.
    """
    ranker = load(folder)
    if ranker.pairing is not None:
        return _pair_checks(folder, ranker, texts)
    one = isinstance(ranker, DenseRanker)
    readers = _READERS if one else _LATE_READERS
    checks = []
    for side in ("query", "doc"):
        with torch.inference_mode():
            reps = ranker.represent(ranker.tokenize(texts, side, limit=_at_once(ranker, side)), side)
        ours = reps.values[reps.mask].cpu().double().numpy()
        place = folder if (folder / "modules.json").is_file() or (folder / "config.json").is_file() else folder / side
        for package, encode in readers.items():
            try:
                reader = f"{package} {version(package)}"
                if package == "sentence-transformers" and not one and int(version(package).split(".")[0]) < 6:
                    raise PackageNotFoundError  # its MultiVectorEncoder is new in version 6
            except PackageNotFoundError:
                checks.append(Check(package, side, None, "not installed"))
                continue
            theirs = encode(place, list(texts), ranker, side)
            same = ours.shape == theirs.shape  # else another number of tokens
            difference = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30)) if same else float("inf")
            checks.append(Check(reader, side, difference, "equal" if difference <= _TOLERANCE else "differs"))
    return checks


def _at_once(ranker: Ranker, side: Side) -> int:
    """Tokens that the model reads at once."""
    whole = ranker.limits[side]
    if side == "query" or not isinstance(ranker, DenseRanker | LateRanker) or ranker.chunks is None:
        return whole
    return min(whole, ranker.chunks.length)


def _pair_checks(folder: Path, ranker: Ranker, texts: Sequence[str]) -> list[Check]:
    pairs = list(zip(texts, [*texts[1:], texts[0]]))
    assert isinstance(ranker, CrossRanker)
    if ranker.asking is not None:
        what = "how a language model is asked is known to rankwright alone: no other reader to compare with"
        raise UsageError(what, fix="leave --verify out")
    sides: list[Side] = ["query", "doc"]
    queries, docs = (ranker.tokenize(part, side) for part, side in zip(zip(*pairs), sides))
    joined = ranker.pairing(queries, docs)
    if ranker.chunks is not None:  # how queries are cut and scores of chunks put together is known to rankwright alone
        uncut = queries.lengths <= ranker.limits["query"]
        fits = (uncut & (joined.lengths <= ranker.chunks.length)).nonzero().flatten()
        if not len(fits):
            what = f"no pair of the sample fits a chunk of {ranker.chunks.length} tokens: nothing to compare"
            raise UsageError(what, fix="leave --verify out")
        joined, pairs = joined.take(fits), [pairs[i] for i in fits.tolist()]
    with torch.inference_mode():
        ours = ranker.represent(joined, "doc").values.flatten().double().numpy()
    checks = []
    for package, score in _PAIR_READERS.items():
        try:
            reader = f"{package} {version(package)}"
        except PackageNotFoundError:
            checks.append(Check(package, "pair", None, "not installed"))
            continue
        difference = float(np.abs(ours - score(folder, pairs)).max() / max(np.abs(ours).max(), 1e-30))
        checks.append(Check(reader, "pair", difference, "equal" if difference <= _TOLERANCE else "differs"))
    return checks


def _scored_by_sentence_transformers(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.predict(pairs, show_progress_bar=False, batch_size=1), dtype=np.float64)


def _scored_by_transformers(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(str(folder), local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    with torch.inference_mode():
        rows = [tokenizer(*pair, truncation="longest_first", return_tensors="pt") for pair in pairs]
        return np.array([float(model(**row).logits[0, 0]) for row in rows])


def _by_sentence_transformers(folder: Path, texts: list[str], ranker: Ranker, side: Side) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = _at_once(ranker, side)
    encode = model.encode_query if side == "query" else model.encode_document
    return np.asarray(encode(texts, show_progress_bar=False), dtype=np.float64)


def _by_multi_vector_encoder(folder: Path, texts: list[str], ranker: Ranker, side: Side) -> np.ndarray:
    """The unmasked tokens of all texts, one after the other."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
    encode = model.encode_query if side == "query" else model.encode_document
    return np.concatenate([np.asarray(rows) for rows in encode(texts, show_progress_bar=False)]).astype(np.float64)


def _by_transformers(folder: Path, texts: list[str], ranker: Ranker, side: Side) -> np.ndarray:
    """The backbone and tokenizer as transformers reads them; pooling and projection written out."""
    from transformers import AutoTokenizer

    assert isinstance(ranker, DenseRanker)

    encoder, text = ranker.encoder(side), ranker.sides[side]
    assert encoder.pooling is not None
    place = read_folder(folder).path
    model = type(encoder.backbone).from_pretrained(str(place), local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    rows = []
    for one in texts:  # one at a time: no padding to get wrong
        one = (text.prompt + one).lower() if encoder.tokenizer.lower_case else text.prompt + one
        ids = tokenizer(one, truncation=True, max_length=_at_once(ranker, side), return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**ids).last_hidden_state[0]
            first = min(text.skip, len(hidden) - 1)
            row = {"cls": hidden[first], "last": hidden[-1], "mean": hidden[first:].mean(0)}[encoder.pooling]
            for head in encoder.projections:
                row = head(row)
        row = row[: encoder.dims].double().numpy()
        rows.append(row / max(np.linalg.norm(row), 1e-12) if ranker.cosine else row)
    return np.stack(rows)


_READERS = {"sentence-transformers": _by_sentence_transformers, "transformers": _by_transformers}
_LATE_READERS = {"sentence-transformers": _by_multi_vector_encoder}
_PAIR_READERS = {"sentence-transformers": _scored_by_sentence_transformers, "transformers": _scored_by_transformers}
