"""The verb that clusters training queries: topics."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import assemble
from ..console import out, table
from ..data import Reading, write_topics
from ..outputs import new_file

if TYPE_CHECKING:
    from ..search import Clusters

_SHOWN = 10  # topics
_EXAMPLES = 3  # queries of each
_WIDTH = 40  # characters of a query


def topics(given: Namespace) -> None:
    from ..models import load
    from ..search import k_means
    from ..search.topic_plot import check_plot, plot_topics

    path = new_file(given.out)
    if given.plot:
        check_plot(Path(given.plot))
    dataset = assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))
    ids = list(dataset.qrels(given.split).queries)
    device = assemble.pick_device(given.device)
    vectors = assemble.encode_queries(load(given.model, device=device), dataset, ids, device=device)
    found = k_means(vectors, given.topics, seed=given.seed, ids=ids)
    write_topics(path, [(query, str(topic)) for query, topic in zip(ids, found.assigned.tolist())])
    if given.plot:
        plot_topics(Path(given.plot), vectors, found)
    texts = [dataset.queries[int(row)].text for row in assemble.rows_of(dataset.queries, ids, "query")]
    out(_shown(found, texts))
    sizes = found.sizes
    counts = f"{len(sizes):,} topics of {len(ids):,} queries, {sizes[-1]:,} to {sizes[0]:,}"
    out(f"topics: {given.out}  ({counts}, median {np.median(sizes):g})")
    if given.plot:
        out(f"plot:   {given.plot}")
    out(f"next:   in a recipe's stage: batches: {{ByTopic: {{topics: {given.out}, size: 32}}}}")


def _shown(found: Clusters, texts: list[str]) -> str:
    """The largest topics with their sizes and the queries nearest to their means."""
    rows = []
    for topic in range(min(_SHOWN, len(found.sizes))):
        nearest = [texts[row] for row in found.nearest(topic, _EXAMPLES).tolist()]
        shown = [text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..." for text in nearest]
        rows.append([" | ".join(shown), str(topic), f"{found.sizes[topic]:,}"])
    return table(["queries nearest to the mean", "topic", "queries"], rows)
