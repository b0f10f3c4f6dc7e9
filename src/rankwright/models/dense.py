"""Dense, the single-vector retriever as a recipe names it: a frozen specification that `load` turns into a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from .checks import check_choice, check_probability
from .long import Chunks, Cut, Extension, check_long
from .specification import continued

if TYPE_CHECKING:
    from .ranker import Ranker

DEFAULT_TEMPLATE = "{title} {text}"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the backbone's linear layers (arXiv:2106.09685); needs the extra ``lora``.

    Args:
        rank: rank r of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of dropping the adapter's input in training.
        targets: endings of module names to adapt, e.g. ``["query", "value"]``; none given: all linear layers.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1:
            raise RecipeError(f"lora rank is {self.rank}", fix="give a rank of 1 or more, e.g. 16")
        if self.alpha <= 0:
            raise RecipeError(f"lora alpha is {self.alpha}", fix="give a number above 0, e.g. twice the rank")
        check_probability("lora dropout", self.dropout)


@dataclass(frozen=True)
class Dense:
    """A single-vector retriever: one vector per text, compared by dot product (DPR, arXiv:2004.04906).

    Every field that is None takes what the model folder says, else the default named here.

    Args:
        backbone: model folder, or hub id ``org/name`` with an optional ``@revision``.
        pooling: first token, mean of the tokens (default), or last token.
        similarity: ``cosine`` (default) normalises the vectors to length 1; ``dot`` leaves them as they are.
        query_length: most tokens of a query, special tokens included (default: the folder's maximum).
        doc_length: most tokens of a document, special tokens included (default: the folder's maximum).
        query_prompt: put before each query (default: nothing).
        doc_prompt: put before each document (default: nothing).
        template: how title and text become one string (default ``"{title} {text}"``). With BERT's separator between
            them, ``"{title}[SEP]{text}"``, they are read as DPR reads its pairs: under one segment id.
        positions: tokens that a text may have: a checkpoint with fewer positions gets more, and texts are as long
            unless a length is given.
        extension: of positions; see docs/methods/long.md. Of a table ``tiled`` (default), ``random`` or
            ``interpolated``; of rotary ones ``yarn`` (default), ``ntk`` or ``linear``.
        query_cut: which end of a query that is too long is lost: ``right`` (default, unless the tokenizer says
            otherwise); ``left`` keeps the last turns of a conversation. Special tokens and prompt stay.
        doc_backbone: a separate encoder for documents; None: one encoder serves both sides.
        projection: width of a new linear layer on top of the pooled vector.
        dims: keep the first so many dimensions (Matryoshka, arXiv:2205.13147).
        chunks: read documents in chunks, e.g. ``{length: 256, overlap: 64}``; `doc_length` is then the whole document's
            (8192 where it is not given). See docs/methods/long.md.
        dropout: hidden dropout in training; None: the checkpoint's own.
        lora: train low-rank adapters in place of the weights.
        freeze: parts that are not trained: ``embeddings``, ``layers.0-2``, or the start of parameter names.
        freeze_docs: train the queries' encoder alone (DPR's fix_ctx_encoder); documents need one of their own.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    backbone: str
    pooling: Literal["cls", "mean", "last"] | None = None
    similarity: Literal["dot", "cosine"] | None = None
    query_length: int | None = None
    doc_length: int | None = None
    query_prompt: str | None = None
    doc_prompt: str | None = None
    template: str | None = None
    doc_backbone: str | None = None
    projection: int | None = None
    dims: int | None = None
    positions: int | None = None
    extension: Extension | None = None
    query_cut: Cut | None = None
    chunks: Chunks | None = None
    dropout: float | None = None
    lora: Lora | None = None
    freeze: tuple[str, ...] = ()
    freeze_docs: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        if not self.backbone or self.doc_backbone == "":
            raise RecipeError("the backbone is empty", fix="give a model folder or a hub id such as org/name")
        check_choice("pooling", self.pooling, ("cls", "mean", "last"))
        check_choice("similarity", self.similarity, ("dot", "cosine"))
        for name, least in (("query_length", 3), ("doc_length", 3), ("projection", 1), ("dims", 1)):
            value: int | None = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", fix=f"give a number of {least} or more, or leave it out")
        if self.dropout is not None:
            check_probability("dropout", self.dropout)
        if self.template is not None:
            check_template(self.template)
        check_long(self.positions, self.extension, self.query_cut)
        if self.projection is not None and self.dims is not None and self.dims > self.projection:
            raise RecipeError(
                f"dims {self.dims} is more than the projection's {self.projection}", fix="give fewer dims"
            )

    def started_from(self, folder: str) -> Dense:
        """See `specification.continued`."""
        return replace(continued(self, folder), freeze_docs=self.freeze_docs)

    def load(self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> Ranker:
        """The model itself, in evaluation mode.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:1``.
            dtype: of the weights: ``float32``, ``float64``; on a GPU also ``bfloat16`` and ``float16``.
            seed: of the initial values of new weights (projection, LoRA).

        Raises:
            UsageError: no such folder, device or dtype; RecipeError: a field that does not fit this checkpoint.
            ArtefactError: a folder that is damaged, unsafe, or holds something this library does not read.
            RemoteError: the hub could not be reached.
        """
        from .dense_ranker import load_dense

        return load_dense(self, device=device, dtype=dtype, seed=seed)


def check_template(template: str) -> list[tuple[str, str]]:
    """(literal, field) parts of a title/text template.

    Raises:
        RecipeError: fields other than {title} and {text}, one twice, or no {text}.
    """
    fix = f"use {{title}} and {{text}} once each, e.g. {DEFAULT_TEMPLATE!r}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise RecipeError(f"template {template!r}: {error}", fix=fix) from None
    fields = [field for _, field, _, _ in parts if field is not None]
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not plain or "text" not in fields or len(fields) != len(set(fields)) or set(fields) - {"title", "text"}:
        raise RecipeError(f"template {template!r} cannot be filled in", fix=fix)
    return [(literal, field or "") for literal, field, _, _ in parts]
