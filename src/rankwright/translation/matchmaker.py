"""matchmaker's training configurations as recipes: static pairs, or TAS-Balanced sampling with two teachers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ._keys import Keys

MARKS = frozenset(
    {
        "bert_pretrained_model", "dynamic_sampler", "in_batch_negatives", "train_pairwise_distillation",
        "batch_size_train", "validation_cont", "train_tsv", "param_group0_learning_rate", "dynamic_teacher",
    }
)  # fmt: skip
_LOSSES: dict[str, Any] = {
    "margin-mse": {"MarginMSE": {"pairs": "all"}},
    "ranknet": "RankNet",
    "margin": {"Hinge": {"margin": 1.0}},
    "mrr": "ApproxMRR",
    "listnet": "ListNet",
    "lambdarank": {"LambdaLoss": {"weighting": "ndcg2", "reduction": "sum"}},
    "MSETeacherPointwise": "PointwiseMSE",
    "RankNetTeacher": {"RankNet": {"weight": "difference"}},
}
_IN_BATCH: dict[str, Any] = {
    "margin-mse": {"MarginMSE": {"pairs": "first"}},
    "ranknet": "RankNet",
    "listnet": "ListNet",
    "lambdarank": {"LambdaLoss": {"weighting": "ndcg2", "reduction": "sum"}},
    "KLDivTeacherList": "KLDivergence",
}
_UNUSED = {
    "learning_rate_scheduler_patience": "matchmaker does not use it either: its rate falls by a fixed cosine",
    "learning_rate_scheduler_factor": "matchmaker does not use it either: its rate falls by a fixed cosine",
    "sparse_gradient_embedding": "for word embeddings",
    "embedding_optimizer": "for word embeddings",
    "embedding_optimizer_learning_rate": "for word embeddings",
    "embedding_optimizer_momentum": "for word embeddings",
    "token_embedder_type": "the model folder decides",
    "model_input_type": "the model folder decides",
    "batch_size_eval": "memory is bounded by tokens: train.micro_batch_tokens",
    "store_n_best_checkpoints": "the best step is kept: stages.0.validate",
    "validation_cont_use_cache": "vectors are cached by content",
    "secondary_output": "nothing of the kind is written",
}
_DATA = {
    "validation_cont": "add stages.0.validate: {dataset: ..., split: dev, every: 4000, patience: 30}",
    "validation_end": "add stages.0.validate",
    "test": "add evaluate: [{dataset: ..., split: ..., measures: [nDCG@10]}]",
    "leaderboard": "add evaluate",
    "query_sets": "add evaluate",
    "run_dense_retrieval_eval": "add evaluate: it retrieves from the whole corpus",
}


def translated(keys: Keys) -> dict[str, Any]:
    """The recipe of a matchmaker configuration (arXiv:2104.06967 among them); absent keys have its defaults.

    Raises:
        RecipeError: a value is not what matchmaker takes.
    """
    tas = keys.take("dynamic_sampler", False) is True
    stage: dict[str, Any] = _dynamic(keys) if tas else _static(keys)
    stage["objective"] = _objective(keys)
    stage["train"] = _train(keys, endless=tas)
    recipe = {"model": _model(keys), "stages": [stage], "seed": int(keys.number("random_seed", 208973249))}
    for notes in (_UNUSED, _DATA):
        for key, why in notes.items():
            keys.refuse(key, why, neutral=(False,))
    measure, every = keys.take("validation_metric", "nDCG@10"), keys.take("validate_every_n_batches", 4000)
    patience = keys.take("early_stopping_patience", 30)
    keys.unmapped["validation"] = (
        f"matchmaker stops by {measure}, measured every {every} batches, patience {patience}, on files of its own: "
        "add stages.0.validate for a data set with a dev split"
    )
    keys.refuse("min_steps_training", "early stopping alone decides", neutral=(0,))
    keys.rest()
    return recipe


def _dynamic(keys: Keys) -> dict[str, Any]:
    """TAS-Balanced: teacher scores of pairs, balanced margins, batches by topic."""
    if (kind := keys.take("dynamic_sampler_type", "tas_balanced")) != "tas_balanced":
        keys.refuse("dynamic_sampler_type", f"'{kind}' is unknown; the recipe samples as tas_balanced")
    dataset = _dataset(keys)
    scores = keys.text("dynamic_pairs_with_teacher_scores")
    if scores is None:
        scores = "pairs_with_teacher_scores.tsv"
        keys.assume(f"dynamic_pairs_with_teacher_scores: the recipe says {scores}")
    topics = keys.text("dynamic_query_cluster_file")
    if topics is None:
        keys.assume("dynamic_query_cluster_file: the recipe says topics.tsv, made by `rankwright topics`")
    else:
        why = f"{topics} has one cluster a line; topics.tsv has query and topic: make it by `rankwright topics`"
        keys.unmapped["dynamic_query_cluster_file"] = why
    strategy = keys.take("tas_balanced_pair_strategy", "random")
    if strategy not in ("bins", "random"):
        keys.refuse("tas_balanced_pair_strategy", "matchmaker draws uniformly then, and so does the recipe")
    batches: dict[str, Any] = {"topics": "topics.tsv", "size": keys.number("batch_size_train", 32)}
    if (several := keys.number("dynamic_clusters_per_batch", 1)) != 1:
        batches["per_batch"] = several
    return {
        "data": [{"Scored": {"dataset": dataset, "scores": scores}}],
        "group": {"MarginBins": {"bins": 10 if strategy == "bins" else 1}},
        "batches": {"ByTopic": batches | {"variant": "code"}},
    }


def _dataset(keys: Keys) -> str:
    """The folder of queries and collection; matchmaker names the two files."""
    queries, corpus = keys.text("dynamic_query_file"), keys.text("dynamic_collection_file")
    if corpus is None or queries is None:
        keys.assume("dynamic_collection_file and dynamic_query_file: the recipe says data/msmarco")
        return "data/msmarco"
    folder = PurePosixPath(corpus).parent
    if PurePosixPath(corpus).name != "collection.tsv":
        keys.unmapped["dynamic_collection_file"] = (
            f"a data set's documents: put {corpus} into {folder} as collection.tsv"
        )
    if PurePosixPath(queries) != folder / "queries.tsv":
        keys.unmapped["dynamic_query_file"] = f"a data set's queries: put {queries} into {folder} as queries.tsv"
    return str(folder)


def _static(keys: Keys) -> dict[str, Any]:
    """Triples written out, with a teacher's scores or without."""
    scored = keys.take("train_pairwise_distillation", False) is True
    file = keys.text("train_tsv", "train.tsv")
    folder = f"data/{PurePosixPath(str(file)).name.partition('.')[0]}"
    command = f"rankwright convert {file} --from matchmaker-texts --out {folder}"
    keys.unmapped["train_tsv"] = f"texts have no ids there: first run {command}"
    data = (
        {"Scored": {"dataset": folder, "scores": f"{folder}/scores.tsv"}} if scored else {"Judged": {"dataset": folder}}
    )
    group = {"MarginBins": {"bins": 1}} if scored else {"OneRelevant": {"negatives": 1}}
    size = keys.number("batch_size_train", 32)
    return {"data": [data], "group": group, "batches": {"Shuffled": {"size": size, "repeats": True}}}


