"""The specification of a cross-encoder, which reads query and document together; frozen, checked, light to import."""

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

Truncation = Literal["longest_first", "doc_only"]
PROMPT = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer yes or no:"


@dataclass(frozen=True)
class Cross:
    """A cross-encoder: query and document are one text, its first token's vector becomes the score (arXiv:1901.04085).

    It scores pairs: it re-ranks what a first stage found, and learns from lists (``against: own``). Every field that
    is None takes what the model folder says, else the default named here.

    Args:
        backbone: folder or hub id of a cross-encoder (``...ForSequenceClassification`` with one label), or of any
            encoder, which gets a new head.
        length: most tokens of a pair, special tokens included (default 256).
        query_length: most tokens of a query before it is joined, without special tokens; None: no limit of its own.
        truncate: what is cut from a pair that is too long: ``longest_first`` (default) as the tokenizers library
            does it, ``doc_only`` the document alone.
        template: how a document's title and text become one string (default ``"{title} {text}"``).
        positions: tokens that a text may have: a checkpoint with fewer positions gets more, and texts are as long
            unless a length is given.
        extension: of positions; see docs/methods/long.md. Of a table ``tiled`` (default), ``random`` or
            ``interpolated``; of rotary ones ``yarn`` (default), ``ntk`` or ``linear``.
        query_cut: which end of a query that is too long is lost: ``right`` (default, unless the tokenizer says
            otherwise); ``left`` keeps the last turns of a conversation. Special tokens and prompt stay.
        head: ``classification`` (default), or ``yes_no``: of a causal language model that is asked; the score is the
            logit of one answer less that of the other, behind the prompt (arXiv:2003.06713 for T5).
        prompt: of ``yes_no``: a text with ``{query}`` and ``{document}``, in this order; its three parts are tokenised
            apart from what stands between them.
        answers: of ``yes_no``: the answer that speaks for the document, and the other; one token each. None: ``yes``
            and ``no``; a tokenizer whose words begin with their space wants ``" yes"``.
        segments: tell the model which of the two texts a token belongs to (token types). Default: as the tokenizer
            does it.
        chunks: read documents in chunks, e.g. ``{length: 256, overlap: 64}``; `length` is then the whole pair's
            (8192 where it is not given). See docs/methods/long.md.
        dropout: hidden dropout in training, the head's too; None: the checkpoint's own.
        lora: train low-rank adapters in place of the encoder's weights; the head is trained whole.
        freeze: parts of the encoder that are not trained: ``embeddings``, ``embeddings.position_embeddings``,
            ``layers.0-2``, or the start of parameter names.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    backbone: str
    length: int | None = None
    query_length: int | None = None
    truncate: Truncation | None = None
    template: str | None = None
    head: Literal["classification", "yes_no"] | None = None
    prompt: str | None = None
    answers: tuple[str, str] | None = None
    segments: bool | None = None
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
        if not self.backbone:
            raise RecipeError("the backbone is empty", fix="give a model folder or a hub id such as org/name")
        check_choice("truncate", self.truncate, ("longest_first", "doc_only"))
        check_choice("head", self.head, ("classification", "yes_no"))
        if self.prompt is not None:
            prompt_parts(self.prompt)
        if self.answers is not None:
            object.__setattr__(self, "answers", tuple(self.answers))
            if len(self.answers) != 2 or len(set(self.answers)) != 2:
                raise RecipeError(f"answers are {list(self.answers)}", fix='give two, e.g. ["yes", "no"]')
        if self.head == "classification" and (self.prompt is not None or self.answers is not None):
            raise RecipeError("prompt and answers are of head: yes_no", fix="leave them out, or set head: yes_no")
        for name, least in (("length", 8), ("query_length", 1)):
            value: int | None = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", fix=f"give a number of {least} or more, or leave it out")
        if self.dropout is not None:
            check_probability("dropout", self.dropout)
        if self.template is not None:
            check_template(self.template)
        check_long(self.positions, self.extension, self.query_cut)

    def started_from(self, folder: str) -> Cross:
        """See `specification.continued`."""
        return continued(self, folder)

    def load(self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> Ranker:
        """The model itself, in evaluation mode.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:1``.
            dtype: of the weights: ``float32``, ``float64``; on a GPU also ``bfloat16`` and ``float16``.
            seed: of the initial values of new weights (head, LoRA).

        Raises:
            UsageError: no such folder, device or dtype; RecipeError: a field that does not fit this checkpoint.
            ArtefactError: a folder that is damaged, unsafe, or holds something this library does not read.
            RemoteError: the hub could not be reached.
        """
        from .cross_ranker import load_cross

        return load_cross(self, device=device, dtype=dtype, seed=seed)


def prompt_parts(prompt: str) -> tuple[str, str, str]:
    """What stands before the query, between it and the document, and behind.

    Raises:
        RecipeError: it does not hold {query} and {document}, once each, in this order.
    """
    before, found, rest = prompt.partition("{query}")
    between, there, behind = rest.partition("{document}")
    if not (found and there) or any(name in before + between + behind for name in ("{query}", "{document}")):
        raise RecipeError(f"prompt {prompt!r:.80} cannot be filled in", fix=f"once each, in this order: {PROMPT!r}")
    return before, between, behind
