"""The losses written again in plain NumPy float64, one list at a time with loops: what tests compare against."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np

Array = np.ndarray


def log_softmax(x: Array) -> Array:
    return x - np.logaddexp.reduce(x)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def infonce(loss, s: Array, t: Array) -> float:
    s = s / loss.temperature
    relevant, others = s[t > 0], s[t <= 0]
    if not len(relevant):
        return 0.0
    if loss.positives == "any":
        return float(np.logaddexp.reduce(s) - np.logaddexp.reduce(relevant))
    pools = [np.append(others, p) if loss.positives == "each" else s for p in relevant]
    return float(np.mean([np.logaddexp.reduce(pool) - p for pool, p in zip(pools, relevant)]))


def symmetric(loss, s: Array, t: Array, mask: Array) -> float:
    def one_way(s, t, mask):
        values = [infonce(loss, a[k], b[k]) for a, b, k in zip(s, t, mask) if (b[k] > 0).any()]
        return float(np.mean(values)) if values else 0.0

    return (1 - loss.backward) * one_way(s, t, mask) + loss.backward * one_way(s.T, t.T, mask.T)


def kl(loss, s: Array, t: Array) -> float:
    ours, theirs = log_softmax(s / loss.temperature), log_softmax(t / loss.target_temperature)
    return float(sum(math.exp(p) * (p - o) for p, o in zip(theirs, ours)))


def soft_cross_entropy(loss, s: Array, t: Array) -> float:
    share = np.exp(log_softmax(t / loss.target_temperature))
    if loss.normalise == "sum":
        share = np.maximum(t, 0)
        if not share.sum():
            return 0.0
        share = share / share.sum()
    return float(-share @ log_softmax(s / loss.temperature))


def listnet(loss, s: Array, t: Array) -> float:
    logs = log_softmax(s / loss.temperature)
    if loss.epsilon:
        logs = np.log(np.exp(logs) + loss.epsilon)
    return float(-np.exp(log_softmax(t)) @ logs)


def pearson(loss, s: Array, t: Array) -> float:
    if len(set(t)) < 2:
        return 0.0
    return 1.0 if len(set(s)) < 2 else 1.0 - float(np.corrcoef(s, t)[0, 1])


def plackett_luce(loss, s: Array, t: Array) -> float:
    """ListMLE and PListMLE."""
    s, n = s / loss.temperature, len(s)
    order = sorted(range(n), key=lambda i: -t[i])
    weights = np.array([2.0 ** (n - k) - 1 for k in range(1, n + 1)])
    if type(loss).__name__ == "ListMLE":
        weights = np.ones(n)
    elif n < 2:
        return 0.0
    elif loss.normalise:
        weights = weights / weights.sum()
    total = 0.0
    for k, i in enumerate(order):
        left, weight = order[k:], weights[k]
        if loss.ties == "shared":
            left = [j for j in order if t[j] <= t[i]]
            weight = np.mean([weights[p] for p in range(n) if t[order[p]] == t[i]])
        total += weight * (np.logaddexp.reduce(s[left]) - s[i])
    return float(total)


def mse(loss, s: Array, t: Array) -> float:
    return float(np.mean((s - t) ** 2))


def bce(loss, s: Array, t: Array) -> float:
    y, s = np.clip(t, 0, 1), s / loss.temperature
    return float(np.mean(y * np.logaddexp(0, -s) + (1 - y) * np.logaddexp(0, s)))


def ordered_pairs(t: Array) -> list[tuple[int, int]]:
    return [(i, j) for i, j in permutations(range(len(t)), 2) if t[i] > t[j]]


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def margin_mse(loss, s: Array, t: Array) -> float:
    pairs = ordered_pairs(t)
    if loss.pairs == "top":
        pairs = [(i, j) for i, j in pairs if t[i] == t.max()]
    if loss.pairs == "all":
        pairs = [(i, j) for i in range(len(t)) for j in range(i)]
    if loss.pairs == "first":
        pairs = [(0, j) for j in range(1, len(t))]
    terms = [(s[i] - s[j] - (t[i] - t[j] if loss.margin is None else loss.margin)) ** 2 for i, j in pairs]
    return float(sum(terms)) if loss.reduction == "sum" else mean(terms)


def hinge(loss, s: Array, t: Array) -> float:
    return mean([max(0.0, loss.margin - (s[i] - s[j])) for i, j in ordered_pairs(t)])


def position(s: Array, t: Array) -> Array:
    order = sorted(range(len(s)), key=lambda i: (-s[i], t[i]))
    return np.array([order.index(i) + 1 for i in range(len(s))])


def mean_rank(t: Array) -> Array:
    return np.array([np.sum(t > y) + (np.sum(t == y) + 1) / 2 for y in t])


def ranknet(loss, s: Array, t: Array) -> float:
    student, teacher = position(s, t), mean_rank(t)
    weight = {
        "none": lambda i, j: 1.0,
        "student_rank": lambda i, j: 1 / (student[i] + student[j]),
        "teacher_rank": lambda i, j: 1 / (teacher[i] + teacher[j]),
        "difference": lambda i, j: t[i] - t[j],
        "squared_difference": lambda i, j: abs(t[i] ** 2 - t[j] ** 2),
    }[loss.weight]
    values = [weight(i, j) * np.logaddexp(0, -(s[i] - s[j]) / loss.temperature) for i, j in ordered_pairs(t)]
    return mean(values) if loss.reduction == "mean" else float(sum(values))


def lambda_loss(loss, s: Array, t: Array) -> float:
    n, rank = len(s), position(s, t)
    k = loss.k or n
    gain = 2.0 ** np.maximum(t, 0) - 1
    ideal = sum(g / math.log2(1 + r) for r, g in enumerate(sorted(gain, reverse=True)[:k], start=1))
    if loss.weighting != "none":
        if not ideal:
            return 0.0
        gain = gain / ideal

    def d(r):
        return math.log2(1 + r)

    def distance(i, j):
        apart = abs(rank[i] - rank[j])
        return abs(1 / d(apart) - 1 / d(apart + 1)) * abs(gain[i] - gain[j])

    def exchange(i, j):
        return abs(1 / d(rank[i]) - 1 / d(rank[j])) * abs(gain[i] - gain[j])

    weight = {
        "none": lambda i, j: 1.0,
        "ndcg1": lambda i, j: gain[i] / d(rank[i]),
        "ndcg2": distance,
        "lambdarank": exchange,
        "ndcg2++": lambda i, j: loss.mu * distance(i, j) + exchange(i, j),
    }[loss.weighting]
    pairs = list(product(range(n), range(n))) if loss.weighting == "ndcg1" else ordered_pairs(t)
    inside = min if loss.cut == "either" else max
    pairs = [(i, j) for i, j in pairs if inside(rank[i], rank[j]) <= k]
    values = [weight(i, j) * np.logaddexp(0, -(s[i] - s[j]) / loss.temperature) / math.log(2) for i, j in pairs]
    return mean(values) if loss.reduction == "mean" else float(sum(values))


def smooth_rank(s: Array, temperature: float) -> Array:
    return np.array(
        [1 + sum(sigmoid((b - a) / temperature) for j, b in enumerate(s) if j != i) for i, a in enumerate(s)]
    )


def approx_ndcg(loss, s: Array, t: Array) -> float:
    gain = np.maximum(t, 0)
    if not gain.any():
        return 0.0
    gain = 2.0**gain - 1 if loss.gain == "exponential" else gain
    ideal = np.sum(np.sort(gain)[::-1] / np.log2(1 + np.arange(1, len(t) + 1)))
    return float(1 - np.sum(gain / np.log2(1 + smooth_rank(s, loss.temperature))) / ideal)


def approx_mrr(loss, s: Array, t: Array) -> float:
    if not (t > 0).any():
        return 0.0
    return float(1 - np.max(np.clip(t, 0, 1) / smooth_rank(s, loss.temperature)))


def adr_mse(loss, s: Array, t: Array) -> float:
    rank = mean_rank(t)
    weight = {"log2": 1 / np.log2(rank + 1), "reciprocal": 1 / rank, "none": np.ones(len(t))}[loss.discount]
    return float(np.mean(weight * (smooth_rank(s, loss.temperature) - rank) ** 2))


def distributions(loss, s: Array, t: Array, mask: Array) -> tuple[Array, Array]:
    """Rows of P and Q: a query with documents each, 0 where masked."""
    use = mask.any(-1)
    tables = []
    for values, temperature in ((s, loss.temperature), (t, loss.target_temperature)):
        table = np.zeros(s.shape)
        for out, row, k in zip(table, values, mask):
            if k.any():
                out[k] = np.exp(log_softmax(row[k] / temperature))
        tables.append(table[use])
    return tables[0], tables[1]


def wasserstein(loss, s: Array, t: Array, mask: Array) -> float:
    """The covariance form: documents x documents matrices, the root of their product by eigenvalues."""
    p, q = distributions(loss, s, t, mask)
    if not len(p):
        return 0.0
    samples = max(len(p) - 1, 1)
    centred = [x - x.mean(0) for x in (p, q)]
    cov_p, cov_q = (x.T @ x / samples for x in centred)
    values, vectors = np.linalg.eigh(cov_p)
    half = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    root = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ cov_q @ half), 0)).sum()
    own = np.sum(centred[0] * centred[1]) / samples
    root = (1 - loss.pairing) * root + loss.pairing * own
    return float(np.sum((p.mean(0) - q.mean(0)) ** 2) + np.trace(cov_p) + np.trace(cov_q) - 2 * root)
