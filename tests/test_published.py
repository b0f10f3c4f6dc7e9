"""Every recipe that comes along: it parses, and runs a few steps on the tiny model and data."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import rankwright
from rankwright import storage
from rankwright.cli import main
from rankwright.data import Dataset, Ranking
from rankwright.loading import load_recipe
from rankwright.plan import Recipe

RECIPES = sorted(path.stem for path in (Path(rankwright.__file__).parent / "recipes").glob("*.yaml"))
MINIS = [name for name in RECIPES if name.startswith("mini-")]
SOON = ("mini-tas-b", "mini-multistage-cl-kd")  # their parts are those of the others too
MANY = ("sr-dpr", "longseq")  # methods of many recipes, of which some have all kinds of steps:
FEW = (
    "sr-dpr-inbatch-pos-poshard-hard", "mini-sr-dpr-poshard-hard", "mini-sr-dpr-joint",
    "longseq-cached-8", "mini-longseq-plain-4",
)  # fmt: skip
SHORT = ["stages.0.train.steps=2", "stages.0.batches.Shuffled.size=3", "precision=float32"]


@pytest.fixture
def place(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the recipes need: teacher scores, topics, a list of negatives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    qrels = rankwright.read_qrels(tiny_data / "qrels/train.tsv")
    draw = np.random.default_rng(0)
    docs = sorted({doc for _, some, _ in qrels for doc in some})
    scores = [f"{q}\t{d}\t{8 * (d in some) + draw.normal():.3f}\n" for q, some, _ in qrels for d in docs]
    Path("scores.tsv").write_text("".join(scores))
    Path("topics.tsv").write_text("".join(f"{q}\t{i % 2}\n" for i, q in enumerate(qrels.queries)))
    ranked = [f"{q} Q0 {d} {i} {1 / i} t\n" for q, _, _ in qrels for i, d in enumerate(draw.permutation(docs), 1)]
    Path("ranking.trec").write_text("".join(ranked))
    negatives = [f"{q}\t{d}\t0\n" for q, some, _ in qrels for d in docs if d not in some]
    strata = {q: {d: 2 if d in some else 1 for d in [*some, *docs[i % 5 : i % 5 + 2 * (i > 0)]]}
              for i, (q, some, _) in enumerate(qrels)}  # fmt: skip
    rows = [f"{q}\t{d}\t{grade}\n" for q, some in strata.items() for d, grade in some.items()]
    Path("strata.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    Path("negatives.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(negatives))
    return tmp_path


def overrides(name: str, model: Path, data: Path) -> list[str]:
    """What puts the tiny model and data in the place of the published ones."""
    plan, mini = load_recipe(name), name.startswith("mini-")
    kind = type(plan.model).__name__
    if kind == "Cross":
        return _cross(plan, model, data)
    if "sr-dpr" in name:
        return _strata(plan, model, data)
    given = [f"model.{kind}.{side}_length=24" for side in ("query", "doc")]
    given += [f"model.{kind}.backbone={model}", f"evaluate=[{{dataset: {data}, baselines: [bm25]}}]", *SHORT]
    for at, source in enumerate(plan.stages[0].data):
        which = f"stages.0.data.{at}.{type(source).__name__}"
        given.append(f"{which}.dataset={data}")
        if name.startswith("sycl") and getattr(source, "qrels", None):
            given.append(f"{which}.qrels=negatives.tsv")
        if name.endswith(("margin-mse", "tas-b", "dual-teacher")):
            given += [f"{which}.scores=scores.tsv", f"stages.0.group.MarginBins.relevant={data}/qrels/train.tsv"]
    if name.endswith(("tas-b", "dual-teacher")):
        given = [word for word in given if "Shuffled" not in word]
        given += ["stages.0.batches.ByTopic.size=3", "stages.0.batches.ByTopic.topics=topics.tsv"]
        given += [
            f"stages.0.objective.1.teacher.Late={{backbone: {model}, query_length: 24, doc_length: 24}}",
            "stages.0.validate=null",
        ]
    if plan.stages[0].mine is not None:
        given += ["stages.0.mine.keep={ranks: [1, 10]}"]
    if mini or name == "quickstart":
        given += ["stages.0.doc_length=null"]
    if plan.stages[0].train.epochs is not None:
        given = [word.replace("train.steps=2", "train.epochs=1") for word in given]
    if name == "mini-colbert":
        given = [w for w in given if "Shuffled" not in w] + ["stages.0.batches.ByDocument.size=3"]
    return [*given, "stages.0.train.precision=float32", "stages.0.train.memory=null"]


def _cross(plan: Recipe, model: Path, data: Path) -> list[str]:
    given = [f"model.Cross={{backbone: {model}, length: 24}}", "precision=float32"]
    given.append(f"evaluate=[{{dataset: {data}, depth: 10, baselines: [bm25], rerank: {{first: bm25, depth: 10}}}}]")
    for number, stage in enumerate(plan.stages):
        for at, source in enumerate(stage.data):
            which = f"stages.{number}.data.{at}.{type(source).__name__}"
            given += [f"{which}.dataset={data}"] + [f"{which}.run=ranking.trec"] * isinstance(source, Ranking)
        if stage.mine is not None:
            given.append(f"stages.{number}.mine.keep={{ranks: [1, 10]}}")
        given += [f"stages.{number}.train={{steps: 2}}", f"stages.{number}.batches.Shuffled.size=2"]
        given.append(f"stages.{number}.validate=null")
    return given


def _strata(plan: Recipe, model: Path, data: Path) -> list[str]:
    given = [f"model.Dense.{side}_length=24" for side in ("query", "doc")] + [f"model.Dense.backbone={model}"]
    given += [f"evaluate=[{{dataset: {data}, baselines: [bm25]}}]", "precision=float32"]
    if plan.model.doc_backbone is not None:
        given.append(f"model.Dense.doc_backbone={model}")
    for number, stage in enumerate(plan.stages):
        place = f"stages.{number}"
        for at in range(len(stage.data)):
            given.append(f"{place}.data.{at}.Judged.dataset={data}")
            given += [f"{place}.data.{at}.Judged.qrels=strata.tsv"] * (stage.mine is None)
        if stage.mine is not None:
            given.append(f"{place}.mine.keep={{ranks: [1, 10]}}")
        given += [f"{place}.train={{steps: {len(plan.stages) + 1}}}", f"{place}.batches.Shuffled.size=3"]
        given.append(f"{place}.doc_length=null")
    return given


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "name", [name if name in SOON else pytest.param(name, marks=pytest.mark.soak) for name in MINIS]
)
def test_a_mini_recipe_runs_on_its_own_data(
    name: str, tmp_path: Path, tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """The bundled data as the recipe says, two steps of the tiny model, no evaluation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(cache))
    qrels = rankwright.read_qrels(Path(rankwright.__file__).parent / "bundled/scifact/qrels/train.tsv")
    pairs = [(q, d, d in some) for i, (q, some, _) in enumerate(qrels) for d in [*some, qrels.docs[i % 400]]]
    scores = dict.fromkeys(f"{q} Q0 {d} 1 {9 if relevant else 1} t\n" for q, d, relevant in pairs)
    Path("scores.trec").write_text("".join(scores))
    for other in ("cross.trec", "teacher.trec"):
        shutil.copy("scores.trec", other)
    Path("topics.tsv").write_text("".join(f"{q}\t{i % 9}\n" for i, q in enumerate(qrels.queries)))
    late = f"{{backbone: {tiny_model}, query_length: 24, doc_length: 24}}"
    plan = load_recipe(name)
    kind = type(plan.model).__name__
    spec = f"{{backbone: {tiny_model}, length: 24}}" if kind == "Cross" else late
    given = [f"model.{kind}={spec}", "evaluate=[]", "precision=float32"]
    for number in range(len(plan.stages)):
        given += [
            f"stages.{number}.doc_length=null",
            f"stages.{number}.train={{steps: {max(2, len(plan.stages))}, warmup: 0}}",
        ]
    if name in ("mini-tas-b", "mini-dual-teacher"):
        given.append(f"stages.0.objective.1.teacher.Late={late}")
    main(["run", name, *given, "--folder", "made"])
    assert storage.verify("made/model", "model", full=True)
    assert len(storage.read_lines("made/stage-1/train/log.jsonl")) >= 1


