"""The cross-encoder: scores of pairs, and how a `Cross` specification becomes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import RecipeError
from ..types import Document, Reps, Side, Texts
from .backbone import (
    add_lora,
    checkpoint_gradients,
    clean_config,
    freeze,
    load_classifier,
    load_language_model,
    merged_weights,
)
from .building import checked_length, extended, pick_device, pick_dtype, whole_length
from .classifier import Classifier
from .cross import PROMPT, Cross, prompt_parts
from .cross_folders import CrossFacts, CrossFolder, read_cross, write_cross
from .dense import DEFAULT_TEMPLATE, check_template
from .dropout import use_keyed_dropout
from .encoder import content_of
from .folders import saved_chunks
from .hidden import adopt_packing
from .hub import resolve
from .joining import Joiner
from .lean import mark_activations
from .long import Chunks
from .ranker import Ranker
from .template import fill_in
from .tokenizer import TextTokenizer
from .windows import score_chunks, windows

_LENGTH = 256
_STORED = 4  # lengths of a pair that are kept of each text: what is cut of a pair depends on how long both texts are


@dataclass(frozen=True)
class Asking:
    """How a language model is asked."""

    prompt: str
    answers: tuple[str, str]
    ids: tuple[int, int]


class CrossRanker(Ranker):
    """A cross-encoder; made by `Cross.load`. Its documents are pairs, made by `pairing`; its queries are empty."""

    def __init__(
        self, classifier: Classifier, tokenizer: TextTokenizer, join: Joiner, *, config: dict[str, Any],
        template: str, note: str, asking: Asking | None = None, chunks: Chunks | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classifier, self.tokenizer, self.join, self.template = classifier, tokenizer, join, template
        self.config, self._note, self.asking, self.chunks = config, note, asking, chunks
        self._parts = check_template(template)

    @property
    def limits(self) -> dict[Side, int]:
        """Tokens that a text may bring to a pair, without special tokens."""
        room = self.join.length - self.join.special
        return {"query": min(self.join.query_length or room, room), "doc": room}

    @property
    def vocabulary(self) -> int:
        return int(self.classifier.backbone.config.vocab_size)

    @property
    def vectors_per_text(self) -> Literal["none"]:
        return "none"

    @property
    def pairing(self) -> Callable[[Texts, Texts], Texts]:
        return self.join

    @property
    def packed(self) -> bool:
        return self.classifier.packed

    @property
    def training_note(self) -> str:
        return self._note

    def render(self, document: Document) -> str:
        return fill_in(self._parts, document)

    def tokenize(self, texts: Sequence[str], side: Side, *, limit: int | None = None) -> Texts:
        """Ragged token ids without special tokens, cut far behind what a pair can hold, or to `limit` tokens."""
        most = limit or _STORED * self.join.length
        if side == "query" and self.join.query_left:
            return self.tokenizer.encode_ends(texts, "", most, special=False)
        end = "right" if side == "query" and self.join.query_left is False else None
        cutter = self.tokenizer.cut(most, end)
        return self.tokenizer.encode(cutter, texts, "", special=False)

    def represent(self, texts: Texts, side: Side) -> Reps:
        """The scores of pairs, [rows, 1, 1]; queries alone are zeros."""
        if side == "query":
            values = next(self.parameters()).new_zeros(len(texts))
        elif self.chunks is None or len(texts) == 0:
            values = self.classifier(texts.to(self.device))
        else:
            values = self._chunked(texts.to(self.device), self.chunks)
        return Reps(values[:, None, None], torch.ones(len(texts), 1, dtype=torch.bool, device=values.device))

    def _chunked(self, texts: Texts, chunks: Chunks) -> Float[Tensor, " rows"]:
        """The score of each pair from those of the query with each chunk of the document."""
        assert texts.second is not None
        parts, counts = windows(texts, chunks, prefix=texts.second, suffix=len(self.join.behind))
        parts = parts if self.join.segments else replace(parts, second=None)
        return score_chunks(self.classifier(parts), counts, chunks)

    def compare(self, queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
        """The pairs' scores for every query: what counts are each query's own, which `pairs` picks."""
        scores = docs.values[:, 0, 0]
        return scores.expand(len(queries.values), -1) if pairs is None else scores[pairs]

    def tokenizer_key(self, side: Side, *, limit: int | None = None) -> str:
        cut = limit or _STORED * self.join.length
        facts = ["pair", side, cut, self.template if side == "doc" else "", self.tokenizer.cut(cut).to_str()]
        facts += ["left"] * (side == "query" and self.join.query_left is True)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def fingerprint(self, side: Side) -> str:
        state = merged_weights(self.classifier.whole)
        facts = [content_of(state), self.config, self.tokenizer_key(side), repr(self.join), repr(self.asking)]
        facts += [] if self.chunks is None else [repr(self.chunks)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """A `...ForSequenceClassification` checkpoint with one label, its activation the identity."""
        join = self.join
        facts = CrossFacts(self.template, join.length, join.query_length, join.truncate, join.segments)
        facts = replace(facts, query_cut=None if join.query_left is None else "left" if join.query_left else "right")
        facts = replace(facts, chunks=None if self.chunks is None else asdict(self.chunks))
        if self.asking is not None:
            facts = replace(facts, head="yes_no", prompt=self.asking.prompt, answers=self.asking.answers)
        whole = self.classifier.whole
        write_cross(
            folder, merged_weights(whole), self.config, self.tokenizer, facts, architecture=type(whole).__name__
        )


# --- from the specification ---


def load_cross(spec: Cross, *, device: str, dtype: str, seed: int) -> CrossRanker:
    """The ranker that `spec` describes; see `Cross.load`."""
    where, width = pick_device(device), pick_dtype(dtype, device)
    folder = read_cross(resolve(spec.backbone))
    tokenizer = TextTokenizer(folder.path, lower_case=folder.lower_case)
    config = clean_config(folder.config, folder.path / "config.json")
    grow = extended(spec, config, folder.path, seed=seed)
    asking = _asking(spec, folder, tokenizer)
    if asking is None:
        whole, note = load_classifier(folder.path, config, dtype=width, dropout=spec.dropout, seed=seed, grow=grow)
    else:
        whole, note = load_language_model(folder.path, config, dtype=width, dropout=spec.dropout, grow=grow)
    classifier = Classifier(whole, answers=asking and asking.ids)
    backbone = classifier.backbone
    path = adopt_packing(backbone) if classifier.split else "padded (the whole model at once)"
    mark_activations(whole)
    freeze(backbone, spec.freeze)
    if spec.lora is not None:
        add_lora(backbone, spec.lora, seed=seed)
        for name, parameter in backbone.named_parameters():  # a part of the head
            parameter.requires_grad_(parameter.requires_grad or name.startswith("pooler."))
        if asking is not None:
            whole.get_submodule("lm_head").requires_grad_(False)
    use_keyed_dropout(whole)
    if spec.gradient_checkpointing:
        checkpoint_gradients(backbone, folder.path)
    chunks = spec.chunks or saved_chunks(folder.settings)
    ranker = CrossRanker(
        classifier,
        tokenizer,
        _joiner(spec, folder, tokenizer, classifier, asking, chunks),
        config=config,
        template=spec.template or folder.settings.get("template") or DEFAULT_TEMPLATE,
        note=f"{path}, {note}",
        asking=asking,
        chunks=chunks,
    )
    return ranker.to(where).eval()


def _asking(spec: Cross, folder: CrossFolder, tokenizer: TextTokenizer) -> Asking | None:
    """None: the head is a classifier's."""
    said = folder.settings
    if (spec.head or said.get("head") or "classification") == "classification":
        if spec.prompt is not None or spec.answers is not None:
            what = "prompt and answers are of head: yes_no"
            raise RecipeError(what, where=folder.path, fix="leave them out, or set head: yes_no")
        return None
    prompt, answers = spec.prompt or said.get("prompt") or PROMPT, spec.answers or said.get("answers") or ("yes", "no")
    ids = []
    for answer in answers:
        tokens = tokenizer.plain(answer)
        if len(tokens) != 1:
            what = f"the answer {answer!r} is {len(tokens)} tokens"
            raise RecipeError(
                what, where=folder.path, fix='name two answers of one token each: answers: [" yes", " no"]'
            )
        ids.append(tokens[0])
    return Asking(prompt, (answers[0], answers[1]), (ids[0], ids[1]))


