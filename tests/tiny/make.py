"""Makes the tiny test model and data set beside it, the same bytes each time: `python tests/tiny/make.py [folder]`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

VOCABULARY = 400
HIDDEN, INTERMEDIATE, LAYERS, HEADS, POSITIONS, MAX_LENGTH = 32, 48, 2, 2, 96, 64

DOCUMENTS = [  # (id, title, text); titles are sometimes empty, as in real collections
    ("d01", "Sourdough bread", "Sourdough bread rises by wild yeast. Feed the starter with flour and water every day."),
    ("d02", "Baker's yeast", "Dry yeast makes bread dough rise within an hour in a warm kitchen."),
    ("d03", "", "Bread that is kept in a paper bag stays fresh for two days."),
    (
        "d04",
        "Phases of the moon",
        "The moon shows phases because the sun lights half of it as it circles the earth.",
    ),
    ("d05", "Tides", "The pull of the moon and the sun raises the tides of the sea twice a day."),
    ("d06", "Solar eclipse", "During a solar eclipse the moon passes between the earth and the sun."),
    ("d07", "Growing tomatoes", "Tomatoes need sun, warm soil and water at the root. Pinch out the side shoots."),
    (
        "d08",
        "Tomato blight",
        "Blight turns tomato leaves brown in wet weather. Remove sick leaves and keep plants dry.",
    ),
    ("d09", "", "Compost made of leaves and kitchen scraps feeds the soil of a garden."),
    ("d10", "Bicycle brakes", "Squeaking bicycle brakes are often dirty. Clean the rim and sand the brake pads."),
    ("d11", "Flat tyre", "To mend a flat bicycle tyre find the hole in the tube, sand it and glue a patch on it."),
    ("d12", "Bicycle chain", "A clean and oiled chain lasts longer. Wipe the bicycle chain after rain."),
    ("d13", "Honey bees", "A honey bee dances to tell the hive where flowers grow."),
    ("d14", "Bumble bees", "Bumble bees fly in cold weather and visit tomato flowers that honey bees leave alone."),
    ("d15", "", "The queen lays all the eggs of a hive while worker bees gather nectar."),
    ("d16", "Learning the violin", "Hold the violin bow loosely. Practise slowly each day with a metronome."),
    ("d17", "Tuning a piano", "A piano goes out of tune when the air in the room turns dry or damp."),
    ("d18", "Metronome", "A metronome keeps the beat while you practise music."),
    ("d19", "Green tea", "Green tea tastes bitter when the water is too hot. Let the water cool before you pour it."),
    ("d20", "Coffee", "Grind coffee just before brewing and use water that is hot but not boiling."),
]

QUERIES = {  # split -> (id, text, {document: grade}); grade 2 answers, 1 helps, 0 was judged and does not
    "train": [
        ("q01", "how does sourdough bread rise", {"d01": 2, "d02": 1, "d03": 0}),
        ("q02", "why does the moon have phases", {"d04": 2, "d06": 1}),
        ("q03", "sick tomato plants with brown leaves", {"d08": 2, "d07": 1, "d09": 0}),
        ("q04", "repair a flat bicycle tyre", {"d11": 2, "d10": 0}),
        ("q05", "how do bees find flowers", {"d13": 2, "d15": 1, "d14": 1}),
        ("q06", "practise the violin", {"d16": 2, "d18": 1}),
        ("q07", "bitter green tea", {"d19": 2, "d20": 0}),
        ("q08", "feed the soil of a garden", {"d09": 2, "d07": 1}),
    ],
    "test": [
        ("q09", "fast yeast for bread dough", {"d02": 2, "d01": 1}),
        ("q10", "what causes the tides of the sea", {"d05": 2, "d04": 0}),
        ("q11", "when does the moon hide the sun", {"d06": 2, "d04": 1}),
        ("q12", "growing tomatoes in warm soil", {"d07": 2, "d08": 1, "d14": 1}),
        ("q13", "bicycle brakes make noise", {"d10": 2, "d12": 0}),
        ("q14", "who lays eggs in a hive", {"d15": 2, "d13": 1}),
        ("q15", "keep the beat in music", {"d18": 2, "d16": 1, "d17": 0}),
        ("q16", "hot water for coffee", {"d20": 2, "d19": 1}),
    ],
}


def write_data(folder: Path) -> None:
    """A BEIR folder: corpus, queries and graded judgements of two splits."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": i, "title": title, "text": text} for i, title, text in DOCUMENTS]
    queries = [{"_id": i, "text": text} for split in QUERIES.values() for i, text, _ in split]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, rows in QUERIES.items():
        lines = [f"{query}\t{doc}\t{grade}\n" for query, _, docs in rows for doc, grade in docs.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def words() -> list[str]:
    """A WordPiece vocabulary: special tokens, single characters, the texts' words by frequency, common endings."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    texts = [f"{title} {text}" for _, title, text in DOCUMENTS] + [q[1] for rows in QUERIES.values() for q in rows]
    found = Counter(word for text in texts for word, _ in BertPreTokenizer().pre_tokenize_str(text.lower()))
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    characters = [*map(str, range(10)), *letters, *".,:;?!'\"()-/"]
    pieces = ["##" + c for c in [*letters, *map(str, range(10))]] + ["##ing", "##ed", "##es", "##er", "##ly"]
    ranked = [w for w, _ in sorted(found.items(), key=lambda item: (-item[1], item[0])) if w not in characters]
    return (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *pieces, *ranked])[:VOCABULARY]


def write_model(folder: Path) -> None:
    """A BERT of random weights in the model folder dialect that every sentence-transformers reads."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words())}
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(vocabulary, lowercase=True)._tokenizer,
        model_max_length=MAX_LENGTH, mask_token="[MASK]", **special,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=POSITIONS, type_vocab_size=1, pad_token_id=0,
    )  # fmt: skip
    model = BertModel(config)
    random = np.random.Generator(np.random.Philox(key=7))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:  # 0.2 spreads the vectors: with BERT's 0.02 all texts look alike
                values = random.normal(0, 0.2 if name.endswith("weight") else 0.02, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described.pop("backend")  # a name of transformers 5; the older one is read by 4 and 5
    described["tokenizer_class"] = "PreTrainedTokenizerFast"

    modules = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    off = dict.fromkeys(["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"], False)
    files = {
        "tokenizer_config.json": described,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(zip(modules, paths))
        ],
        "sentence_bert_config.json": {"max_seq_length": MAX_LENGTH, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer", "prompts": {}, "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True,
            **{f"pooling_mode_{name}": value for name, value in off.items()}, "include_prompt": True,
        },
    }  # fmt: skip
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    (folder / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    write_data(target / "data")
    write_model(target / "model")
