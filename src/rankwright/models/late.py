"""Late, the late-interaction retriever as a recipe names it: a frozen specification that `load` turns into a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from .checks import check_choice, check_probability
from .dense import Lora, check_template
from .long import Chunks, Cut, Extension, check_long
from .specification import continued

if TYPE_CHECKING:
    from .ranker import Ranker


@dataclass(frozen=True)
class Late:
    """A late-interaction retriever: one vector per token, compared by MaxSim (ColBERT, arXiv:2004.12832, 2112.01488).

    Every field that is None takes what the model folder says, else the default named here.

    Args:
        backbone: model folder, or hub id ``org/name`` with an optional ``@revision``.
        dim: width of the token vectors (default 128); a folder that has a projection keeps its own.
        similarity: ``cosine`` (default) normalises the token vectors to length 1; ``dot`` leaves them as they are, so
            that scores can reach the margins of a cross-encoder's (matchmaker's ColBERT, arXiv:2010.02666).
        query_length: tokens of a query, special tokens, marker and expansion included (default 32).
        doc_length: most tokens of a document, special tokens and marker included (default 180).
        query_expansion: fill queries up to `query_length` with [MASK] tokens, which are scored too (default true).
        attend_to_expansion: the query's own tokens attend to those [MASK] tokens (default false, as in ColBERT).
        skiplist: tokens of documents that are never matched (default: punctuation); they are still attended to.
        query_marker: token behind the first special token of a query (default ``[unused0]`` where the vocabulary has
            it, else ``[Q]``, which is added to it); ``""``: none.
        doc_marker: the same of documents (``[unused1]`` or ``[D]``).
        query_prompt: put before each query (default: nothing).
        doc_prompt: put before each document (default: nothing).
        template: how title and text become one string (default ``"{title} {text}"``).
        positions: tokens that a text may have: a checkpoint with fewer positions gets more, and texts are as long
            unless a length is given.
        extension: of positions; see docs/methods/long.md. Of a table ``tiled`` (default), ``random`` or
            ``interpolated``; of rotary ones ``yarn`` (default), ``ntk`` or ``linear``.
        query_cut: which end of a query that is too long is lost: ``right`` (default, unless the tokenizer says
            otherwise); ``left`` keeps the last turns of a conversation. Special tokens and prompt stay.
        chunks: read documents in chunks, e.g. ``{length: 256, overlap: 64}``; `doc_length` is then the whole document's
            (8192 where it is not given). See docs/methods/long.md.
        dropout: hidden dropout in training; None: the checkpoint's own.
        lora: train low-rank adapters in place of the weights.
        freeze: parts that are not trained: ``embeddings``, ``layers.0-2``, or the start of parameter names.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    backbone: str
    dim: int | None = None
    similarity: Literal["dot", "cosine"] | None = None
    query_length: int | None = None
    doc_length: int | None = None
    query_expansion: bool | None = None
    attend_to_expansion: bool | None = None
    skiplist: tuple[str, ...] | None = None
    query_marker: str | None = None
    doc_marker: str | None = None
    query_prompt: str | None = None
    doc_prompt: str | None = None
    template: str | None = None
    positions: int | None = None
    extension: Extension | None = None
    query_cut: Cut | None = None
    chunks: Chunks | None = None
    dropout: float | None = None
    lora: Lora | None = None
    freeze: tuple[str, ...] = ()
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", tuple(self.freeze))
        if self.skiplist is not None:
            object.__setattr__(self, "skiplist", tuple(self.skiplist))
        if not self.backbone:
            raise RecipeError("the backbone is empty", fix="give a model folder or a hub id such as org/name")
        check_choice("similarity", self.similarity, ("dot", "cosine"))
        for name, least in (("dim", 1), ("query_length", 4), ("doc_length", 4)):
            value: int | None = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", fix=f"give a number of {least} or more, or leave it out")
        if self.chunks is not None and self.chunks.score != "max":
            what = f"chunks: score {self.chunks.score} is not for token vectors"
            raise RecipeError(what, fix="leave score out: the best token of all chunks counts")
        if self.attend_to_expansion and self.query_expansion is False:
            fix = "set query_expansion: true, or leave attend_to_expansion out"
            raise RecipeError("attend_to_expansion without query_expansion: there is nothing to attend to", fix=fix)
        for name in ("query_marker", "doc_marker"):
            marker: str | None = getattr(self, name)
            if marker and not marker.strip():
                raise RecipeError(f"{name} is blank", fix='give one token such as "[Q]", or "" for none')
        if self.dropout is not None:
            check_probability("dropout", self.dropout)
        if self.template is not None:
            check_template(self.template)
        check_long(self.positions, self.extension, self.query_cut)

    def started_from(self, folder: str) -> Late:
        """See `specification.continued`."""
        return continued(self, folder)

    def load(self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> Ranker:
        """The model itself, in evaluation mode.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:1``.
            dtype: of the weights: ``float32``, ``float64``; on a GPU also ``bfloat16`` and ``float16``.
            seed: of the initial values of new weights (projection, markers, LoRA).

        Raises:
            UsageError: no such folder, device or dtype; RecipeError: a field that does not fit this checkpoint.
            ArtefactError: a folder that is damaged, unsafe, or holds something this library does not read.
            RemoteError: the hub could not be reached.
        """
        from .late_ranker import load_late

        return load_late(self, device=device, dtype=dtype, seed=seed)
