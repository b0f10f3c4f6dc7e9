"""Several processes, as torchrun starts them: one result, one voice, one end, checkpoints for any number."""

from __future__ import annotations

import importlib.util
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rankwright import signals, storage
from rankwright.cli import main
from rankwright.data import read_run

_spec = importlib.util.spec_from_file_location("training_ranks", Path(__file__).parent / "training" / "ranks.py")
assert _spec
assert _spec.loader
ranks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ranks)

RECIPE = """
model:
  Dense: {{backbone: {model}, dropout: 0.1}}
stages:
  - data:
      - Judged: {{dataset: {data}, split: train}}
    mine: {{by: model, depth: 10, keep: {{ranks: [1, 10], per_query: 4}}}}
    group: {{OneRelevant: {{negatives: 1}}}}
    batches: {{Shuffled: {{size: 5, drop_last: false}}}}
    objective:
      - {{loss: {{InfoNCE: {{temperature: 0.05}}}}, against: batch}}
    train: {{learning_rate: 2e-5, steps: 6, save_every: 2, max_grad_norm: 0.5}}
    validate: {{dataset: {data}, split: test, measure: nDCG@10, every: 3}}
evaluate:
  - {{dataset: {data}, split: test, measures: [nDCG@10, R@5]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight queries in batches of five: the last batch of an epoch has three, which two processes share unevenly."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tiny_data))
    monkeypatch.chdir(tmp_path)
    return path


def rankwright(world: int, *words: str | Path):
    return ranks.finish(ranks.start(world, ["-m", "rankwright", *words]))


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in storage.read_lines(folder / "stage-1" / "train" / "log.jsonl")]


def weights_are_close(one: Path, two: Path, *, but: str = "") -> bool:
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    return set(a) == set(b) and all(np.abs(a[name] - b[name]).max() <= 2e-5 for name in a if name != but)


def test_run_makes_of_two_processes_what_it_makes_of_one(recipe: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    done = rankwright(2, "run", recipe, "--folder", two, "--json")
    assert [code for code, _, _ in done] == [0, 0], done
    assert json.loads(done[0][1])["folder"] == str(two)
    assert done[1][1:] == ("", "")  # the first alone speaks
    main(["run", str(recipe), "--folder", str(one), "--json"])
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-6)
    # float32 sums in another order; where a gradient is nearly nothing AdamW's first steps make the most of that
    assert losses(two) == pytest.approx(losses(one), rel=2e-5)
    assert weights_are_close(one, two)
    for name in ("vectors/start-data/vectors-000000.npy", "evaluation/data-test/start.trec", "stage-1/negatives.tsv"):
        paths = [folder / name for folder in (one, two)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not list(two.rglob("*.tmp"))
    assert not (two / ".lock").exists()


CROSS = """
model:
  Cross: {{backbone: {model}, length: 48, dropout: 0.1}}
stages:
  - data:
      - Judged: {{dataset: {data}, split: train}}
    mine: {{by: bm25, depth: 10, keep: {{ranks: [1, 10], per_query: 4}}}}
    group: {{Random: {{size: 4}}}}
    batches: {{Shuffled: {{size: 5, drop_last: false, repeats: true}}}}
    objective:
      - {{loss: RankNet, against: own}}
    train: {{learning_rate: 2e-5, steps: 6, save_every: 2, max_grad_norm: 0.5, parallel: {parallel}}}
    validate: {{dataset: {data}, split: test, measure: nDCG@10, every: 3, candidates: bm25, depth: 5}}
evaluate:
  - {{dataset: {data}, split: test, measures: [nDCG@10], rerank: {{first: bm25, depth: 5}}}}
"""


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_make_the_cross_encoder_of_one(tmp_path: Path, tiny_model: Path, tiny_data: Path, parallel: str):
    """Mined, trained, validated and measured by re-ranking; the processes' shares of a batch are uneven."""
    recipe, one, two = tmp_path / "cross.yaml", tmp_path / "one", tmp_path / "two"
    recipe.write_text(CROSS.format(model=tiny_model, data=tiny_data, parallel=parallel))
    done = rankwright(2, "run", recipe, "--folder", two, "--json")
    assert [code for code, _, _ in done] == [0, 0], done
    main(["run", str(recipe), "--folder", str(one), "--json"])
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-6)
    assert losses(two) == pytest.approx(losses(one), rel=2e-5)
    # RankNet sees differences of scores: the gradient of the last bias is rounding alone, which AdamW makes steps of
    assert weights_are_close(one, two, but="classifier.bias")
    runs = [read_run(folder / "evaluation" / "data-test" / "trained.trec").to_dict() for folder in (one, two)]
    assert runs[0].keys() == runs[1].keys()
    for query, docs in runs[0].items():
        assert runs[1][query] == pytest.approx(docs, abs=2e-4)


