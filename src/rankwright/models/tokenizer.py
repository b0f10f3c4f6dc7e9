"""The tokenizer of one encoder: texts to ragged token ids, its files kept byte for byte for saving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
import torch

from ..errors import ArtefactError, DataError
from ..types import Texts

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
_UNLIMITED = 1_000_000


class TextTokenizer:
    """A fast tokenizer without state: each call names its prompt and its length."""

    def __init__(self, folder: Path, *, lower_case: bool) -> None:
        from transformers import AutoTokenizer

        try:
            whole = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
            backend = whole.backend_tokenizer
        except Exception as error:  # transformers raises whatever its parsers do
            reason = str(error).strip().splitlines()
            raise ArtefactError(
                f"no readable tokenizer ({reason[0][:200] if reason else type(error).__name__})",
                where=folder,
                fix="the folder needs a tokenizer.json that this version of tokenizers reads",
            ) from error
        self._base = tokenizers.Tokenizer.from_str(backend.to_str())
        self._base.no_padding()
        self._base.no_truncation()
        self.files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
        self.files.setdefault("tokenizer.json", self._base.to_str(pretty=True).encode())
        if lower_case:  # what sentence-transformers does under do_lower_case
            lower = tokenizers.normalizers.Lowercase()
            old = self._base.normalizer
            self._base.normalizer = lower if old is None else tokenizers.normalizers.Sequence([lower, old])
        self.lower_case = lower_case
        self.pad: int = whole.pad_token_id if whole.pad_token_id is not None else 0
        self.mask: int | None = whole.mask_token_id
        self.filler: int = whole.eos_token_id if whole.eos_token_id is not None else self.pad
        self.max_length = int(whole.model_max_length) if whole.model_max_length < _UNLIMITED else None
        self.direction: str = whole.truncation_side
        self.segments = "token_type_ids" in whole.model_input_names
        self._special = frozenset(whole.all_special_ids)

    def cut(self, length: int, end: str | None = None) -> tokenizers.Tokenizer:
        """The tokenizer that keeps at most `length` tokens, special ones included; `end`: which end is lost."""
        made = tokenizers.Tokenizer.from_str(self._base.to_str())
        made.enable_truncation(length, direction=end or self.direction)
        return made

    def __len__(self) -> int:
        """Tokens known, added ones included."""
        return self._base.get_vocab_size()

    def id_of(self, token: str) -> int | None:
        """The id of one token of the vocabulary."""
        return self._base.token_to_id(token)

    def add(self, token: str) -> int:
        """Make `token` a special token that the saved files hold too; its id."""
        saved = tokenizers.Tokenizer.from_str(self.files["tokenizer.json"].decode())
        for tokenizer in (self._base, saved):
            tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)])
        self.files["tokenizer.json"] = saved.to_str(pretty=True).encode()
        found = self._base.token_to_id(token)
        assert found is not None
        return found

    @property
    def leading(self) -> int:
        """How many special tokens stand before a text: one or none."""
        return int(self._base.encode("a").ids[0] in self._special)

    @property
    def trailing(self) -> int:
        """How many special tokens stand behind a text: one or none."""
        return int(self._base.encode("a").ids[-1] in self._special)

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens the prompt takes in front of a text, leading special tokens included."""
        if not prompt:
            return 0
        ids = self._base.encode(prompt).ids
        return len(ids) - (bool(ids) and ids[-1] in self._special)

    def head(self, prompt: str) -> int:
        """How many tokens stand before a text's own: special ones and the prompt's.

        A prompt's last space often belongs to the text's first token, hence not `prompt_tokens`.
        """
        end = len(prompt.rstrip(" "))
        stops = [stop for _, stop in self._base.encode(prompt + "a").offsets]
        return next((at for at, stop in enumerate(stops) if stop > end), len(stops))

    def plain(self, text: str) -> list[int]:
        """The text's own tokens, without special ones."""
        return self._base.encode(text, add_special_tokens=False).ids

    def whole(self) -> bytes:
        """A tokenizer.json that lower-cases by itself where this tokenizer does."""
        return self._base.to_str(pretty=True).encode()

    def pair_pattern(self) -> tuple[list[int], list[int], list[int]]:
        """The special tokens before, between and behind the two texts of a pair."""
        made = self._base.encode("a", "b")
        of = made.sequence_ids
        begin, end = ([at for at, one in enumerate(of) if one == side] for side in (0, 1))
        return made.ids[: begin[0]], made.ids[begin[-1] + 1 : end[0]], made.ids[end[-1] + 1 :]

    def lengthen(self, positions: int) -> None:
        """Let the saved files say that texts of so many tokens are read."""
        config = json.loads(self.files.get("tokenizer_config.json", b"{}"))
        config["model_max_length"] = self.max_length = positions
        self.files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False).encode()

    def encode_ends(self, texts: Sequence[str], prompt: str, length: int, *, special: bool = True) -> Texts:
        """As `encode`, but of a text that is too long the last tokens stay; special tokens and prompt stay too."""
        head = self.head(prompt) if special else 0
        return keep_ends(self.encode(self._base, texts, prompt, special=special), length, head=head)

    def encode(self, cutter: tokenizers.Tokenizer, texts: Sequence[str], prompt: str, *, special: bool = True) -> Texts:
        """Ragged ids; a text without any token becomes one end (or padding) token, so that it has a vector.

        Args:
            special: with the tokenizer's special tokens; without, a text may have no token at all.
        """
        filler = [self.filler] if special else []
        try:
            made = cutter.encode_batch_fast([prompt + t for t in texts], add_special_tokens=special)
            rows = [encoding.ids or filler for encoding in made]
        except (TypeError, UnicodeEncodeError):
            bad = next((i for i, t in enumerate(texts) if not isinstance(t, str) or _has_surrogate(t)), 0)
            raise DataError(
                f"text {bad} of this batch is not valid Unicode: {texts[bad]!r:.80}",
                fix="remove lone surrogates from the data",
            ) from None
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        values = np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1]))
        return Texts(torch.from_numpy(values), torch.from_numpy(offsets))


def keep_ends(texts: Texts, length: int, *, head: int) -> Texts:
    """Texts of at most `length` tokens: a longer one keeps its first `head` tokens and its last."""
    head = min(head, length - 1)
    over = (texts.lengths - length).clamp(min=0)
    place = torch.arange(len(texts.values)) - torch.repeat_interleave(texts.offsets[:-1], texts.lengths)
    kept = (place < head) | (place >= head + torch.repeat_interleave(over, texts.lengths))
    lengths = texts.lengths - over
    return Texts(texts.values[kept], torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def _has_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)