def _joiner(
    spec: Cross, folder: CrossFolder, tokenizer: TextTokenizer, classifier: Classifier, asking: Asking | None,
    chunks: Chunks | None,
) -> Joiner:  # fmt: skip
    settings, backbone = folder.settings, classifier.backbone
    said = (folder.max_length or tokenizer.max_length or _LENGTH) if folder.headed else _LENGTH
    said = spec.positions or settings.get("length") or said
    typed = int(getattr(backbone.config, "type_vocab_size", 0) or 0) > 1
    if spec.segments and not typed:
        raise RecipeError("segments: this model has no token types", where=folder.path, fix="leave segments out")
    told = settings.get("segments") if spec.segments is None else spec.segments
    before, between, behind = map(tuple, tokenizer.pair_pattern())
    if asking is not None:
        parts = (tuple(tokenizer.plain(part)) for part in prompt_parts(asking.prompt))
        first, between, behind = parts
        before += first
    query_length = spec.query_length or settings.get("query_length")
    if chunks is None:
        length = checked_length(spec.length, said, backbone, name="length", where=folder.path)
    else:  # half of a chunk is the document's
        stated = settings.get("length") if saved_chunks(settings) else None
        length = whole_length(spec.length or stated, chunks, backbone, where=folder.path)
        query_length = min(query_length or chunks.length, chunks.length // 2 - len(before) - len(between))
        if query_length < 1 or len(behind) >= chunks.length // 2:
            what = f"chunks.length is {chunks.length}: half of a chunk has no room for a query and the prompt"
            raise RecipeError(what, where=folder.path, fix="give longer chunks, or a shorter prompt")
    if length < (least := len(before) + len(between) + len(behind) + 2):
        what = f"length is {length}: the prompt alone has {least - 2} tokens"
        raise RecipeError(what, where=folder.path, fix="give a longer length or a shorter prompt")
    cut = spec.query_cut or settings.get("query_cut")
    return Joiner(
        before,
        between,
        behind,
        length=length,
        query_length=query_length,
        truncate=spec.truncate or settings.get("truncate") or "longest_first",
        left=tokenizer.direction == "left",
        query_left=None if cut is None else cut == "left",
        segments=typed and (tokenizer.segments if told is None else bool(told)),
        marked=chunks is not None,
    )