@pytest.mark.soak
def test_two_processes_encode_a_late_interaction_model_into_the_bytes_of_one(tmp_path, tiny_model, tiny_data):
    """Shards of different numbers of vectors travel between the processes; the first alone writes."""
    from rankwright.models import Late

    Late(str(tiny_model), dim=16, similarity="dot").load().save(tmp_path / "late")
    program = """if True:
        import functools, sys
        from rankwright import cli, search
        search.encode = functools.partial(search.encode, shard_rows=3)
        cli.main(sys.argv[1:])
    """
    words = ["-c", program, "encode", tmp_path / "late", tiny_data, "--dtype", "float16", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    for world, folder in ((1, one), (2, two)):
        done = ranks.finish(ranks.start(world, [*words, folder]))
        assert [code for code, _, _ in done] == [0] * world, done
    names = sorted(path.name for path in one.iterdir() if path.suffix == ".npy")
    assert len([name for name in names if name.startswith("lengths")]) == 7
    assert names == sorted(path.name for path in two.iterdir() if path.suffix == ".npy")
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def stopped_after(steps: int, words: list[str | Path]) -> None:
    """A training in this process that a signal stops."""
    from rankwright.training import loop

    log = loop._Loop._log

    def log_and_stop(self, record):
        log(self, record)
        if record["step"] >= steps:
            signals._requested.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_log", log_and_stop)
        with pytest.raises(SystemExit):
            main([*map(str, words)])


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=pytest.mark.soak)])
def test_a_signal_to_one_stops_all_and_one_process_goes_on(recipe: Path, tmp_path: Path, parallel: str, capsys):
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    words = ["train", recipe, "stages.0.train.steps=300", "stages.0.validate=null"]
    processes = ranks.start(2, ["-m", "rankwright", *words, f"stages.0.train.parallel={parallel}", "--folder", folder])
    log = folder / "stage-1" / "train" / "log.jsonl"
    until = time.monotonic() + 250
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3) and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    done = ranks.finish(processes)
    assert [code for code, _, _ in done] == [75, 75], done
    assert sum(err.count("rankwright: stopped") for _, _, err in done) == 1
    there = len(losses(folder))
    assert 3 <= there < 300
    assert (folder / "stage-1" / "train" / "checkpoints" / f"step-{there:08d}").is_dir()

    def goes_on(where: Path, steps: int) -> list[float]:
        stopped_after(steps, [*words, "--folder", where])
        return losses(where)

    resumed = goes_on(folder, there + 3)
    assert f"step-{there:08d} is of 2 process(es), goes on with 1" in capsys.readouterr().err
    assert resumed == pytest.approx(goes_on(whole, there + 3), rel=2e-5)


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_go_on_where_one_stopped(recipe: Path, tmp_path: Path, parallel: str):
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    stopped_after(3, ["train", recipe, "--folder", folder])
    done = rankwright(2, "train", recipe, f"stages.0.train.parallel={parallel}", "--folder", folder)
    assert [code for code, _, _ in done] == [0, 0], done
    main(["train", str(recipe), "--folder", str(whole)])
    assert losses(folder) == pytest.approx(losses(whole), rel=1e-6)
    assert weights_are_close(folder, whole)


PLANTED = """
import sys
from rankwright import cli, verbs
from rankwright.errors import DataError
from rankwright.training import distributed
def encode(given):
    if distributed.rank() == int(given.out):
        if given.quiet:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("planted") if given.model == "typed" else ZeroDivisionError("planted")
    distributed.wait()
verbs.encode = encode
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("kind", "rank", "code"),
    [("typed", 1, 3), *(pytest.param(*case, marks=pytest.mark.soak) for case in [("typed", 0, 3), ("other", 1, 1)])],
)
def test_a_failure_of_one_ends_all_with_one_message(tmp_path: Path, kind: str, rank: int, code: int):
    (tmp_path / "worker.py").write_text(PLANTED)
    began = time.monotonic()
    done = ranks.finish(ranks.start(2, [tmp_path / "worker.py", "encode", kind, "data", "--out", str(rank)]))
    assert [found for found, _, _ in done] == [code, code], done
    said = [err for _, _, err in done]
    assert sum("planted" in err for err in said) == 1, said
    assert sum("rankwright: " in err or "Traceback" in err for err in said) == 1, said
    assert "planted" in said[rank]
    assert time.monotonic() - began < 200


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path: Path, rank: int):
    (tmp_path / "worker.py").write_text(PLANTED)
    done = ranks.finish(
        ranks.start(2, [tmp_path / "worker.py", "encode", "typed", "data", "--out", str(rank), "--quiet"])
    )
    assert done[rank][0] == -signal.SIGKILL
    assert done[1 - rank][0] == 5
    assert "ended without a word" in done[1 - rank][2]


def test_what_is_no_group_of_processes_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as caught:
        main(["schema"])
    assert caught.value.code == 2
    assert "RANK, MASTER_ADDR, MASTER_PORT is not set" in capsys.readouterr().err


@pytest.mark.soak
def test_mine_and_encode_share_the_work_and_evaluate_leaves_it_to_one(recipe, tmp_path: Path, tiny_model, tiny_data):
    for words in (["mine", tiny_data, "--model", tiny_model], ["encode", tiny_model, tiny_data]):
        done = rankwright(2, *words, "--out", tmp_path / f"{words[0]}-two")
        assert [code for code, _, _ in done] == [0, 0], done
        assert done[0][1]
        assert not done[1][1]
        main([*map(str, words), "--out", str(tmp_path / f"{words[0]}-one")])
    for name in ("mine-{}", "encode-{}/vectors-000000.npy"):
        one, two = ((tmp_path / name.format(number)).read_bytes() for number in ("one", "two"))
        assert one == two
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 1.0 x\n")
    done = rankwright(2, "evaluate", tmp_path / "absent.trec", "--qrels", tmp_path / "absent.tsv")
    assert [code for code, _, _ in done] == [3, 3]
    assert sum("rankwright: data error" in err for _, _, err in done) == 1
