"""Trove's collections (mqrel) as sources of judgements, and the flags of its training script."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import Any

from ..errors import RecipeError
from ._keys import Keys

_HUB = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_LISTS = ("mqrel", "pos_mqrel", "neg_mqrel")
_POOLING = {"mean": "mean", "first_token": "cls", "last_token": "last"}
MARKS = frozenset(_LISTS)


def translated(keys: Keys) -> dict[str, Any]:
    """The recipe of a Trove configuration: collections under `mqrel`, or `pos_mqrel` and `neg_mqrel`.

    Flags of the training script may stand beside them. What is absent is filled in with the values of the published
    runs (SyCL, arXiv:2503.23239): their flags stood on the command line.

    Raises:
        RecipeError: a collection or a value is not what Trove takes.
    """
    binary = keys.take("pos_mqrel") is not None or keys.take("neg_mqrel") is not None
    sources: list[dict[str, Any]] = []
    sizes: list[int] = []
    names: list[str] = []
    for name, grade, size in (("neg_mqrel", 0, 3), ("pos_mqrel", 1, 1), ("mqrel", None, 4)):
        given = keys.take(name, [])
        for number, collection in enumerate(given if isinstance(given, list) else [given]):
            if not isinstance(collection, dict):
                raise RecipeError(
                    f"{name}.{number} is no mapping", where=keys.where, fix="give corpus_path, query_path ..."
                )
            inner = keys.below(f"{name}.{number}", collection)
            source = _judged(inner, grade)
            kept = next(iter(source.get("keep", {}).values()), None)
            sizes.append(kept or (1 if grade is None and "grade" in source else size))
            sources.append(source)
            names.append(str(source["dataset"]))
    for source in sources:  # ids of one corpus mean nothing in another
        place = list(dict.fromkeys(names)).index(str(source["dataset"]))
        if place:
            source["namespace"] = f"{place + 1}:"
    stage = {"data": [{"Judged": source} for source in sources], "group": _group(keys, binary, sum(sizes))}
    stage["batches"] = {"Shuffled": {"size": _batch(keys), "repeats": True}}
    stage["objective"] = [_term(keys, binary)]
    stage["train"] = _train(keys)
    recipe = {"model": {"Dense": _model(keys)}, "stages": [stage]} | {"seed": int(keys.number("seed", 42))}
    keys.refuse("positive_passage_no_shuffle", "relevant documents always take turns", neutral=(False,))
    keys.refuse("negative_passage_no_shuffle", "negatives are drawn anew each epoch", neutral=(False,))
    keys.refuse("pad_to_multiple_of", "texts are packed without padding")
    keys.refuse("encoder_class", "the model folder decides", neutral=("default",))
    keys.rest()
    return recipe


def _judged(keys: Keys, grade: int | None) -> dict[str, Any]:
    """One collection as the arguments of `Judged`."""
    corpus, queries, qrels = (_place(keys, f"{role}_path") for role in ("corpus", "query", "qrel"))
    if corpus is None or qrels is None:
        missing = "corpus_path" if corpus is None else "qrel_path"
        raise RecipeError(
            f"a collection has no {missing}", where=keys.where, fix="only collections with judgements train"
        )
    folder, file = corpus
    source: dict[str, Any] = {"dataset": folder}
    if file.rpartition(".")[0] not in ("corpus", "collection"):
        keys.unmapped[f"{keys.path}corpus_path"] = f"{file}: a data set's documents are called corpus.jsonl; rename it"
    if queries is not None and queries[0] != folder:
        why = f"a data set has its own queries: put those of {queries[0]} into {folder} as queries.jsonl"
        keys.unmapped[f"{keys.path}query_path"] = why
    rows = PurePosixPath(qrels[1])
    if qrels[0] == folder and rows.parent.name == "qrels":
        source["split"] = rows.stem
    else:
        source["qrels"] = f"{qrels[0]}/{qrels[1]}"
        if _HUB.fullmatch(str(keys.take("qrel_path"))):
            keys.unmapped[f"{keys.path}qrel_path"] = (
                "qrels beside a data set are a local file: download it to this path"
            )
    if (low := keys.number("min_score")) is not None:
        source["min_grade"] = low
    if (high := keys.number("max_score")) is not None:
        source["max_grade"] = math.ceil(high) - 1  # Trove leaves out the limit itself; grades are whole
    for how in ("top", "bottom", "first", "random"):
        if (count := keys.number(f"group_{how}_k")) is not None:
            source["keep"] = {how: count}
    if (subset := keys.text("query_subset_path")) is not None:
        source["queries"] = subset
    transform = keys.take("score_transform")
    if isinstance(transform, int | float) and not isinstance(transform, bool):
        source["grade"] = transform
    elif transform not in (None, "floor", "ceil"):  # grades are whole here already
        keys.refuse("score_transform", "code cannot be translated; use grade, relabel, floor or ceil of Judged")
    if grade is not None and "grade" not in source:
        source["grade"] = grade
    for name in ("filter_fn", "group_filter_fn"):
        keys.refuse(name, "code cannot be translated; use min_grade, max_grade or keep of Judged")
    for name in ("query_cache", "corpus_cache"):
        keys.refuse(name, "vectors are cached by the content of model and corpus")
    keys.rest()
    return source


def _place(keys: Keys, key: str) -> tuple[str, str] | None:
    """(folder or hub id, file in it) of a path; None where it is absent."""
    path = keys.take(key)
    if isinstance(path, list):
        if len(path) > 1:
            keys.unmapped[f"{keys.path}{key}"] = f"{len(path)} files: put them into one, or give each a source"
        path = path[0] if path else None
    if path is None:
        return None
    if not isinstance(path, str) or not path:
        raise RecipeError(f"{keys.path}{key} is {path!r}, no path", where=keys.where, fix="write a path")
    match = _HUB.fullmatch(path)
    if match is None:
        whole = PurePosixPath(path)
        deep = whole.parent.name == "qrels"
        folder = whole.parent.parent if deep else whole.parent
        return str(folder), str(whole.relative_to(folder))
    file = PurePosixPath(match["file"])
    inner = file.parent.parent if file.parent.name == "qrels" else file.parent
    name = match["repo"] + (f"@{match['revision']}" if match["revision"] else "")
    if str(inner) == ".":
        return name, str(file)
    local = f"data/{match['repo'].rpartition('/')[2]}/{inner}"
    keys.unmapped[f"{keys.path}{key}"] = f"a folder inside {name}: download it, the recipe says {local}"
    return local, str(file.relative_to(inner))


def _group(keys: Keys, binary: bool, size: int) -> dict[str, Any]:
    given = keys.number("group_size")
    if given is None:
        keys.assume(f"group_size {size}: documents per query, as in the published runs")
    size = given or size
    strategy = keys.take("passage_selection_strategy", "random" if not binary else None)
    if binary:
        return {"OneRelevant": {"negatives": size - 1}}
    if strategy not in ("random", "most_relevant"):
        keys.refuse("passage_selection_strategy", "no group picks so; the recipe draws at random")
        strategy = "random"
    return {("Random" if strategy == "random" else "Top"): {"size": size}}


def _batch(keys: Keys) -> int:
    """Queries that one loss sees; Trove gathers them over all processes."""
    given = keys.number("per_device_train_batch_size")
    if given is None:
        keys.assume("64 queries in a batch: 16 on each of 4 GPUs, as in the published runs")
        return 64
    keys.assume(f"{given} queries in a batch: per_device_train_batch_size; multiply it by the number of GPUs")
    return given


def _term(keys: Keys, binary: bool) -> dict[str, Any]:
    loss = keys.take("loss")
    if loss is None:
        loss = "infonce" if binary else "ws2"
        keys.assume(f"loss {loss}, as in the published runs")
    known = {"infonce": "InfoNCE", "kl": "KLDivergence", "ws2": "Wasserstein2", "ws": "Wasserstein2"}
    if loss not in known:
        keys.refuse("loss", f"no loss of this name; the recipe has {'InfoNCE' if binary else 'Wasserstein2'}")
    name = known.get(loss, "InfoNCE" if binary else "Wasserstein2")
    keys.refuse("temperature_learnable", "temperatures are fixed", neutral=(False,))
    return {"loss": {name: {"temperature": keys.number("temperature", 1.0)}}, "against": "batch"}


def _train(keys: Keys) -> dict[str, Any]:
    rate = keys.number("learning_rate")
    if rate is None:
        keys.assume("learning rate 1e-5, warm-up 0.05, one epoch, 4 batches a step, as in the published runs")
    train: dict[str, Any] = {"learning_rate": rate or 1e-5}
    steps = keys.number("max_steps", -1)
    train |= {"steps": steps} if steps > 0 else {"epochs": keys.number("num_train_epochs", 1)}
    train["warmup"] = keys.number("warmup_steps") or keys.number("warmup_ratio", 0.05)
    train["weight_decay"] = keys.number("weight_decay", 0.0)
    train["max_grad_norm"] = keys.number("max_grad_norm", 1.0)
    train["accumulate"] = keys.number("gradient_accumulation_steps", 4)
    train["precision"] = "bf16" if keys.take("bf16") is True else "fp16" if keys.take("fp16") is True else "float32"
    schedule = keys.take("lr_scheduler_type", "linear")
    if schedule in ("linear", "cosine", "constant"):
        train["schedule"] = schedule
    else:
        keys.refuse("lr_scheduler_type", "the recipe falls linearly")
    if (every := keys.number("save_steps")) is not None:
        train["save_every"] = every
    return train


def _model(keys: Keys) -> dict[str, Any]:
    name, revision = keys.text("model_name_or_path"), keys.text("model_revision")
    if name is None:
        name = "facebook/contriever"
        keys.assume("backbone facebook/contriever, texts of 256 tokens, as in the published runs")
    pooling = keys.take("pooling", "mean")
    if pooling not in _POOLING:
        keys.refuse("pooling", "no pooling of this name; the recipe takes the mean")
    normalised = keys.take("normalize", False) in (True, "yes")
    model: dict[str, Any] = {
        "backbone": f"{name}@{revision}" if revision else name,
        "pooling": _POOLING.get(pooling, "mean"),
        "similarity": "cosine" if normalised else "dot",
        "query_length": keys.number("query_max_len", 256),
        "doc_length": keys.number("passage_max_len", 256),
    }
    if keys.take("use_peft") is True:
        model["lora"] = {
            "rank": keys.number("lora_r", 16), "alpha": keys.number("lora_alpha", 32),
            "dropout": keys.number("lora_dropout", 0.05),
        }  # fmt: skip
        if (targets := keys.take("lora_target_modules")) is not None:
            model["lora"]["targets"] = targets if isinstance(targets, list) else [targets]
    return model
