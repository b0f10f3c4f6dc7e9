"""Every verb on the tiny model and data, in-process: what it writes, prints, and how it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rankwright import storage
from rankwright.cli import main, parser
from rankwright.data import read_qrels, read_run, read_topics
from rankwright.evaluation import plots

RECIPE = """
model:
  Dense: {{backbone: {model}}}
stages:
  - data:
      - Judged: {{dataset: {data}, split: train}}
    mine: {{by: model, depth: 10, keep: {{ranks: [1, 10], per_query: 4}}}}
    group: {{OneRelevant: {{negatives: 1}}}}
    batches: {{Shuffled: {{size: 4}}}}
    objective:
      - {{loss: {{InfoNCE: {{temperature: 0.05}}}}, against: batch}}
    train: {{learning_rate: 1e-3, steps: 6, save_every: 2}}
evaluate:
  - {{dataset: {data}, split: test, measures: [nDCG@10, R@5, RR@10]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tiny_data))
    monkeypatch.chdir(tmp_path)
    return path


def fails(code: int, *arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code == code


def test_run_makes_model_runs_metrics_and_report_and_reuses_them(recipe: Path, capsys):
    main(["run", str(recipe)])
    text = capsys.readouterr().out
    for words in ("BM25", "before training", "after training", "p (Holm)", "train stage 1", "report.html", "export"):
        assert words in text
    folder = recipe.parent / "runs" / "tiny"
    place = folder / "evaluation" / "data-test"
    assert {p.name for p in place.iterdir()} == {"bm25.trec", "start.trec", "trained.trec", "metrics.json"}
    metrics = json.loads((place / "metrics.json").read_text())
    assert set(metrics["systems"]) == {"BM25", "before training", "after training"}
    assert "<html" in (folder / "report.html").read_text()
    assert storage.verify(folder / "model", "model", full=True)
    assert not list(folder.rglob("*.tmp"))
    before = storage.read_manifest(folder / "model").files
    main(["run", str(recipe), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert all(step["reused"] for step in result["steps"])
    assert storage.read_manifest(folder / "model").files == before


def test_a_changed_recipe_redoes_what_depends_on_it(recipe: Path, capsys):
    main(["run", str(recipe)])
    main(["run", str(recipe), "stages.0.train.learning_rate=2e-3", "--json"])
    output = capsys.readouterr().out
    steps = {s["name"]: s["reused"] for s in json.loads(output[output.index('{\n  "folder"') :])["steps"]}
    redone = {name for name, reused in steps.items() if not reused}
    assert redone == {"train stage 1", "encode data (after training)", "search data-test (after training)"}


def test_dry_run_does_nothing(recipe: Path, capsys):
    main(["run", str(recipe), "--dry-run"])
    assert "nothing was done" in capsys.readouterr().out
    assert not (recipe.parent / "runs").exists()


def test_verbs_one_by_one(recipe: Path, tiny_model: Path, tiny_data: Path, capsys):
    data = str(tiny_data)
    main(["train", str(recipe)])
    model = str(recipe.parent / "runs/tiny/model")
    main(["encode", model, data, "--out", "v", "--dtype", "float16"])
    main(["index", data, "--out", "bm25"])
    main(["search", "v", data, "--model", model, "--split", "test", "--k", "7", "--out", "dense.trec.gz"])
    main(["search", "bm25", data, "--split", "test", "--k", "7", "--out", "bm25.trec"])
    assert {len(docs) for _, docs, _ in read_run(Path("dense.trec.gz"))} == {7}
    main(["mine", data, "--run", "dense.trec.gz", "--split", "test", "--out", "n1.tsv", "--per-query", "2"])
    main(["mine", data, "--bm25", "--out", "n2.tsv", "--margin", "0.1"])
    main(["mine", data, "--model", model, "--out", "n3.tsv", "--relative-margin", "0.01", "--pick", "random"])
    relevant = {
        (q, d) for q, docs, grades in read_qrels(tiny_data / "qrels/train.tsv") for d, g in zip(docs, grades) if g > 0
    }
    for name in ("n2.tsv", "n3.tsv"):
        mined = {(q, d) for q, docs, _ in read_qrels(Path(name)) for d in docs}
        assert mined
        assert not mined & relevant
    capsys.readouterr()
    qrels = str(tiny_data / "qrels/test.tsv")
    main(["evaluate", "bm25.trec", "dense.trec.gz", "--qrels", qrels, "--out", "m.json", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["systems"]) == {"bm25", "dense"}
    assert "per_query" in json.loads(Path("m.json").read_text())["systems"]["dense"]
    main(["show", "v"])
    assert "vectors" in capsys.readouterr().out


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of queries that are documents too, and judgements: a.trec is wrong, b.trec right."""
    monkeypatch.chdir(tmp_path)
    for name, first, second in (("a", "x", "r"), ("b", "r", "x")):
        rows = [(q, d, s) for q in ("q1", "q2") for d, s in ((q, 9.5), (first + q, 3.0), (second + q, 1.0))]
        Path(f"{name}.trec").write_text("".join(f"{q} Q0 {d} 1 {s} t\n" for q, d, s in rows))
    Path("dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\trq1\t1\nq2\trq2\t1\n")


def test_fuse_tunes_and_writes_a_run(two_runs, capsys):
    main(["fuse", "a.trec", "b.trec", "--out", "rrf.trec", "--rrf-k", "0"])
    assert read_run(Path("rrf.trec")).to_dict()["q1"] == {"q1": 2.0, "xq1": 1 / 3 + 1 / 2, "rq1": 1 / 2 + 1 / 3}
    main(["fuse", "a.trec", "b.trec", "--out", "s.trec", "--method", "sum", "--tune", "dev.tsv", "--measure", "RR"])
    said = capsys.readouterr().out
    assert "fused: sum, norm min-max, weights 0.4 0.6" in said
    assert "RR 0.5000 on dev.tsv, the best of 11 settings (the usual one: 0.3333)" in said
    assert "next:  rankwright evaluate a.trec b.trec s.trec" in said
    assert list(read_run(Path("s.trec")).to_dict()["q2"]) == ["q2", "rq2", "xq2"]
    main(["fuse", "a.trec", "b.trec", "--out", "n.trec", "--norm", "rank", "--method", "mnz", "--depth", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["documents"] == 2
    for words in (["a.trec"], ["a.trec", "a.trec"], ["a.trec", "b.trec", "--norm", "rank"],
                  ["a.trec", "b.trec", "--method", "sum", "--rrf-k", "1"],
                  ["a.trec", "b.trec", "--method", "sum", "--weights", "1", "2", "--tune", "dev.tsv"],
                  ["a.trec", "b.trec", "--method", "med", "--tune", "dev.tsv"],
                  ["a.trec", "b.trec", "--method", "sum", "--weights", "1"]):  # fmt: skip
        fails(2, "fuse", *words, "--out", "no.trec")
    assert not Path("no.trec").exists()


def test_evaluate_says_what_it_left_out_and_how_it_read_the_grades(two_runs, capsys):
    words = ["evaluate", "a.trec", "b.trec", "--qrels", "dev.tsv", "--measures", "nDCG@10", "RR(rel=2)@10", "RR"]
    main([*words, "--json"])
    kept = json.loads(capsys.readouterr().out)
    main([*words, "--json", "--drop-self"])
    dropped = json.loads(capsys.readouterr().out)
    means = [result["systems"][name]["mean"]["RR"] for result in (kept, dropped) for name in "ab"]
    assert means == pytest.approx([1 / 3, 1 / 2, 1 / 2, 1])
    assert dropped["dropped_self"] == {"a": 2, "b": 2}
    assert dropped["definitions"]["RR(rel=2)@10"] == "relevant from grade 2"
    main([*words, "--drop-self"])
    said = capsys.readouterr().out
    assert "left out, because they bear their query's id: 2 from a, 2 from b" in said
    assert "nDCG@10: gain = grade; RR(rel=2)@10: relevant from grade 2; RR: relevant from grade 1" in said


def test_show_schema_doctor_and_gradients(recipe: Path, tiny_data: Path, capsys):
    main(["show", str(recipe), "seed=7"])
    assert "seed: 7" in capsys.readouterr().out
    main(["schema"])
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org")
    main(["doctor", str(tiny_data), "--json"])
    assert json.loads(capsys.readouterr().out)[str(tiny_data)]["splits"]["train"]["queries"] == 8
    main(["doctor", str(recipe)])
    assert "truncated" in capsys.readouterr().out
    main(["check-gradients", str(recipe), "--json"])
    assert json.loads(capsys.readouterr().out)["passed"]


def test_export_verify(tiny_model: Path, tmp_path: Path, capsys):
    pytest.importorskip("sentence_transformers")
    main(["export", str(tiny_model), "--out", str(tmp_path / "out"), "--verify", "--json"])
    output = capsys.readouterr().out
    checks = json.loads(output[output.index("[\n") :])
    assert {check["verdict"] for check in checks} == {"equal"}


def test_report_can_be_written_again(recipe: Path, capsys):
    main(["run", str(recipe)])
    page = recipe.parent / "runs/tiny/report.html"
    page.unlink()
    main(["report", "runs/tiny"])
    assert page.is_file()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["run", "absent.yaml"]),
        (2, ["run", "RECIPE", "stages.0.train.learning_rat=1"]),
        (2, ["run", "RECIPE", "evaluate.0.measures=[nDGC@10]"]),
        (3, ["doctor", "nowhere/at/all"]),
        (3, ["run", "RECIPE", "evaluate.0.split=tset"]),
        (4, ["show", "."]),
        (4, ["search", "nothing", "DATA", "--out", "x"]),
        (2, ["export", "MODEL"]),
        (2, ["run", "RECIPE", "device=meta"]),
        (2, ["run", "RECIPE", "stages.0.mine.depth=0"]),
        (2, ["run", "RECIPE", "stages.0.doc_length=0"]),
        (3, ["run", "RECIPE", "--dry-run", "stages.0.mine.by=absent.trec"]),
        (2, ["run", "RECIPE", "stages.0.mine.keep.ranks=[30, 40]"]),
        (2, ["mine", "DATA", "--bm25", "--ranks", "30", "40", "--out", "n.tsv"]),
        (2, ["mine", "DATA", "--bm25", "--out", "."]),
        (2, ["mine", "DATA", "--run", "a.trec", "--margin", "0.1", "--out", "n.tsv"]),
        (2, ["index", "DATA", "--out", "tiny.yaml"]),
        (2, ["evaluate", "a.trec", "a.trec", "--qrels", "q.tsv"]),
        (2, ["evaluate", "a.trec", "--qrels", "q.tsv", "--out", "."]),
        (3, ["doctor", "DATA", "--train", "trian"]),
        (4, ["show", "MODEL"]),
        (2, ["report", "DATA"]),
        (2, ["run", "RECIPE", "--folder", "tiny.yaml"]),
        (3, ["convert", "absent.jsonl", "--out", "c"]),
        (2, ["convert", "DATA", "--to", "dpr", "--out", "c"]),
        (2, ["convert", "DATA", "--out", "tiny.yaml"]),
        (2, ["convert", "recipe", "RECIPE", "--out", "r.yaml"]),
    ],
)
def test_errors_have_exit_codes_and_leave_nothing(
    code, arguments, recipe: Path, tiny_data: Path, tiny_model: Path, capsys
):
    names = {"RECIPE": str(recipe), "DATA": str(tiny_data), "MODEL": str(tiny_model)}
    fails(code, *(names.get(a, a) for a in arguments))
    message = capsys.readouterr().err
    assert "rankwright: " in message
    assert "Traceback" not in message
    assert not list(recipe.parent.rglob("*.tmp"))


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; sys.argv = ['rankwright', '--help']\n"
        "from rankwright.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'pydantic', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_verb_says_what_to_run_next(recipe: Path, tiny_model: Path, tiny_data: Path, capsys, tmp_path: Path):
    data, model, test = str(tiny_data), str(tiny_model), str(tiny_data / "qrels/test.tsv")
    search = ("search", "bm25", data, "--split", "test", "--out")
    lines = (
        ("run", str(recipe), "--dry-run"), ("run", str(recipe)), ("train", str(recipe)), ("report", "runs/tiny"),
        ("encode", model, data, "--out", "v"), ("index", data, "--out", "bm25"), (*search, "a.trec"),
        (*search, "b.trec", "--k", "2"), ("mine", data, "--bm25", "--out", "n.tsv"),
        ("fuse", "a.trec", "b.trec", "--out", "f.trec"), ("evaluate", "a.trec", "--qrels", test),
        ("score", data, "--model", model, "--pairs", "train", "--out", "scores.trec"),
        ("evaluate", "a.trec", "b.trec", "--qrels", test), ("compare", "a.trec", "b.trec", "--qrels", test),
        ("compare", "a.trec", "b.trec", "--qrels", test, "--out", "cmp", "--format", "latex"),
        ("evaluate", "b.trec", "a.trec", "--qrels", test, "--out", "m.json"), ("show", str(recipe)),
        ("show", "runs/tiny"), ("show", "runs/tiny/model"), ("show", "v"), ("show", "bm25"), ("schema",),
        ("doctor", data), ("check-gradients", str(recipe), "--queries", "3"), ("export", model, "--out", "m"),
        ("export", model, "--verify"), ("topics", data, "--model", model, "--topics", "2", "--out", "t.tsv"),
        ("convert", data, "--to", "tevatron", "--out", "t"),
        ("rerank", "a.trec", data, "--model", model, "--out", "r.trec"),
        ("convert", "t", "--out", "c"), ("import-dpr", "dpr.40", "--base", model, "--out", "imported"),
    )  # fmt: skip
    weights = {f"question_model.{name}": value for name, value in load_file(tiny_model / "model.safetensors").items()}
    torch.save({"model_dict": weights}, "dpr.40")
    with _endpoint() as url:
        rank = ("rank", "b.trec", data, "--endpoint", url, "--llm", "m", "--out", "p.trec")
        told_by_all(capsys, *lines, rank)
    assert {words[0] for words in lines} | {"rank"} >= _verbs() - {
        "quickstart",
        "import-dpr",
    }  # tests/models/test_dpr.py has a checkpoint


def told_by_all(capsys, *lines: tuple[str, ...]) -> None:
    for words in lines:
        main([*words])
        said = capsys.readouterr()
        told = re.search(r"^(# nothing was done; )?next: +.*(rankwright|in a recipe|yaml)", said.out + said.err, re.M)
        assert told, (words, said)


@contextmanager
def _endpoint() -> Iterator[str]:
    """A language model that likes every order as it is."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "[1] > [2]"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_every_verb_has_a_function():
    from rankwright import verbs

    for name in _verbs():
        assert callable(getattr(verbs, name.replace("-", "_")))


def _verbs() -> set[str]:
    choices = next(a.choices for a in parser()._actions if a.dest == "verb")
    assert choices is not None
    return set(map(str, choices))


def _model_bytes(folder: Path) -> dict:
    return {n: f["sha256"] for n, f in storage.read_manifest(folder).files.items() if n.endswith("safetensors")}


THIRTY_STEPS = ["stages.0.train.steps=30", "stages.0.train.save_every=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of thirty steps that nothing stopped."""
    place, tiny = tmp_path_factory.mktemp("whole"), Path(__file__).parent / "tiny"
    (place / "tiny.yaml").write_text(RECIPE.format(model=tiny / "model", data=tiny / "data"))
    command = [sys.executable, "-m", "rankwright", "run", str(place / "tiny.yaml"), *THIRTY_STEPS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--folder", str(place / "run")], check=True, capture_output=True, env=environment)
    return place / "run"


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(number, recipe: Path, whole: Path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rankwright", "run", str(recipe), *THIRTY_STEPS]
    log = recipe.parent / "cut/stage-1/train/log.jsonl"
    process = subprocess.Popen(
        [*command, "--folder", "cut"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= 4:
            process.send_signal(number)
            break
        time.sleep(0.002)
    assert process.stderr is not None
    message = process.stderr.read().decode()
    code = process.wait()
    assert code == (-9 if number == signal.SIGKILL else 75), message
    again = subprocess.run([*command, "--folder", "cut"], check=True, capture_output=True, env=environment)
    assert b"resumed after step" in again.stderr or number == signal.SIGKILL
    assert _model_bytes(recipe.parent / "cut/model") == _model_bytes(whole / "model")
    for name in ("start.trec", "trained.trec", "bm25.trec", "metrics.json"):
        place = "evaluation/data-test"
        assert (recipe.parent / "cut" / place / name).read_bytes() == (whole / place / name).read_bytes()


def test_validation_by_retrieval_and_by_candidates_keeps_the_best_step(recipe: Path, tiny_data: Path, capsys):
    main(["index", str(tiny_data), "--out", "bm25"])
    main(["search", "bm25", str(tiny_data), "--split", "test", "--out", "candidates.trec"])
    for name, extra in (("full", []), ("candidates", ["stages.0.validate.candidates=candidates.trec"])):
        validate = f"stages.0.validate={{dataset: {tiny_data}, split: test, every: 2, patience: 1}}"
        main(["run", str(recipe), validate, *extra, "--folder", name])
        records = storage.read_lines(Path(name) / "stage-1/train/validation.jsonl")
        assert records
        assert all(0 <= record["nDCG@10"] <= 1 for record in records)
        assert (Path(name) / "stage-1/train/best/manifest.json").is_file()
        assert "validation" in (Path(name) / "report.md").read_text().lower()


def test_two_stages_with_negatives_from_bm25_and_a_run(recipe: Path, tiny_data: Path, capsys):
    text = recipe.read_text()
    start, end = text.index("  - data:"), text.index("evaluate:")
    stage = text[start:end]
    second = stage.replace("by: model", "by: bm25").replace("depth: 10,", "depth: 10,")
    recipe.write_text(text[:end] + second + text[end:])
    main(["run", str(recipe), "--json"])
    output = capsys.readouterr().out
    steps = {s["name"]: s["reused"] for s in json.loads(output[output.index('{\n  "folder"') :])["steps"]}
    assert {"train stage 1", "train stage 2", "mine negatives for stage-2 by bm25"} <= set(steps)
    assert storage.verify(recipe.parent / "runs/tiny/stage-1/model", "model")
    assert storage.verify(recipe.parent / "runs/tiny/model", "model")
    main(["run", str(recipe), "stages.1.train.learning_rate=5e-4", "--json"])
    output = capsys.readouterr().out
    steps = {s["name"]: s["reused"] for s in json.loads(output[output.index('{\n  "folder"') :])["steps"]}
    assert steps["train stage 1"]
    assert not steps["train stage 2"]


def test_a_stage_over_two_data_sets(recipe: Path, tiny_data: Path, tmp_path: Path, capsys):
    written, rows = tmp_path / "written", read_qrels(tiny_data / "qrels/train.tsv")
    (written / "qrels").mkdir(parents=True)
    (written / "queries.jsonl").write_bytes((tiny_data / "queries.jsonl").read_bytes())
    doc = rows.docs[0]  # an id of the real corpus, with another text
    (written / "corpus.jsonl").write_text(json.dumps({"_id": doc, "title": "", "text": "made up by a model"}) + "\n")
    (written / "qrels/train.tsv").write_text("".join(f"{query}\t{doc}\t1\n" for query in rows.queries[:3]))
    text = recipe.read_text()
    real = text[text.index("      - Judged") : text.index("    mine:")]
    more = f"      - Judged: {{dataset: {written}, relabel: {{1: 0}}, keep: {{random: 1}}}}\n"
    recipe.write_text(text.replace(real, real + more))
    fails(3, "run", str(recipe), "--dry-run")
    assert "stands for two texts" in capsys.readouterr().err
    recipe.write_text(text.replace(real, real + more.replace("relabel", "namespace: made, relabel")))
    main(["run", str(recipe), "--dry-run"])
    main(["check-gradients", str(recipe), "--queries", "3"])
    capsys.readouterr()
    done = _steps(capsys, "run", str(recipe), "stages.0.train.steps=2")
    assert {"train stage 1", "mine negatives for stage-1 by model"} <= set(done)
    assert _steps(capsys, "run", str(recipe), "stages.0.train.steps=2") == []
    again = _steps(capsys, "run", str(recipe), "stages.0.train.steps=2", "stages.0.data.1.Judged.relabel.1=3")
    assert "train stage 1" in again
    main(["doctor", str(recipe)])


def _steps(capsys, *arguments: str) -> list[str]:
    """Names of the steps that this run did not reuse; stdout is JSON and nothing else."""
    capsys.readouterr()
    main([*arguments, "--json"])
    return [step["name"] for step in json.loads(capsys.readouterr().out)["steps"] if not step["reused"]]


def test_test_collections_that_share_a_name_are_kept_apart(recipe: Path, tiny_data: Path, tmp_path: Path, capsys):
    other = tmp_path / "other" / tiny_data.name
    shutil.copytree(tiny_data, other)
    corpus = other / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("bread", "stone"))
    text = recipe.read_text()
    recipe.write_text(
        text[: text.index("stages:")]
        + "evaluate:\n"
        + f"  - {{dataset: {tiny_data}, split: test}}\n"
        + f"  - {{dataset: {other}, split: test}}\n"
        + f"  - {{dataset: {tiny_data}, qrels: {tiny_data}/qrels/train.tsv}}\n"
        + f"  - {{dataset: {tiny_data}, split: test, depth: 3, measures: [P@3]}}\n"
    )
    assert len(_steps(capsys, "run", str(recipe))) == 4 + 4 + 2
    places = {p.name for p in Path("runs/tiny/evaluation").iterdir()}
    assert places == {"data-test", "data-2-test", "data-train", "data-test-2"}
    assert {p.name for p in Path("runs/tiny/vectors").iterdir() if p.name[0] != "."} == {"start-data", "start-data-2"}
    assert _steps(capsys, "run", str(recipe)) == []
    report = Path("runs/tiny/report.md").read_text()
    assert "data-2" in report
    main(["run", str(recipe), *(f"evaluate.{i}.baselines=[start]" for i in range(4))])  # nothing to compare


def test_a_run_overwrites_nobody_elses_files(recipe: Path, capsys):
    mine = recipe.parent / "recipe.yaml"
    mine.write_text("# my comments\n" + recipe.read_text())
    fails(2, "run", str(mine), "--folder", ".")
    assert "overwritten" in capsys.readouterr().err
    assert mine.read_text().startswith("# my comments")
    assert not (recipe.parent / ".lock").exists()


def test_validation_data_that_change_train_anew(recipe: Path, tiny_data: Path, tmp_path: Path, capsys):
    held_out = tmp_path / "held_out"
    shutil.copytree(tiny_data, held_out)
    command = ["run", str(recipe), f"stages.0.validate={{dataset: {held_out}, split: test, every: 2}}"]
    main(command)
    assert _steps(capsys, *command) == []
    qrels = held_out / "qrels" / "test.tsv"
    qrels.write_text("\n".join(qrels.read_text().splitlines()[:-1]) + "\n")
    assert "train stage 1" in _steps(capsys, *command)


def test_topics_are_clustered_drawn_and_trained_on(recipe: Path, tiny_data: Path, tiny_model: Path, capsys):
    given = ["topics", str(tiny_data), "--model", str(tiny_model), "--topics", "3", "--out", "t.tsv"]
    main(given)
    assert "3 topics of" in capsys.readouterr().out
    topics, before = read_topics("t.tsv"), Path("t.tsv").read_bytes()
    assert list(topics) == list(read_qrels(tiny_data / "qrels/train.tsv").queries)
    assert set(topics.values()) == {"0", "1", "2"}
    if plots.available():
        main([*given, "--plot", "t.png"])
        main([*given, "--plot", "t.svg"])
        assert Path("t.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in Path("t.svg").read_text()
        assert Path("t.tsv").read_bytes() == before
        capsys.readouterr()
    for words in (("--topics", "1000"), ("--topics", "0"), ("--plot", "t.gif"), ("--out", "t.json"), ("--out", ".")):
        fails(2, *given, *words)
    fails(3, "run", str(recipe), "stages.0.batches={ByTopic: {topics: nowhere.tsv}}")
    batches = "{ByTopic: {topics: t.tsv, size: 4}}"
    command = ["run", str(recipe), f"stages.0.batches={batches}", "stages.0.mine=null"]
    main(command)
    assert _steps(capsys, *command) == []
    Path("t.tsv").write_text("".join(f"{query}\t0\n" for query in topics))
    assert "train stage 1" in _steps(capsys, *command)


def test_a_missing_split_shows_before_any_work(recipe: Path, capsys):
    fails(3, "run", str(recipe), "stages.0.data.0.Judged.split=trian")
    assert not list((recipe.parent / "runs/tiny").glob("*/*"))


@pytest.mark.parametrize("damage", ["[1, 2]", '{"train stage 1": 3}', "{", '{"a": {"key": "", "seconds": null}}'])
def test_a_damaged_ledger_costs_time_and_no_traceback(damage, recipe: Path, capsys):
    main(["run", str(recipe)])
    ledger = recipe.parent / "runs/tiny/steps.json"
    ledger.write_text(damage)
    fails(4, "show", "runs/tiny")
    assert "train stage 1" in _steps(capsys, "run", str(recipe))


def test_one_query_that_bm25_cannot_answer_is_measured_and_not_compared(recipe: Path, tmp_path: Path, capsys):
    data = tmp_path / "one"
    (data / "qrels").mkdir(parents=True)
    (data / "corpus.jsonl").write_text('{"_id": "d", "title": "", "text": "moon"}\n')
    (data / "queries.jsonl").write_text('{"_id": "q", "text": "bread"}\n')
    (data / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    main(["run", str(recipe), "stages=[]", f"evaluate.0.dataset={data}", "--json"])
    means = json.loads(capsys.readouterr().out)["means"]["one-test"]
    assert means["BM25"]["nDCG@10"] == 0
    assert means["before training"]["nDCG@10"] == 1


def test_a_lenient_run_can_be_reported_again(recipe: Path, tiny_data: Path, tmp_path: Path, capsys):
    data = tmp_path / "odd"
    shutil.copytree(tiny_data, data)
    with (data / "qrels/test.tsv").open("a") as file:
        file.write("q09\tnowhere\t1\n")
    main(["run", str(recipe), "stages=[]", f"evaluate.0.dataset={data}", "--lenient"])
    fails(3, "report", "runs/tiny")
    main(["report", "runs/tiny", "--lenient"])


def test_json_is_all_that_stdout_holds(recipe: Path, tiny_model: Path, capsys):
    for arguments in (["export", str(tiny_model), "--out", "e"], ["run", str(recipe), "--dry-run", "seed=3"]):
        main([*arguments, "--json"])
        json.loads(capsys.readouterr().out)


def test_next_commands_survive_spaces(recipe: Path, tiny_data: Path, tmp_path: Path, capsys):
    data = tmp_path / "my data"
    shutil.copytree(tiny_data, data)
    main(["index", str(data), "--out", "my index"])
    following = capsys.readouterr().out.split("next:")[1].strip()
    main(shlex.split(following)[1:])
    following = capsys.readouterr().out.split("next:")[1].strip()
    main(shlex.split(following)[1:])
    assert "nDCG@10" in capsys.readouterr().out


def test_a_reused_run_reports_its_negatives_too(recipe: Path, capsys):
    main(["run", str(recipe)])
    main(["run", str(recipe)])
    assert "stage-1: negatives" in Path("runs/tiny/report.md").read_text()


# --- from another folder, after damage --------------------------------------------------------------------------------


@pytest.fixture
def relative(tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose recipe names data and model by relative paths; one stands in it."""
    shutil.copytree(tiny_data, tmp_path / "project/data")
    shutil.copytree(tiny_model, tmp_path / "project/base")
    (tmp_path / "project/tiny.yaml").write_text(RECIPE.format(model="base", data="./data"))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_a_run_folder_means_the_same_from_everywhere(relative: Path, tmp_path: Path, monkeypatch, capsys):
    main(["run", "tiny.yaml"])
    folder = relative / "runs/tiny"
    (folder / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    main(["report", "project/runs/tiny"])
    assert (folder / "report.html").is_file()
    assert _steps(capsys, "run", "project/runs/tiny/recipe.yaml") == []
    assert not (tmp_path / "runs").exists()
    monkeypatch.chdir(relative)
    assert _steps(capsys, "run", "tiny.yaml") == []


def test_moved_data_and_models_are_known_by_their_content(relative: Path, tmp_path: Path, monkeypatch, capsys):
    main(["run", "tiny.yaml"])
    shutil.copytree(relative, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert _steps(capsys, "run", "tiny.yaml") == []


def test_damaged_log_lines_are_counted_in_the_report(recipe: Path, capsys):
    main(["run", str(recipe)])
    log = recipe.parent / "runs/tiny/stage-1/train/log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:9], "[1]", *lines[3:]]) + "\n")
    main(["report", "runs/tiny"])
    assert "2 lines are unreadable" in Path("runs/tiny/report.md").read_text()


def test_the_report_says_how_many_texts_are_cut_off(recipe: Path, capsys):
    main(["run", str(recipe)])
    report = Path("runs/tiny/report.md").read_text()
    assert "documents cut off at" in report
    assert "queries cut off at" in report


def test_a_lost_ledger_and_a_changed_recipe_train_anew(recipe: Path, capsys):
    main(["run", str(recipe)])
    (recipe.parent / "runs/tiny/steps.json").unlink()
    assert "train stage 1" in _steps(capsys, "run", str(recipe), "stages.0.train.learning_rate=2e-3")


def test_a_second_training_that_was_stopped_goes_on_too(recipe: Path, monkeypatch, capsys):
    from rankwright.errors import Stopped
    from rankwright.training import checkpoint

    main(["run", str(recipe)])
    changed = ["run", str(recipe), "stages.0.train.learning_rate=2e-3"]
    save = checkpoint.save

    def stop_after_saving(*arguments, **named):
        save(*arguments, **named)
        raise Stopped("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop_after_saving)
        fails(75, *changed)
    capsys.readouterr()
    main(changed)
    assert "resumed after step" in capsys.readouterr().err


def test_verbs_leave_their_output_and_nothing_else(
    recipe: Path, tiny_data: Path, tiny_model: Path, tmp_path_factory, monkeypatch
):
    cache, data = tmp_path_factory.mktemp("cache"), str(tiny_data)
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(cache))
    main(["index", data, "--out", "bm25"])
    main(["mine", data, "--bm25", "--out", "n1.tsv"])
    main(["mine", data, "--model", str(tiny_model), "--out", "n2.tsv"])
    assert {p.name for p in recipe.parent.iterdir()} == {"tiny.yaml", "bm25", "n1.tsv", "n2.tsv"}
    assert not list((cache / "work").iterdir())
    main(["run", str(recipe)])
    assert not list((recipe.parent / "runs").rglob(".*"))


def test_an_interrupt_before_the_work_is_one_line(monkeypatch, capsys):
    import rankwright.cli

    def interrupted(_arguments, *, silent):
        raise KeyboardInterrupt

    monkeypatch.setattr(rankwright.cli, "_parsed", interrupted)
    fails(130, "run", "quickstart")
    assert capsys.readouterr().err.count("\n") == 1
