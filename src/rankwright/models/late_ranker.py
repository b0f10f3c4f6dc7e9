"""The late-interaction ranker: one vector a token, and how a `Late` specification becomes one."""

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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import RecipeError
from ..types import Document, Reps, Side, Texts
from . import late_writing, similarity
from .backbone import clean_config, position_limit
from .building import build_backbone, checked_length, new_head, pick_device, pick_dtype, saved_head, whole_length
from .dense import DEFAULT_TEMPLATE, check_template
from .encoder import Encoder
from .hub import resolve
from .late import Late
from .late_folders import PUNCTUATION, LateFolder, read_late
from .long import Chunks
from .packing import Packing
from .ranker import Ranker
from .template import fill_in
from .tokenizer import TextTokenizer
from .windows import windows

_LENGTHS: dict[Side, int] = {"query": 32, "doc": 180}
_MARKERS: dict[Side, tuple[str, str]] = {"query": ("[unused0]", "[Q]"), "doc": ("[unused1]", "[D]")}
_DIM = 128


@dataclass(frozen=True)
class LateText:
    """How the texts of one side become token ids."""

    prompt: str
    length: int
    marker: str
    marker_id: int | None  # inserted behind the leading special token; None: no marker
    cutter: tokenizers.Tokenizer
    cut: str | None = None  # which end is lost; None: as the tokenizer does it

    @property
    def room(self) -> int:
        """Tokens that are not the text's own."""
        return int(self.marker_id is not None)


@dataclass(frozen=True)
class Expansion:
    """Queries are filled up to their length with this token; whether their other tokens attend to it."""

    token: int
    attend: bool