def _objective(keys: Keys) -> list[dict[str, Any]]:
    keys.take("train_pairwise_distillation")
    loss, weight = keys.take("loss", "ranknet"), keys.number("in_batch_main_pair_lambda", 1)
    if loss not in _LOSSES:
        keys.refuse("loss", "no counterpart; the recipe has MarginMSE")
    terms: list[dict[str, Any]] = [{"loss": _LOSSES.get(loss, _LOSSES["margin-mse"]), "against": "own"}]
    if keys.take("in_batch_negatives", False) is True:
        terms[0] |= {"weight": weight} if weight != 1 else {}
        loss = keys.take("in_batch_neg_loss", "lambdarank")
        if loss not in _IN_BATCH:
            keys.refuse("in_batch_neg_loss", "no counterpart; the recipe has MarginMSE")
        term = {"loss": _IN_BATCH.get(loss, _IN_BATCH["margin-mse"]), "against": "others"}
        terms.append(term | {"weight": keys.number("in_batch_neg_lambda", 0.2)} | _teacher(keys))
    else:
        for key in ("in_batch_neg_loss", "in_batch_neg_lambda"):
            keys.take(key)
    keys.refuse("dynamic_teacher_per_term_scores", "teachers give one score a pair", neutral=(False,))
    for key in ("minimize_sparsity", "sparsity_loss_lambda_factor", "train_qa_spans", "qa_loss", "qa_loss_lambda"):
        keys.refuse(key, "no such term here", neutral=(False,))
    return terms


