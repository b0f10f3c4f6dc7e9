"""Whether a difference between two systems is more than chance: paired tests, intervals, Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from .. import randomness, signals
from ..errors import UsageError
from .measures import Measure, parse
from .metrics import Scores

TestName = Literal["t", "randomisation"]
Correction = Literal["holm", "none"]
_CELLS = 1 << 21  # of resampled values that are in memory at once
_EXACT = 1e-12  # sums of the same values in another order, relative to their size
Values = Sequence[float] | Float[np.ndarray, " queries"]


class PairedTest(NamedTuple):
    """A two-sided paired test: `difference` is the mean of system minus baseline, `p` the chance of one as large."""

    statistic: float
    p: float
    difference: float


class Difference(NamedTuple):
    """One query under two systems; `difference` is system minus baseline."""

    query: str
    baseline: float
    system: float
    difference: float


class PairedComparison(NamedTuple):
    """Two systems by one measure over the same queries; `difference` is system minus baseline.

    `interval` holds the difference at the comparison's level; `p_holm` is `p` corrected for all tests of the call,
    or `p` itself where no correction was asked for.
    """

    baseline: str
    system: str
    measure: str
    baseline_mean: float
    system_mean: float
    difference: float
    interval: tuple[float, float]
    statistic: float
    p: float
    p_holm: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    """All comparisons of one call of `compare` or `compare_pairs`, and how they were made."""

    results: tuple[PairedComparison, ...]
    test: TestName
    level: float
    rounds: int
    seed: int
    correction: Correction = "holm"

    def __iter__(self) -> Iterator[PairedComparison]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def find(self, system: str, measure: str | Measure, *, baseline: str | None = None) -> PairedComparison:
        """The comparison of `system` (with `baseline`, where there are several) by `measure`.

        Raises:
            UsageError: there is none, or more than one.
        """
        name = str(parse(measure)[0])
        found = [r for r in self if (r.system, r.measure) == (system, name) and baseline in (None, r.baseline)]
        if len(found) != 1:
            made = ", ".join(f"{r.system} with {r.baseline} by {r.measure}" for r in self)
            raise UsageError(f"{len(found)} comparisons fit {system!r} by {name}, not one", fix=f"there are: {made}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; an infinite statistic is null, as JSON has no infinity."""
        rows = []
        for result in self:
            row = result._asdict()
            row["interval"] = list(result.interval)
            row["statistic"] = result.statistic if isfinite(result.statistic) else None
            rows.append(row)
        return {**asdict(self), "results": rows}


def paired_t(baseline: Values, system: Values) -> PairedTest:
    """Student's paired two-sided t-test; statistic: t with n - 1 degrees of freedom.

    Where all differences are equal, p is 1 when they are zero and 0 otherwise.

    Raises:
        UsageError: fewer than two queries, different lengths, or a value that is not finite.
    """
    from scipy.special import stdtr

    differences = _differences(baseline, system)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        raise UsageError("a t-test needs at least two queries", fix="use randomisation or more queries")
    error = float(differences.std(ddof=1)) / sqrt(n)
    if error <= _EXACT * abs(mean):
        return PairedTest(0.0 if mean == 0 else float(np.copysign(np.inf, mean)), float(mean == 0), mean)
    t = mean / error
    return PairedTest(t, min(1.0, float(2 * stdtr(n - 1, -abs(t)))), mean)