class LateRanker(Ranker):
    """A late-interaction retriever; made by `Late.load`."""

    skip_ids: Int[Tensor, " skipped"]

    def __init__(
        self,
        encoder: Encoder,
        sides: Mapping[Side, LateText],
        *,
        cosine: bool,
        expansion: Expansion | None,
        skiplist: Sequence[str],
        template: str,
        chunks: Chunks | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.sides, self.expansion, self.template = encoder, dict(sides), expansion, template
        self.cosine, self.chunks = cosine, chunks
        self._parts = check_template(template)
        self.skiplist = tuple(skiplist)
        known = sorted({found for word in skiplist if (found := encoder.tokenizer.id_of(word)) is not None})
        self.register_buffer("skip_ids", torch.tensor(known, dtype=torch.int64), persistent=False)

    @property
    def limits(self) -> dict[Side, int]:
        return {side: text.length for side, text in self.sides.items()}

    @property
    def longest(self) -> dict[Side, int]:
        most = position_limit(self.encoder.backbone)
        return {"query": most, "doc": most if self.chunks is None else sys.maxsize}

    @property
    def vocabulary(self) -> int:
        return int(self.encoder.backbone.config.vocab_size)

    @property
    def width(self) -> int:
        """Dimensions of the token vectors."""
        return self.encoder.width

    @property
    def normalised(self) -> bool:
        return self.cosine

    @property
    def similarity(self) -> Literal["dot", "cosine"]:
        return "cosine" if self.cosine else "dot"

    @property
    def vectors_per_text(self) -> Literal["one", "many"]:
        return "many"

    @property
    def packed(self) -> bool:
        return self.encoder.packed

    @property
    def training_note(self) -> str:
        return self.encoder.training_note

    def render(self, document: Document) -> str:
        return fill_in(self._parts, document)

    def tokenize(self, texts: Sequence[str], side: Side, *, limit: int | None = None) -> Texts:
        """As every ranker; the side's marker is inserted, and queries are filled up with expansion tokens.

        Raises:
            UsageError: `limit` leaves no room for a token of the text.
        """
        text, tokenizer = self.sides[side], self.encoder.tokenizer
        if text.cut == "left":
            made = tokenizer.encode_ends(texts, text.prompt, max(1, (limit or text.length) - text.room))
        else:
            cutter = text.cutter if limit is None else tokenizer.cut(max(1, limit - text.room), text.cut)
            made = tokenizer.encode(cutter, texts, text.prompt)
        if text.marker_id is not None:
            made = _inserted(made, text.marker_id, tokenizer.leading)
        length = limit or text.length
        if side == "query" and self.expansion is not None and length <= self.longest["query"]:
            made = _filled(made, self.expansion.token, length)  # a length beyond all positions only asks for the tokens
        return made

    def represent(self, texts: Texts, side: Side) -> Reps:
        texts = texts.to(self.device)
        if len(texts) == 0:
            values = next(self.parameters()).new_zeros(0, 1, self.width)
            return Reps(values, torch.ones(0, 1, dtype=torch.bool, device=values.device))
        if self.chunks is not None and side == "doc":
            texts, packing, vectors = self._chunked(texts, self.chunks)
        else:
            packing = Packing(texts.offsets, self._seen(texts) if side == "query" else None)
            vectors = self.encoder.project(self.encoder.tokens(texts, packing))
        if self.cosine:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        real = packing.real
        values = vectors.new_zeros(*real.shape, self.width).index_put(real.nonzero(as_tuple=True), vectors)
        return Reps(values, self._matched(texts, packing) if side == "doc" else real)

    def compare(self, queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
        return similarity.maxsim(queries, docs, pairs=pairs)

    def tokenizer_key(self, side: Side, *, limit: int | None = None) -> str:
        text = self.sides[side]
        own = self.template if side == "doc" else [self.expansion and self.expansion.token]
        facts = [side, text.prompt, limit or text.length, text.marker_id, own, text.cutter.to_str()]
        facts += ["left"] * (text.cut == "left")
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def fingerprint(self, side: Side) -> str:
        own = [self.expansion and self.expansion.attend] if side == "query" else self.skip_ids.tolist()
        own += [] if self.chunks is None or side == "query" else [repr(self.chunks)]
        facts = [self.encoder.fingerprint(), self.tokenizer_key(side), own, self.cosine]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """A dialect that sentence-transformers 6 reads; PyLate's, whose vectors have length 1, unless these do not."""
        facts = late_writing.LateFacts(
            cosine=self.cosine,
            template=self.template,
            prompts={side: text.prompt for side, text in self.sides.items()},
            markers={side: text.marker for side, text in self.sides.items()},
            lengths=self.limits,
            expansion=self.expansion is not None,
            attend=self.expansion is not None and self.expansion.attend,
            skiplist=self.skiplist,
            query_cut=self.sides["query"].cut,
            chunks=self.chunks,
        )
        late_writing.write_late(folder, self.encoder, facts)

    def _chunked(self, texts: Texts, chunks: Chunks) -> tuple[Texts, Packing, Float[Tensor, "tokens dim"]]:
        """The tokens of all chunks of each document, and their vectors."""
        tokenizer, text = self.encoder.tokenizer, self.sides["doc"]
        prefix = tokenizer.head(text.prompt) + text.room
        parts, counts = windows(texts, chunks, prefix=prefix, suffix=tokenizer.trailing)
        vectors = self.encoder.project(self.encoder.tokens(parts, Packing(parts.offsets)))
        offsets = parts.offsets[torch.cat([counts.new_zeros(1), counts.cumsum(0)])]
        whole = Texts(parts.values, offsets)
        return whole, Packing(offsets), vectors

    def _seen(self, texts: Texts) -> Int[Tensor, " rows"] | None:
        """How many tokens of each query stand before its expansion; None where the expansion is attended to."""
        if self.expansion is None or self.expansion.attend:
            return None
        places = torch.arange(len(texts.values), device=texts.offsets.device)
        row = torch.repeat_interleave(texts.lengths)
        last = torch.where(texts.values == self.expansion.token, -1, places)  # its last token of another kind
        ends = texts.offsets[:-1].scatter_reduce(0, row, last, "amax") + 1
        return (ends - texts.offsets[:-1]).clamp(min=1)

    def _matched(self, texts: Texts, packing: Packing) -> Bool[Tensor, "rows longest"]:
        """The tokens that queries are compared with; a document of none but skipped ones keeps its first."""
        mask = packing.real.clone()
        mask[packing.real] = ~torch.isin(texts.values, self.skip_ids)
        mask[:, 0] |= ~mask.any(1)
        return mask


def _inserted(texts: Texts, marker: int, place: int) -> Texts:
    """Every text with the token `marker` at that place."""
    offsets = texts.offsets + torch.arange(len(texts.offsets))
    values = texts.values.new_full((len(texts.values) + len(texts),), marker)
    own = torch.ones(len(values), dtype=torch.bool)
    own[offsets[:-1] + place] = False
    values[own] = texts.values
    return Texts(values, offsets)


def _filled(texts: Texts, token: int, length: int) -> Texts:
    """Every text continued with `token` up to `length`."""
    values = texts.values.new_full((len(texts), length), token)
    values[torch.arange(length) < texts.lengths[:, None]] = texts.values
    return Texts(values.flatten(), torch.arange(len(texts) + 1) * length)


# --- from the specification ---


def load_late(spec: Late, *, device: str, dtype: str, seed: int) -> LateRanker:
    """The ranker that `spec` describes; see `Late.load`."""
    where, width = pick_device(device), pick_dtype(dtype, device)
    folder = read_late(resolve(spec.backbone))
    tokenizer = TextTokenizer(folder.path, lower_case=folder.lower_case)
    markers = {side: _marker(spec, folder, tokenizer, side) for side in _LENGTHS}
    if spec.positions is not None:
        tokenizer.lengthen(spec.positions)
    config = clean_config(folder.config, folder.path / "config.json")
    ids = [found for _, found in markers.values() if found is not None]
    backbone, note = build_backbone(
        spec, folder.path, config, dtype=width, seed=seed, vocabulary=1 + max(ids, default=0)
    )
    encoder = Encoder(
        backbone, tokenizer, [saved_head(head) for head in folder.heads],
        config=config, pooling=None, include_prompt=True, dims=None, training_note=note,
    )  # fmt: skip
    if not folder.heads:
        encoder.heads.append(new_head(encoder.width, spec.dim or _DIM, seed=seed))
    elif spec.dim not in (None, encoder.width):
        fix = "leave dim out, or start from an encoder without a projection"
        raise RecipeError(f"dim is {spec.dim}, the folder's projection has {encoder.width}", where=folder.path, fix=fix)
    encoder.heads.to(width)
    chunks = spec.chunks or folder.chunks
    ranker = LateRanker(
        encoder,
        {side: _side(spec, folder, encoder, side, markers[side], chunks) for side in _LENGTHS},
        cosine=_first(spec.similarity, folder.similarity, "cosine") == "cosine",
        expansion=_expansion(spec, folder, tokenizer),
        skiplist=_first(spec.skiplist, folder.skiplist, PUNCTUATION),
        template=_first(spec.template, folder.template, DEFAULT_TEMPLATE),
        chunks=chunks,
    )
    return ranker.to(where).eval()


def _first(*values):
    """The first that was said."""
    return next(value for value in values if value is not None)


def _marker(spec: Late, folder: LateFolder, tokenizer: TextTokenizer, side: Side) -> tuple[str, int | None]:
    """The side's marker and its id; one that the vocabulary lacks is added to it."""
    asked = spec.query_marker if side == "query" else spec.doc_marker
    if asked is None and folder.markers is not None:
        asked = folder.markers[side]
    if asked is None:
        usual, added = _MARKERS[side]
        asked = usual if tokenizer.id_of(usual) is not None else added
    if not asked:
        return "", None
    for token in (asked, asked.strip()):  # PyLate's "[Q] " may be in the vocabulary with its space, or without
        if (found := tokenizer.id_of(token)) is not None:
            return token, found
    return asked.strip(), tokenizer.add(asked.strip())


def _side(
    spec: Late, folder: LateFolder, encoder: Encoder, side: Side, marker: tuple[str, int | None], chunks: Chunks | None
) -> LateText:
    asked, prompt = (spec.query_length, spec.query_prompt) if side == "query" else (spec.doc_length, spec.doc_prompt)
    said = folder.lengths.get(side) or _LENGTHS[side]
    if side == "doc" and spec.positions is not None:
        said = spec.positions
    if chunks is not None and side == "doc":
        length = whole_length(asked or folder.whole, chunks, encoder.backbone, where=folder.path)
    else:
        length = checked_length(asked, said, encoder.backbone, name=f"{side}_length", where=folder.path)
    prompt = folder.prompts.get(side, "") if prompt is None else prompt
    room = int(marker[1] is not None)
    cut = spec.query_cut or folder.query_cut if side == "query" else None
    return LateText(prompt, length, *marker, encoder.tokenizer.cut(length - room, cut), cut)


def _expansion(spec: Late, folder: LateFolder, tokenizer: TextTokenizer) -> Expansion | None:
    if not _first(spec.query_expansion, folder.expansion, True):
        return None
    if tokenizer.mask is None:
        fix = "set query_expansion: false"
        raise RecipeError("queries are expanded with [MASK], which this tokenizer lacks", where=folder.path, fix=fix)
    return Expansion(tokenizer.mask, _first(spec.attend_to_expansion, folder.attend, False))