@pytest.mark.parametrize(
    "name",
    [
        n if not any(many in n for many in MANY) or n in FEW else pytest.param(n, marks=pytest.mark.soak)
        for n in RECIPES
    ],
)
def test_a_bundled_recipe_runs(name: str, place: Path, tiny_model: Path, tiny_data: Path):
    main(["run", name, *overrides(name, tiny_model, tiny_data), "--folder", "made"])
    log = storage.read_lines("made/stage-1/train/log.jsonl")
    assert log
    assert all(np.isfinite(record["loss"]) for record in log)
    assert storage.verify("made/model", "model", full=True)
    assert "<html" in Path("made/report.html").read_text()
    plan = load_recipe(name)
    if plan.order == "cycle":
        assert {record["stage"] for record in log} == {stage.name for stage in plan.stages}


@pytest.mark.soak
def test_the_commands_of_the_dual_teacher_close_the_loop(place: Path, tiny_model: Path, tiny_data: Path):
    """Cross-encoder -> scores -> student, as the head of the recipe says it: the files of `place` are not touched."""
    recipe = Path(rankwright.__file__).parent / "recipes/mini-dual-teacher.yaml"
    said = [line.strip("# ") for line in recipe.read_text().splitlines() if line.startswith("#   rankwright")]
    words = [shlex.split(line.split("   ")[0])[1:] for line in said]
    assert [some[0] for some in words] == ["run", "run", "index", "search", "score", "topics"]
    theirs = {"bundled:scifact": str(tiny_data), "sentence-transformers/all-MiniLM-L6-v2": str(tiny_model), "40": "2"}
    for name in ("scores.tsv", "topics.tsv"):
        Path(name).unlink()
    for some in words:
        more = overrides(some[1], tiny_model, tiny_data) if some[0] == "run" else []
        main([*(theirs.get(word, word) for word in some), *more])
    given = overrides("mini-dual-teacher", tiny_model, tiny_data)
    main(
        [
            "run",
            "mini-dual-teacher",
            *(w for w in given if "scores=" not in w and "Late" not in w and "relevant" not in w),
        ]
    )
    cross, student = (
        storage.read_lines(f"runs/{n}/stage-1/train/log.jsonl") for n in ("mini-multistage-cl", "mini-dual-teacher")
    )
    assert cross
    assert student
    scores, pairs = rankwright.read_run("cross.trec"), rankwright.read_run("pairs.trec")
    assert {q: set(d) for q, d in scores.to_dict().items()} == {q: set(d) for q, d in pairs.to_dict().items()}
    teacher = rankwright.load("runs/mini-multistage-cl/model")
    query, (doc, expected) = scores.queries[0], next(iter(scores.to_dict()[scores.queries[0]].items()))
    data = Dataset.open(str(tiny_data))
    asked = data.queries[int(data.queries.rows([query])[0])].text
    text = teacher.render(data.corpus[int(data.corpus.rows([doc])[0])])
    pair = teacher.pairing(teacher.tokenize([asked], "query"), teacher.tokenize([text], "doc"))
    assert teacher.represent(pair, "doc").values.item() == pytest.approx(expected, abs=1e-5)
    assert storage.verify("runs/mini-dual-teacher/model", "model", full=True)