def _teacher(keys: Keys) -> dict[str, Any]:
    wanted = keys.take("dynamic_teacher", False) is True and keys.take("dynamic_teacher_in_batch_scoring", True) is True
    path = keys.text("dynamic_teacher_path")
    if not wanted:
        return {}
    if path is None:
        path = "runs/colbert/model"
        keys.assume(f"dynamic_teacher_path: the recipe says {path}")
    else:
        keys.unmapped["dynamic_teacher_path"] = f"{path} is a matchmaker checkpoint: give a ColBERT folder instead"
    return {"teacher": {"Late": {"backbone": path}}}


def _train(keys: Keys, *, endless: bool) -> dict[str, Any]:
    train: dict[str, Any] = {"learning_rate": keys.number("param_group0_learning_rate", 7e-6)}
    if endless:
        train["steps"] = 850_000
        keys.take("epochs")
        keys.assume("850,000 steps: over so many its learning rate falls by a cosine; it stops earlier by validation")
    else:
        train["epochs"] = keys.number("epochs", 25)
    train |= {"schedule": "cosine", "warmup": 100, "max_grad_norm": 10_000.0}
    train["weight_decay"] = keys.number("param_group0_weight_decay", 0.0)
    if (several := keys.number("gradient_accumulation_steps", -1)) > 1:
        train["accumulate"] = several
    train["precision"] = "fp16" if keys.take("use_fp16", True) is True else "float32"
    keys.refuse("optimizer", "AdamW is the only optimizer; without weight decay it is Adam", neutral=("adam",))
    for key in ("param_group1_names", "param_group1_learning_rate", "param_group1_weight_decay"):
        keys.refuse(key, "one learning rate for all weights")
    keys.refuse("train_data_augment", "texts are taken as they are", neutral=("none",))
    keys.refuse("dataloader_num_workers", "threads that prepare batches: stages.0.train.workers")
    return train


def _model(keys: Keys) -> dict[str, Any]:
    kind, backbone = str(keys.take("model", "bert_dot")), keys.text("bert_pretrained_model", "distilbert-base-uncased")
    queries, docs = keys.number("max_query_length", 30), keys.number("max_doc_length", 200)
    for key in ("min_query_length", "min_doc_length"):
        keys.refuse(key, "texts are packed without padding", neutral=(-1,))
    keys.refuse("bert_trainable", "add freeze: [embeddings, layers] to the model", neutral=(True,))
    keys.refuse("train_embedding", "add freeze: [embeddings] to the model", neutral=(True,))
    keys.refuse("use_title_body_sep", "the model's template joins title and text", neutral=(False,))
    keys.refuse("use_cls_scoring", "scores are MaxSim or dot products", neutral=(False,))
    late = "colbert" in kind.lower()
    masks = keys.number("query_augment_mask_number", -1)
    if not late and "dot" not in kind.lower():
        keys.refuse("model", "only bert_dot and ColBERT are translated; the recipe has bert_dot")
    if late:
        keys.assume(f"query expansion: {masks} [MASK] tokens there, filled up to query_length here")
        late_model = {"backbone": backbone, "similarity": "dot", "query_length": queries, "doc_length": docs}
        return {"Late": late_model | {"query_expansion": masks > 0}}
    if masks > 0:
        keys.refuse("query_augment_mask_number", "queries of a single vector are not expanded")
    dense = {"backbone": backbone, "pooling": "cls", "similarity": "dot", "query_length": queries, "doc_length": docs}
    return {"Dense": dense}