def randomisation(baseline: Values, system: Values, *, rounds: int = 100_000, seed: int = 0) -> PairedTest:
    """Fisher's paired two-sided randomisation test of the mean difference (Smucker et al. 2007).

    Under the null hypothesis the two values of a query may be swapped. All 2^n swaps of the n queries that differ are
    counted when they are at most `rounds`; else `rounds` random ones, and the observed one (so that p is never 0).

    Raises:
        UsageError: no query, different lengths, a value that is not finite, or no round.
    """
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    differences = _differences(baseline, system)
    mean = float(differences.mean())
    moved = differences[differences != 0]  # swapping equal values changes nothing
    bound = abs(moved.sum()) - _EXACT * np.abs(moved).sum()
    exact = 2.0 ** len(moved) <= rounds
    total = 2 ** len(moved) if exact else rounds
    draw = randomness.generator(seed, "randomisation test")
    extreme = 0
    step = max(8, _CELLS // max(len(moved), 1))
    for first in range(0, total, step):
        signals.check()
        size = min(step, total - first)
        if exact:
            swaps = np.arange(first, first + size)[:, None] >> np.arange(len(moved)) & 1
        else:
            bits = np.frombuffer(draw.bytes(-(-size * len(moved) // 8)), np.uint8)
            swaps = np.unpackbits(bits, count=size * len(moved)).reshape(size, -1)
        sums = moved.sum() - 2 * (swaps.astype(np.float64) @ moved)
        extreme += int((np.abs(sums) >= bound).sum())
    p = extreme / total if exact else (extreme + 1) / (total + 1)
    return PairedTest(mean, p, mean)


def bootstrap_interval(
    values: Values, *, level: float = 0.95, rounds: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993): queries are drawn with replacement.

    Raises:
        UsageError: no value, a value that is not finite, or a level outside (0, 1).
    """
    sample = _values(values)
    if not 0 < level < 1:
        raise UsageError(f"level must be between 0 and 1, got {level}", fix="e.g. 0.95")
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    draw = randomness.generator(seed, "bootstrap")
    means = np.empty(rounds)
    step = max(1, _CELLS // len(sample))
    for first in range(0, rounds, step):
        signals.check()
        size = min(step, rounds - first)
        means[first : first + size] = sample[draw.integers(0, len(sample), (size, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the chance of one false discovery among all stays below each.

    Raises:
        UsageError: a p-value is outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UsageError(f"p-values must be between 0 and 1, got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()


def compare(
    baseline: Scores,
    others: Mapping[str, Scores],
    *,
    name: str = "baseline",
    measures: Sequence[str | Measure] | None = None,
    test: TestName = "t",
    level: float = 0.95,
    rounds: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Each of `others` with one baseline (called `name`); see `compare_pairs`."""
    if name in others:
        raise UsageError(f"two systems are called {name!r}", fix="give the baseline another name")
    pairs = [(name, other) for other in others]
    systems = {name: baseline, **others}
    return compare_pairs(systems, pairs, measures=measures, test=test, level=level, rounds=rounds, seed=seed)


def compare_pairs(
    systems: Mapping[str, Scores],
    pairs: Sequence[tuple[str, str]],
    *,
    measures: Sequence[str | Measure] | None = None,
    test: TestName = "t",
    correction: Correction = "holm",
    level: float = 0.95,
    rounds: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """(baseline, system) pairs by each measure: difference, bootstrap interval, p, and p corrected for all these tests.

    Args:
        systems: their scores by name; the two of a pair must be measured on the same queries.
        pairs: names of `systems`.
        measures: null: all that the first baseline has.
        test: ``t`` (paired t-test) or ``randomisation``; both two-sided.
        correction: ``holm``, or ``none``: for how many tests there are.
        level: of the intervals.
        rounds: of the bootstrap, and of the randomisation test where that is not exact.
        seed: of both.

    Raises:
        UsageError: a name, measure or test is unknown, or a pair has different queries.
    """
    if test not in get_args(TestName):
        raise UsageError(f"there is no test {test!r}", fix=f"choose from {', '.join(get_args(TestName))}")
    if correction not in get_args(Correction):
        raise UsageError(f"there is no correction {correction!r}", fix=f"choose from {', '.join(get_args(Correction))}")
    unknown = sorted({name for pair in pairs for name in pair} - set(systems))
    if unknown:
        raise UsageError(f"there is no system {unknown[0]!r}", fix=f"choose from {', '.join(systems)}")
    wanted = parse(systems[pairs[0][0]].measures if measures is None else measures) if pairs else []
    made: list[PairedComparison] = []
    for first, second in pairs:
        for measure in wanted:
            a, b = _aligned(systems[first], systems[second], measure)
            result = paired_t(a, b) if test == "t" else randomisation(a, b, rounds=rounds, seed=seed)
            interval = bootstrap_interval(b - a, level=level, rounds=rounds, seed=seed)
            same = np.isclose(a, b, rtol=0, atol=_EXACT)
            wins, ties = int((~same & (b > a)).sum()), int(same.sum())
            made.append(
                PairedComparison(
                    first, second, str(measure), float(a.mean()), float(b.mean()), result.difference, interval,
                    result.statistic, result.p, result.p, wins, ties, len(a) - wins - ties,
                )
            )  # fmt: skip
    if correction == "holm":
        adjusted = holm([result.p for result in made])
        made = [result._replace(p_holm=p) for result, p in zip(made, adjusted)]
    return Comparison(tuple(made), test, level, rounds, seed, correction)


def per_query_differences(baseline: Scores, system: Scores, measure: str | Measure) -> list[Difference]:
    """Every query under both systems, largest gain first, ties by query id.

    Raises:
        UsageError: the two have different queries, or the measure was not taken.
    """
    a, b = _aligned(baseline, system, measure)
    rows = [Difference(*row) for row in zip(baseline.queries, a.tolist(), b.tolist(), (b - a).tolist())]
    return sorted(rows, key=lambda row: (-row.difference, row.query))


def _aligned(baseline: Scores, system: Scores, measure: str | Measure) -> tuple[np.ndarray, np.ndarray]:
    """One measure of both, in the baseline's order of queries."""
    a, b = baseline.column(measure), system.column(measure)
    if baseline.queries == system.queries:
        return a, b
    row = {query: i for i, query in enumerate(system.queries)}
    if set(row) != set(baseline.queries):
        odd = min(set(row) ^ set(baseline.queries))
        raise UsageError(
            f"the two systems were measured on different queries: only one has {odd!r}",
            fix="evaluate both runs with the same judgements",
        )
    return a, b[[row[query] for query in baseline.queries]]


def _differences(baseline: Values, system: Values) -> np.ndarray:
    a, b = _values(baseline), _values(system)
    if len(a) != len(b):
        raise UsageError(f"a paired test needs the same queries: {len(a)} and {len(b)} values were given")
    return b - a


def _values(values: Values) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise UsageError("a list of finite numbers is needed, one a query, at least one")
    return array
