"""The late-interaction ranker: tokens, masks and vectors against references written out, packed and padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rankwright.errors import RecipeError
from rankwright.models import Late, LateRanker
from rankwright.models.packing import Packing

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
TEXTS = ["sourdough bread", "the moon, and the sun raise the tides.", "tea", "bicycle brakes make a noise in the rain"]
CLS, SEP, MASK = 2, 3, 4


def made(**fields) -> LateRanker:
    ranker = Late(TINY, **({"dim": 16, "query_length": 12, "doc_length": 40} | fields)).load(dtype="float64")
    assert isinstance(ranker, LateRanker)
    return ranker


@pytest.fixture(scope="module")
def ranker() -> LateRanker:
    return made()


def represent(ranker, side="doc", texts=TEXTS):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, side), side)


def reference(ranker: LateRanker, texts: list[str], side: str) -> list[torch.Tensor]:
    """Each text's vectors from transformers' own padded model, attention mask and all."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(TINY).double().eval(), AutoTokenizer.from_pretrained(TINY)
    model.set_input_embeddings(ranker.encoder.backbone.get_input_embeddings())
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=ranker.limits[side] - 1)["input_ids"]
        ids = [ids[0], ranker.sides[side].marker_id, *ids[1:]]
        seen, kept = [1] * len(ids), [True] * len(ids)
        if side == "query" and ranker.expansion:
            more = ranker.limits[side] - len(ids)
            ids, seen, kept = ids + [MASK] * more, seen + [int(ranker.expansion.attend)] * more, kept + [True] * more
        if side == "doc":
            kept = [i not in ranker.skip_ids.tolist() for i in ids]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([seen])).last_hidden_state[0]
            vectors = hidden @ ranker.encoder.projections[0].linear.weight.T
        lengths = vectors.norm(dim=-1, keepdim=True) if ranker.normalised else 1.0
        rows.append((vectors / lengths)[torch.tensor(kept)])
    return rows


@pytest.mark.parametrize("side", ["query", "doc"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"attend_to_expansion": True}, {"query_expansion": False}, {"skiplist": ["a"]}, {"similarity": "dot"}],
)
def test_vectors_are_what_transformers_computes(side, fields):
    ranker = made(**fields)
    assert ranker.packed
    reps = represent(ranker, side)
    for row, expected in enumerate(reference(ranker, TEXTS, side)):
        assert (reps.values[row][reps.mask[row]] - expected).abs().max() <= 1e-12


def test_packed_and_padded_agree_and_rows_do_not_see_each_other(ranker):
    together = represent(ranker, "query")
    for row, text in enumerate(TEXTS):
        assert (represent(ranker, "query", [text]).values[0] - together.values[row]).abs().max() <= 1e-12
    ranker = made()
    ranker.encoder.backbone.set_attn_implementation("sdpa")
    assert not ranker.packed
    assert (represent(ranker, "query").values - together.values).abs().max() <= 1e-12


def test_one_padded_call_hides_the_unseen_too():
    """What runs on a GPU without a variable-length kernel."""
    from rankwright.models import packing

    q, k, v = torch.randn(3, 12, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    packed = Packing(torch.tensor([0, 5, 10, 12]), torch.tensor([3, 4, 2]))
    for causal, window in ((False, None), (True, None), (False, 2)):
        a = packing._by_runs(q, k, v, packed, None, causal, window)
        b = packing._padded(q, k, v, packed, None, causal, window)
        assert (a - b).abs().max() <= 1e-12


def test_queries_are_filled_up_with_mask_tokens(ranker):
    texts = ranker.tokenize(["tea", "bread " * 100], "query")
    assert texts.lengths.tolist() == [12, 12]
    marker, rows = ranker.sides["query"].marker_id, texts.values.view(2, 12)
    assert rows[0, :2].tolist() == [CLS, marker]
    assert rows[0, 3:].tolist() == [SEP] + [MASK] * 8
    assert rows[1, -1] == SEP
    assert ranker._seen(texts).tolist() == [4, 12]
    shorter = ranker.tokenize(["tea"], "query", limit=7)
    assert shorter.values.tolist() == rows[0, :7].tolist()
    assert made(query_expansion=False).tokenize(["tea"], "query").lengths.tolist() == [4]
    assert ranker.tokenize(["tea"], "query", limit=1 << 20).lengths.tolist() == [4]  # how long is it? not: fill it up


def test_documents_keep_their_length_and_their_marker(ranker):
    texts = ranker.tokenize(["tea", "water " * 100, ""], "doc")
    assert texts.lengths.tolist() == [4, 40, 3]
    assert texts.values[texts.offsets[:-1] + 1].tolist() == [ranker.sides["doc"].marker_id] * 3
    assert int(texts.values.max()) < ranker.vocabulary
    plain = made(query_marker="", doc_marker="")
    assert plain.tokenize(["tea"], "doc").lengths.tolist() == [3]
    assert plain.vocabulary < ranker.vocabulary


def test_punctuation_is_masked_in_documents_alone(ranker):
    tokens, reps = ranker.tokenize(["tea , tea ."], "doc"), represent(ranker, "doc", ["tea , tea ."])
    comma = ranker.encoder.tokenizer.id_of(",")
    assert reps.mask[0].tolist() == [True, True, True, False, True, False, True]
    assert tokens.values[3] == comma
    assert represent(ranker, "query", ["tea , tea ."]).mask.all()


def test_a_document_of_skipped_tokens_alone_keeps_one():
    ranker = made(skiplist=["[CLS]", "[SEP]", "."], query_marker="", doc_marker="")
    reps = represent(ranker, "doc", [". .", "tea"])
    assert reps.mask.tolist() == [[True, False, False, False], [False, True, False, False]]
    assert torch.isfinite(ranker.compare(represent(ranker, "query"), reps)).all()


def test_no_texts_give_no_rows(ranker):
    reps = represent(ranker, "doc", [])
    assert reps.values.shape == (0, 1, 16)
    assert reps.mask.shape == (0, 1)


def test_new_markers_and_projections_follow_the_seed():
    one, same = (Late(TINY, dim=8).load(seed=3) for _ in range(2))
    other = Late(TINY, dim=8).load(seed=4)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
    differing = {n for n, p in one.named_parameters() if not torch.equal(p, other.get_parameter(n))}
    assert len(differing) == 2
    assert one.fingerprint("doc") == same.fingerprint("doc") != other.fingerprint("doc")


def test_keys_and_fingerprints_change_with_what_shapes_them(ranker):
    for fields in ({"query_expansion": False}, {"query_length": 9}, {"query_prompt": "x"}, {"query_marker": ""}):
        assert made(**fields).tokenizer_key("query") != ranker.tokenizer_key("query")
        assert made(**fields).fingerprint("query") != ranker.fingerprint("query")
    attending = made(attend_to_expansion=True)
    assert attending.tokenizer_key("query") == ranker.tokenizer_key("query")
    assert attending.fingerprint("query") != ranker.fingerprint("query")
    assert attending.fingerprint("doc") == ranker.fingerprint("doc")
    assert made(skiplist=()).fingerprint("doc") != ranker.fingerprint("doc")


def test_lengths_beyond_the_positions_are_refused():
    with pytest.raises(RecipeError, match="positions for 96 tokens"):
        Late(TINY, doc_length=97).load()
    assert Late(TINY).load().limits == {"query": 32, "doc": 96}
