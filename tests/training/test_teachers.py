"""Teachers in the objective: TAS-B's dual supervision against its formula, stored and mean scores, what is missing."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.errors import NonFiniteError, RecipeError
from rankwright.losses import Flops, InfoNCE, KLDivergence, MarginMSE
from rankwright.models import Dense
from rankwright.training import Memory, Objective, Step, Term, check_gradients
from rankwright.training.scores import ScoreStore
from rankwright.training.step import dropout_keys
from rankwright.training.teachers import Live, Mean, Stored, Teacher
from rankwright.types import Batch, Run


def _module(name: str):
    spec = importlib.util.spec_from_file_location(f"training_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toys, ranks = _module("toys"), _module("ranks")
SEED, STEP, QUERIES, FACTOR = 3, 11, 5, 0.75
FILE = "scores.trec"  # a teacher's name in a term; here it is handed over opened
DUAL = [
    Term(MarginMSE(pairs="first"), "own"),
    Term(MarginMSE(pairs="first"), "others", FACTOR, teacher=FILE),
]  # fmt: skip
MEMORIES = [Memory(), Memory(tokens=1, graph_tokens=0, rows=1), Memory(tokens=30, graph_tokens=40, rows=2)]


def dual_batch() -> Batch:
    """Query i has positive 2i and negative 2i + 1; the targets are the first teacher's scores, of any sign."""
    rng, none = np.random.default_rng(4), torch.zeros(0, dtype=torch.int64)
    lists = torch.arange(2 * QUERIES).view(QUERIES, 2)
    return Batch(
        toys.texts(rng, QUERIES, 5), toys.texts(rng, 2 * QUERIES, 12), lists,
        torch.tensor(rng.normal(size=(QUERIES, 2)) * 3).float(), torch.ones(QUERIES, 2, dtype=torch.bool),
        none, none, torch.zeros(0),
        tuple(f"q{i}" for i in range(QUERIES)), tuple(f"d{i}" for i in range(2 * QUERIES)),
    )  # fmt: skip


def live(batch: Batch, store: ScoreStore, *, late: bool = True) -> Live:
    """A late-interaction toy that knows the texts of a (whole) batch by id."""
    rows = {"query": {n: i for i, n in enumerate(batch.query_ids)}, "doc": {n: i for i, n in enumerate(batch.doc_ids)}}
    sides = {"query": batch.queries, "doc": batch.docs}
    return Live(
        toys.Toy(late=late, seed=8).eval(),
        lambda side, ids: sides[side].take(torch.tensor([rows[side][name] for name in ids], dtype=torch.int64)),
        store,
    )


def teacher_matrix(batch: Batch) -> np.ndarray:
    """The toy teacher's scores, text by text."""
    teacher = toys.Toy(late=True, seed=8).eval()
    one = [[texts.take(torch.tensor([i])) for i in range(len(texts))] for texts in (batch.queries, batch.docs)]
    return np.array(
        [[float(teacher.compare(teacher.represent(q, "query"), teacher.represent(d, "doc")).detach()) for d in one[1]]
         for q in one[0]]
    )  # fmt: skip


def dual_loss(s: np.ndarray, pairs: np.ndarray, t: np.ndarray) -> float:
    """arXiv:2104.06967 as matchmaker computes it: columns 2j are positives, 2j + 1 negatives."""
    n = len(s)
    main = np.mean([((s[i, 2 * i] - s[i, 2 * i + 1]) - (pairs[i, 0] - pairs[i, 1])) ** 2 for i in range(n)])
    blocks = [
        np.mean([
            ((s[i, 2 * i] - s[i, 2 * j + kind]) - (t[i, 2 * i] - t[i, 2 * j + kind])) ** 2
            for i in range(n) for j in range(n) if i != j
        ])
        for kind in (0, 1)
    ]  # fmt: skip
    return float(main + FACTOR * 0.5 * sum(blocks))


