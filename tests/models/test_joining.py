"""Pairs joined here are the tokenizers library's own, to the token, at every length."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from rankwright.models.joining import Joiner
from rankwright.types import Texts

TINY = Path(__file__).parents[1] / "tiny" / "model" / "tokenizer.json"
PATTERNS = {  # single separator (BERT), two (RoBERTa)
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ((1,), (2,), (2,))),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", ((1,), (2, 2), (2,))),
}


def library(pattern: str) -> tokenizers.Tokenizer:
    """Words are numbers: `7 8 9` has the ids 7, 8, 9."""
    made = tokenizers.Tokenizer(models.WordLevel({str(i): i for i in range(100)} | {"[CLS]": 1, "[SEP]": 2}, "0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair, _ = PATTERNS[pattern]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def ragged(rows: list[list[int]]) -> Texts:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return Texts(torch.tensor([token for row in rows for token in row], dtype=torch.int64), offsets)


rows = st.lists(st.lists(st.integers(3, 99), max_size=14), min_size=1, max_size=6)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("direction", ["right", "left"])
@given(queries=rows, docs=rows, length=st.integers(7, 34))
def test_longest_first_is_the_librarys(pattern, direction, queries, docs, length):
    number = min(len(queries), len(docs))
    made = library(pattern)
    made.enable_truncation(length, strategy="longest_first", direction=direction)
    before, between, behind = PATTERNS[pattern][2]
    join = Joiner(before, between, behind, length, left=direction == "left", segments=True)
    pairs = join(ragged(queries[:number]), ragged(docs[:number]))
    assert pairs.second is not None
    for row, (query, doc) in enumerate(zip(queries, docs)):
        expected = made.encode(" ".join(map(str, query)), " ".join(map(str, doc)))
        ids = pairs.values[pairs.offsets[row] : pairs.offsets[row + 1]].tolist()
        assert ids == expected.ids
        if pattern == "bert":
            assert expected.type_ids == [int(place >= pairs.second[row]) for place in range(len(ids))]


@given(query=st.lists(st.integers(3, 99), max_size=14), doc=st.lists(st.integers(3, 99), max_size=14),
       length=st.integers(7, 34))  # fmt: skip
def test_doc_only_is_the_librarys_where_it_has_an_answer(query, doc, length):
    made = library("bert")
    made.enable_truncation(length, strategy="only_second")
    pairs = Joiner((1,), (2,), (2,), length, truncate="doc_only")(ragged([query]), ragged([doc]))
    assert len(pairs.values) <= length
    if len(query) + 3 + min(1, len(doc)) <= length:
        assert pairs.values.tolist() == made.encode(" ".join(map(str, query)), " ".join(map(str, doc))).ids
    else:  # the library gives up: the query is cut so that one token of the document stays
        assert pairs.values.tolist() == [1, *query[: length - 3 - min(1, len(doc))], 2, *doc[:1], 2]


def test_a_query_has_its_own_length_and_no_pairs_are_no_texts():
    join = Joiner((1,), (2,), (2,), 20, query_length=2)
    assert join(ragged([[5, 6, 7]]), ragged([[8]])).values.tolist() == [1, 5, 6, 2, 8, 2]
    assert len(join(ragged([]), ragged([]))) == 0


def test_texts_of_pairs_keep_their_segments_when_rows_are_taken():
    join = Joiner((1,), (2,), (2,), 20, segments=True)
    pairs = join(ragged([[5], [6, 7]]), ragged([[8, 9], [10]])).with_keys(torch.tensor([3, 4]))
    taken = pairs.take(torch.tensor([1])).to("cpu")
    assert taken.second is not None
    assert taken.second.tolist() == [4]
    assert taken.values.tolist() == [1, 6, 7, 2, 10, 2]
