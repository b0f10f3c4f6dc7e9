"""The dense ranker: one shared or two separate encoders, and how a `Dense` specification becomes one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import RecipeError
from ..types import Document, Reps, Side, Texts
from . import similarity, writing
from .backbone import clean_config, position_limit
from .building import (
    build_backbone,
    checked_length,
    new_head,
    pick_device,
    pick_dtype,
    saved_head,
    whole_length,
)
from .dense import DEFAULT_TEMPLATE, Dense, check_template
from .encoder import Encoder
from .folders import ModelFolder, read_folder, read_settings, saved_chunks, subfolder
from .hub import resolve
from .long import Chunks
from .ranker import Ranker
from .template import fill_in
from .tokenizer import TextTokenizer
from .windows import windows

_DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class SideText:
    """How the texts of one side become token ids."""

    prompt: str
    length: int
    skip: int  # leading tokens that the pooling leaves out
    cutter: tokenizers.Tokenizer
    cut: str | None = None  # which end is lost; None: as the tokenizer does it


class DenseRanker(Ranker):
    """A single-vector retriever; made by `Dense.load`."""

    def __init__(
        self, encoders: Mapping[Side, Encoder], sides: Mapping[Side, SideText], *, cosine: bool, template: str,
        chunks: Chunks | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        shared = encoders["query"] is encoders["doc"]
        self.encoders = torch.nn.ModuleDict(
            {"both": encoders["query"]} if shared else {str(s): e for s, e in encoders.items()}
        )
        self.sides, self.cosine, self.template = dict(sides), cosine, template
        self.chunks = chunks
        self._parts = check_template(template)

    def encoder(self, side: Side) -> Encoder:
        found = self.encoders["both" if "both" in self.encoders else side]
        assert isinstance(found, Encoder)
        return found

    @property
    def limits(self) -> dict[Side, int]:
        return {side: text.length for side, text in self.sides.items()}

    @property
    def longest(self) -> dict[Side, int]:
        doc = sys.maxsize if self.chunks is not None else position_limit(self.encoder("doc").backbone)
        return {"query": position_limit(self.encoder("query").backbone), "doc": doc}

    @property
    def vocabulary(self) -> int:
        return max(int(self.encoder(side).backbone.config.vocab_size) for side in self.sides)

    @property
    def width(self) -> int:
        """Dimensions of the vectors."""
        return self.encoder("doc").width

    @property
    def normalised(self) -> bool | None:
        return self.cosine if self.chunks is None else None

    @property
    def similarity(self) -> Literal["dot", "cosine"]:
        return "cosine" if self.cosine else "dot"

    @property
    def vectors_per_text(self) -> Literal["one", "many"]:
        return "one" if self.chunks is None or self.chunks.score == "mean" else "many"

    @property
    def best_of(self) -> int:
        return 1 if self.chunks is None else self.chunks.best

    @property
    def packed(self) -> bool:
        return all(self.encoder(side).packed for side in self.sides)

    @property
    def training_note(self) -> str:
        notes = {side: self.encoder(side).training_note for side in self.sides}
        return notes["query"] if notes["query"] == notes["doc"] else "; ".join(f"{s}: {n}" for s, n in notes.items())

    def render(self, document: Document) -> str:
        return fill_in(self._parts, document)

    def tokenize(self, texts: Sequence[str], side: Side, *, limit: int | None = None) -> Texts:
        text, tokenizer = self.sides[side], self.encoder(side).tokenizer
        if text.cut == "left":
            return tokenizer.encode_ends(texts, text.prompt, limit or text.length)
        return tokenizer.encode(text.cutter if limit is None else tokenizer.cut(limit, text.cut), texts, text.prompt)

    def represent(self, texts: Texts, side: Side) -> Reps:
        texts, counts = texts.to(self.device), None
        if self.chunks is not None and side == "doc" and len(texts):
            tokenizer, prompt = self.encoder(side).tokenizer, self.sides[side].prompt
            texts, counts = windows(texts, self.chunks, prefix=tokenizer.head(prompt), suffix=tokenizer.trailing)
        values = self.encoder(side)(texts, skip=self.sides[side].skip)
        if self.cosine:
            values = torch.nn.functional.normalize(values, dim=-1)
        if counts is None:
            return Reps(values[:, None], torch.ones(len(values), 1, dtype=torch.bool, device=values.device))
        return self._gathered(values, counts)

    def _gathered(self, values: Float[Tensor, "windows dim"], counts: Int[Tensor, " rows"]) -> Reps:
        """The vectors of each document's chunks, or their mean: the mean of scores is the score of the mean."""
        assert self.chunks is not None
        if self.chunks.score == "mean":
            mean = torch.segment_reduce(values, "mean", lengths=counts)
            return Reps(mean[:, None], torch.ones(len(mean), 1, dtype=torch.bool, device=values.device))
        there = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
        wide = values.new_zeros(*there.shape, values.shape[1])
        return Reps(wide.index_put(there.nonzero(as_tuple=True), values), there)

    def compare(self, queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
        if self.vectors_per_text == "many":
            return similarity.maxsim(queries, docs, pairs=pairs, best=self.best_of)
        return similarity.dot(queries, docs, pairs=pairs)

    def tokenizer_key(self, side: Side, *, limit: int | None = None) -> str:
        text = self.sides[side]
        template = self.template if side == "doc" else ""
        facts = [
            side,
            text.prompt,
            limit or text.length,
            template,
            text.cutter.to_str(),
            *["left"] * (text.cut == "left"),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def fingerprint(self, side: Side) -> str:
        facts = [self.encoder(side).fingerprint(), self.tokenizer_key(side), self.cosine, self.sides[side].skip]
        facts += [] if self.chunks is None or side == "query" else [repr(self.chunks)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """The dialect that every version of sentence-transformers reads; two subfolders for separate encoders."""
        facts = writing.Facts(
            cosine=self.cosine,
            template=self.template,
            prompts={side: text.prompt for side, text in self.sides.items()},
            lengths=self.limits,
            query_cut=self.sides["query"].cut,
            chunks=self.chunks,
        )
        if "both" in self.encoders:
            writing.write_encoder(folder, self.encoder("doc"), facts)
        else:
            writing.write_pair(folder, {side: self.encoder(side) for side in self.sides}, facts)


# --- from the specification ---


def load_dense(spec: Dense, *, device: str, dtype: str, seed: int) -> DenseRanker:
    """The ranker that `spec` describes; see `Dense.load`."""
    where, width = pick_device(device), pick_dtype(dtype, device)
    query, doc = _folders(spec)
    folders: dict[Side, ModelFolder] = {"query": read_folder(query), "doc": read_folder(doc)}
    encoders: dict[Side, Encoder] = {"query": _encoder(spec, folders["query"], width, seed)}
    shared = spec.doc_backbone is None and doc == query
    encoders["doc"] = encoders["query"] if shared else _encoder(spec, folders["doc"], width, seed)
    if spec.freeze_docs:
        if shared:
            what = "freeze_docs: one encoder serves queries and documents"
            raise RecipeError(what, fix="give documents an encoder of their own: doc_backbone")
        encoders["doc"].requires_grad_(False)
    widths = {side: encoder.width for side, encoder in encoders.items()}
    if widths["query"] != widths["doc"]:
        fix = "set projection or dims so that both sides have the same number of dimensions"
        raise RecipeError(f"query vectors have {widths['query']} dimensions, documents {widths['doc']}", fix=fix)
    similarity_name = spec.similarity or folders["query"].similarity or "cosine"
    template = spec.template or folders["doc"].settings.get("template") or DEFAULT_TEMPLATE
    chunks = spec.chunks or saved_chunks(folders["doc"].settings)
    sides: dict[Side, SideText] = {side: _side(spec, folders[side], encoders[side], side, chunks) for side in encoders}
    ranker = DenseRanker(encoders, sides, cosine=similarity_name == "cosine", template=template, chunks=chunks)
    return ranker.to(where).eval()


def _folders(spec: Dense) -> tuple[Path, Path]:
    """The query encoder's folder and the document encoder's; the same one when the encoder is shared."""

    def of(name: str, side: Side) -> Path:
        folder = resolve(name)
        inside = read_settings(folder).get("encoders")
        return folder if not isinstance(inside, dict) else subfolder(folder, inside.get(side), folder)

    return of(spec.backbone, "query"), of(spec.doc_backbone or spec.backbone, "doc")


def _encoder(spec: Dense, folder: ModelFolder, dtype: torch.dtype, seed: int) -> Encoder:
    config = clean_config(folder.config, folder.path / "config.json")
    backbone, note = build_backbone(spec, folder.path, config, dtype=dtype, seed=seed)
    tokenizer = TextTokenizer(folder.path, lower_case=folder.lower_case)
    if spec.positions is not None:
        tokenizer.lengthen(spec.positions)
    encoder = Encoder(
        backbone,
        tokenizer,
        [saved_head(head) for head in folder.heads],
        config=config,
        pooling=spec.pooling or folder.pooling or "mean",  # type: ignore[arg-type]
        include_prompt=folder.include_prompt,
        dims=None,
        training_note=note,
    )
    if spec.projection is not None:
        encoder.heads.append(new_head(encoder.width, spec.projection, seed=seed))
    dims = spec.dims or (folder.dims if spec.projection is None else None)
    if dims is not None and dims > encoder.width:
        raise RecipeError(f"dims is {dims}, the vectors have {encoder.width}", where=folder.path, fix="give fewer dims")
    encoder.dims = dims
    encoder.heads.to(dtype)  # the backbone was loaded so, but for buffers that must stay precise (rotary frequencies)
    return encoder


def _side(spec: Dense, folder: ModelFolder, encoder: Encoder, side: Side, chunks: Chunks | None) -> SideText:
    asked, prompt = (spec.query_length, spec.query_prompt) if side == "query" else (spec.doc_length, spec.doc_prompt)
    said = folder.settings.get(f"{side}_length") or folder.max_length or encoder.tokenizer.max_length or _DEFAULT_LENGTH
    said = spec.positions or said
    if chunks is not None and side == "doc":
        stated = folder.settings.get("doc_length") if saved_chunks(folder.settings) else None
        length = whole_length(asked or stated, chunks, encoder.backbone, where=folder.path)
    else:
        length = checked_length(asked, said, encoder.backbone, name=f"{side}_length", where=folder.path)
    if prompt is None:
        prompt = folder.prompts.get(side, "")
    skip = 0 if encoder.include_prompt else encoder.tokenizer.prompt_tokens(prompt)
    cut = spec.query_cut or folder.settings.get("query_cut") if side == "query" else None
    return SideText(prompt, length, skip, encoder.tokenizer.cut(length, cut), cut)