def student_scores(ranker, batch: Batch) -> torch.Tensor:
    queries = batch.queries.with_keys(dropout_keys(batch.query_ids, "query", seed=SEED, step=STEP))
    docs = batch.docs.with_keys(dropout_keys(batch.doc_ids, "doc", seed=SEED, step=STEP))
    return ranker.compare(ranker.represent(queries, "query"), ranker.represent(docs, "doc"))


def dual_gradient(ranker, batch: Batch) -> dict[str, torch.Tensor]:
    """Autograd's, through central formulas in torch; the value is `dual_loss`'s."""
    s, t = student_scores(ranker, batch), torch.tensor(teacher_matrix(batch))
    own, y = torch.arange(QUERIES), batch.targets.double()
    error = (s[own, 2 * own][:, None] - s) - (t[own, 2 * own][:, None] - t)
    others = torch.ones_like(s).bool()
    others[own, 2 * own] = others[own, 2 * own + 1] = False
    main = ((s[own, 2 * own] - s[own, 2 * own + 1]) - (y[:, 0] - y[:, 1])).square().mean()
    ranker.zero_grad()
    (main + FACTOR * error[others].square().mean()).backward()
    return {n: p.grad.clone() for n, p in ranker.named_parameters()}


def distance(ranker, expected: dict[str, torch.Tensor]) -> float:
    difference = sum(float((p.grad - expected[n]).square().sum()) for n, p in ranker.named_parameters())
    return (difference / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.parametrize("late", [False, True], ids=["dense", "late"])
def test_dual_supervision_is_tas_bs_formula(late: bool, tmp_path: Path):
    batch, ranker = dual_batch(), toys.Toy(late=late)
    scores = student_scores(ranker, batch).detach().numpy()
    value = dual_loss(scores, batch.targets.double().numpy(), teacher_matrix(batch))
    expected = dual_gradient(ranker, batch)
    with ScoreStore.open(tmp_path) as store:
        for memory in MEMORIES:
            ranker.zero_grad()
            objective = Objective(DUAL, [None, live(batch, store)])
            result = Step(ranker, objective, memory=memory, seed=SEED)(batch, step=STEP)
            assert result.loss == pytest.approx(value, rel=1e-12)
            assert distance(ranker, expected) <= 1e-12
            assert result.missing == 0


WORKER = """
import importlib.util, json, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("taught", sys.argv[1]); taught = importlib.util.module_from_spec(spec)
spec.loader.exec_module(taught)
from rankwright.training import Objective, Step, distributed
from rankwright.training.scores import ScoreStore
distributed.start()
batch, worst = taught.dual_batch(), 0.0
mine = taught.toys.share(batch, distributed.rank(), distributed.world())
with ScoreStore.open(Path(sys.argv[2]), rank=distributed.rank(), world=distributed.world()) as store:
    for late in (False, True):
        ranker = taught.toys.Toy(late=late)
        scores = taught.student_scores(ranker, batch).detach().numpy()
        value = taught.dual_loss(scores, batch.targets.double().numpy(), taught.teacher_matrix(batch))
        expected = taught.dual_gradient(ranker, batch)
        for memory in taught.MEMORIES:
            ranker.zero_grad()
            objective = Objective(taught.DUAL, [None, taught.live(batch, store)])
            result = Step(ranker, objective, memory=memory, seed=taught.SEED)(mine, step=taught.STEP)
            distributed.sum_gradients(ranker.parameters())
            worst = max(worst, taught.distance(ranker, expected), abs(result.loss - value) / abs(value))
print(json.dumps(worst), flush=True)
distributed.finish()
os._exit(0)  # as the command line does: gloo's threads do not always survive an orderly exit
"""


def test_two_processes_make_the_same_of_it(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    for code, said, errors in ranks.finish(ranks.start(2, [script, __file__, tmp_path / "store"])):
        assert code == 0, errors
        assert json.loads(said.strip().splitlines()[-1]) <= 1e-12
    assert len(list((tmp_path / "store").glob("*.jsonl"))) == 2


def test_a_known_relevant_document_of_another_list_is_no_part_of_the_pool(tmp_path: Path):
    batch = dual_batch()
    knows = replace(
        batch, known_queries=torch.tensor([1]), known_docs=torch.tensor([6]), known_targets=torch.tensor([1.0])
    )
    t = teacher_matrix(batch)
    objective = Objective([DUAL[1]], [Stored(run_of(t))])
    ranker = toys.Toy(late=False)
    s = student_scores(ranker, batch).detach().numpy()
    per_query = []
    for i in range(QUERIES):
        others = [c for c in range(2 * QUERIES) if c // 2 != i and (i, c) != (1, 6)]
        per_query.append(np.mean([((s[i, 2 * i] - s[i, c]) - (t[i, 2 * i] - t[i, c])) ** 2 for c in others]))
    assert Step(ranker, objective, seed=SEED)(knows, step=STEP).loss == pytest.approx(FACTOR * np.mean(per_query))


# --- stored scores --------------------------------------------------------------------------------


def run_of(matrix: np.ndarray) -> Run:
    table = {
        f"q{i}": {f"d{j}": v for j, v in enumerate(row.tolist()) if not np.isnan(v)} for i, row in enumerate(matrix)
    }
    return Run.from_dict(table)


def test_missing_pairs_do_not_count_and_are_counted():
    batch, ranker = dual_batch(), toys.Toy(late=False)
    t = teacher_matrix(batch)
    t[0, 4] = t[2, :] = t[3, 6] = np.nan  # a negative, a whole query, a query's own document
    s = student_scores(ranker, batch).detach().numpy()
    kept = {i: [c for c in range(2 * QUERIES) if c // 2 != i and not np.isnan(t[i, c])] for i in (0, 1, 4)}
    expected = np.mean([
        np.mean([((s[i, 2 * i] - s[i, c]) - (t[i, 2 * i] - t[i, c])) ** 2 for c in columns])
        for i, columns in kept.items()
    ])  # fmt: skip
    term = Term(MarginMSE(pairs="first"), "others", teacher=FILE)
    result = Step(ranker, Objective([term], [Stored(run_of(t))]), seed=SEED)(batch, step=STEP)
    assert result.loss == pytest.approx(expected, rel=1e-12)
    assert result.missing == 1 + 9 + 1


def test_pools_take_their_targets_from_the_teacher():
    batch, ranker = dual_batch(), toys.Toy(late=False)
    t, s = teacher_matrix(batch), student_scores(ranker, batch).detach().numpy()

    def kl(columns):
        values = []
        for i in range(QUERIES):
            p, q = (np.exp(x[i, columns(i)] - np.logaddexp.reduce(x[i, columns(i)])) for x in (t, s))
            values.append(np.sum(p * np.log(p / q)))
        return np.mean(values)

    for against, columns in (("own", lambda i: [2 * i, 2 * i + 1]), ("batch", lambda i: list(range(2 * QUERIES)))):
        term = Term(KLDivergence(), against, teacher=FILE)  # type: ignore[arg-type]
        found = Step(ranker, Objective([term], [Stored(run_of(t))]), seed=SEED)(batch, step=STEP).loss
        assert found == pytest.approx(kl(columns), rel=1e-10)


def test_the_mean_of_teachers_lacks_what_one_lacks():
    one, two = np.array([[1.0, 2.0, np.nan]]), np.array([[3.0, np.nan, 5.0]])
    found = Mean([Stored(run_of(one)), Stored(run_of(two))]).score(["q0"], ["d2", "d0", "d1", "d0", "new"])
    assert np.array_equal(found, [[np.nan, 2.0, np.nan, 2.0, np.nan]], equal_nan=True)


# --- live ----------------------------------------------------------------------------------------


def test_no_pair_is_scored_twice_and_the_cache_says_the_same(tmp_path: Path):
    batch = dual_batch()
    with ScoreStore.open(tmp_path) as store:
        teacher = live(batch, store)
        first = teacher.score(batch.query_ids[:3], batch.doc_ids)
        assert len(store) == 3 * len(batch.doc_ids)
        whole = teacher.score(batch.query_ids, batch.doc_ids)
        assert np.array_equal(whole[:3], first)
        assert len(store) == QUERIES * len(batch.doc_ids)
    with ScoreStore.open(tmp_path) as store:
        teacher = live(batch, store)
        assert np.array_equal(teacher.score(batch.query_ids, batch.doc_ids), whole)
        assert teacher._ranker.calls == 0
    np.testing.assert_allclose(whole, teacher_matrix(batch), rtol=1e-12)


def test_an_own_pool_asks_for_its_lists_alone(tmp_path: Path):
    batch = dual_batch()
    with ScoreStore.open(tmp_path) as store:
        objective = Objective([Term(MarginMSE(), "own", teacher=FILE)], [live(batch, store)])
        assert Step(toys.Toy(late=False), objective)(batch, step=0).missing == 0
        assert len(store) == 2 * QUERIES


def test_a_list_is_found_where_an_earlier_process_holds_its_documents():
    """Columns are every process's documents; one that two hold is asked about once, its score stands in both."""
    asked = []

    class Listening(Teacher):
        def score(self, queries, docs, *, wanted=None):
            asked.append(wanted)
            return np.arange(3.0)[None].repeat(len(queries), 0)

    batch = dual_batch()
    second = replace(
        batch, queries=batch.queries.take(torch.tensor([0])), docs=batch.docs.take(torch.tensor([1, 2])),
        lists=torch.tensor([[0, 1]]), targets=batch.targets[:1], mask=batch.mask[:1], query_ids=("q0",),
        doc_ids=("d0", "d1", "d1", "d2"),
    )  # fmt: skip
    told = Objective([Term(MarginMSE(), "own", teacher=FILE)], [Listening()]).taught(second, first_doc=2)[0]
    assert asked[0].tolist() == [[False, True, True]]
    assert told is not None
    assert told.tolist() == [[0.0, 1.0, 1.0, 2.0]]


def test_a_score_that_is_no_number_is_not_kept(tmp_path: Path):
    batch = dual_batch()
    with ScoreStore.open(tmp_path) as store:
        teacher = live(batch, store)
        teacher._ranker.embed.weight.data[:] = float("nan")
        with pytest.raises(NonFiniteError, match="teacher"):
            teacher.score(batch.query_ids, batch.doc_ids)
        assert len(store) == 0


def test_the_gradient_proof_covers_teachers(tmp_path: Path):
    tiny = str(Path(__file__).parents[1] / "tiny" / "model")
    ranker = Dense(tiny, dropout=0.2).load(dtype="float64")
    words = ["tea leaves", "bicycle brakes", "the moon", "bread", "honey bees dance"]
    texts = [f"{word} {'of the ' * i}sea" for i, word in enumerate(words * 2)]
    batch = replace(dual_batch(), queries=ranker.tokenize(words, "query"), docs=ranker.tokenize(texts, "doc"))
    with ScoreStore.open(tmp_path) as store:
        rows = {"query": list(batch.query_ids), "doc": list(batch.doc_ids)}
        sides = {"query": batch.queries, "doc": batch.docs}
        teacher = Live(
            Dense(tiny, similarity="dot", pooling="cls").load(),
            lambda side, ids: sides[side].take(torch.tensor([rows[side].index(name) for name in ids])),
            store,
        )
        terms = [*DUAL, Term(InfoNCE(), dims=(16, 8)), Term(weight=0.1, regulariser=Flops())]
        checks = list(check_gradients(ranker, Objective(terms, [None, teacher, None, None]), batch, seed=1))
    assert len(checks) == 5
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"loss": MarginMSE(), "against": "others", "teacher": FILE}, "pairs: first"),
        ({"regulariser": Flops(), "teacher": FILE}, "no teacher"),
        ({"loss": MarginMSE(), "teacher": ""}, "the teacher is ''"),
        ({"loss": MarginMSE(), "teacher": ()}, "the teacher is"),
        ({"loss": MarginMSE(), "teacher": (FILE, "")}, "the teacher is"),
    ],
)
def test_terms_that_cannot_be_taught(arguments, match: str):
    with pytest.raises(RecipeError, match=match):
        Term(**arguments)
