"""Rankings from windows over many queries: right, resumable, paid for once, and no key on any disk."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rankwright.cli import main
from rankwright.data import Dataset, Ranking, Reading, read_run
from rankwright.errors import RemoteError, Stopped, UsageError
from rankwright.llm import Budget, Client, Endpoint, Journal, ListWise, Reply, rank_run
from rankwright.llm.endpoint import Clock
from rankwright.types import Run

_spec = importlib.util.spec_from_file_location("llm_fake", Path(__file__).with_name("fake.py"))
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
sys.modules["llm_fake"] = fake
_spec.loader.exec_module(fake)

KEY = "sk-canary-0123456789abcdef"


class Brief(Clock):
    """Waits a hundredth of what is asked."""

    def wait(self, stop, seconds):
        stop.wait(seconds / 100)


@pytest.fixture
def server() -> Iterator[Any]:
    with fake.serving() as made:
        yield made


def lists(queries: int, docs: int) -> Run:
    """Document i of a query is a text of i + 1 letters; the shortest come last."""
    return Run.from_dict({f"q{q}": {f"q{q}d{i}": float(i) for i in range(docs)} for q in range(queries)})


def doc_text(doc: str) -> str:
    return doc.split("d")[0] + "x" * (int(doc.split("d")[1]) + 1)


def ranked(server: Any, run: Run, journal: Path, *, spec: ListWise | None = None, workers: int = 4, **more: Any):
    spec = spec or ListWise(window=4, depth=10)
    with Journal.open(journal) as kept:
        budget = Budget(more.pop("requests", None), used_requests=len(kept), used_tokens=kept.tokens)
        client = Client(Endpoint(server.url, "m", **more), trusted=len(kept) > 0, budget=budget, clock=Brief())
        return rank_run(
            run,
            client=client,
            journal=kept,
            query_text=lambda q: f"about {q}",
            doc_text=doc_text,
            spec=spec,
            workers=workers,
        )


def order(run: Run) -> dict[str, list[str]]:
    return {query: [doc.split("d")[1] for doc in docs] for query, docs, _ in run.ranked()}


def expected(docs: int, window: int, step: int, depth: int) -> list[str]:
    found = list(range(docs))[::-1][:depth]
    end = len(found)
    while end > 1:
        begin = max(0, end - window)
        found[begin:end] = sorted(found[begin:end])
        end = 0 if begin == 0 else end - step
    return [str(i) for i in found]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("docs", "window", "step", "depth"), [(12, 4, 2, 10), (3, 20, 10, 100), (1, 4, 2, 10)])
def test_windows_put_the_best_on_top(server, tmp_path, docs, window, step, depth, workers):
    spec = ListWise(window=window, step=step, depth=depth)
    done = ranked(server, lists(3, docs), tmp_path / "j", spec=spec, workers=workers)
    assert order(done.run) == {f"q{q}": expected(docs, window, step, depth) for q in range(3)}
    assert done.run.queries == ("q0", "q1", "q2")
    assert done.run.values.tolist()[: min(docs, depth)] == [1 / r for r in range(1, min(docs, depth) + 1)]
    assert server.most_at_once <= workers


def test_nothing_is_asked_twice(server, tmp_path):
    first = ranked(server, lists(4, 8), tmp_path / "j")
    asked = len(server.requests)
    assert first.counts["asked"] == asked == first.counts["windows"]
    again = ranked(server, lists(4, 8), tmp_path / "j")
    assert len(server.requests) == asked
    assert order(again.run) == order(first.run)
    assert again.counts["known"] == asked
    ranked(server, lists(4, 8), tmp_path / "j", parameters={"temperature": 1})  # another question
    assert len(server.requests) == 2 * asked


def test_answers_that_are_no_permutation_are_repaired_and_counted(server, tmp_path):
    server.script = ["repeats", "foreign"]
    done = ranked(server, lists(2, 4), tmp_path / "j", workers=1)
    assert order(done.run) == {"q0": ["2", "3", "1", "0"], "q1": ["3", "2", "1", "0"]}
    c = done.counts
    assert (c["repaired"], c["complete"], c["repeated"], c["foreign"], c["missing"]) == (2, 0, 1, 2, 5)


@pytest.mark.parametrize("fault", ["talk", "null", "400"])
def test_unanswered_windows_are_kept_or_their_queries_dropped(server, tmp_path, fault):
    for number, unanswered in enumerate(("keep", "drop")):
        spec = ListWise(window=4, unanswered=unanswered)
        server.script = ["", fault]
        done = ranked(server, lists(3, 4), tmp_path / f"j{number}", spec=spec, workers=1)
        assert done.counts["unanswered"] == done.counts["queries with an unanswered window"] == 1
        assert "q1" in done.examples[0]
        assert order(done.run).get("q1") == (["3", "2", "1", "0"] if unanswered == "keep" else None)
        assert len(done.run.queries) == 3 - number


def test_a_model_that_never_orders_is_an_error(server, tmp_path):
    server.answer = lambda asked: "I would rather talk about the weather."
    with pytest.raises(RemoteError, match="no window got a usable answer"):
        ranked(server, lists(2, 4), tmp_path / "j")


def test_the_budget_stops_and_more_of_it_goes_on(server, tmp_path):
    with pytest.raises(Stopped, match="budget of 5 requests is spent") as caught:
        ranked(server, lists(4, 8), tmp_path / "j", requests=5)
    assert caught.value.code == 75
    assert len(server.requests) == 5
    with pytest.raises(Stopped):  # earlier sessions count
        ranked(server, lists(4, 8), tmp_path / "j", requests=5)
    assert len(server.requests) == 5
    done = ranked(server, lists(4, 8), tmp_path / "j")
    assert order(done.run) == {f"q{q}": expected(8, 4, 2, 10) for q in range(4)}
    assert max(server.paid.values()) == 1


def test_a_broken_endpoint_stops_every_thread_and_keeps_what_was_answered(server, tmp_path):
    server.script = ["", ""] + ["404"] * 100
    with pytest.raises(RemoteError, match="HTTP 404"):
        ranked(server, lists(40, 4), tmp_path / "j", workers=3)
    assert len(server.requests) <= 2 + 2 * 3
    with Journal.open(tmp_path / "j") as journal:
        assert len(journal) == 2


@pytest.mark.parametrize(("window", "step"), [(1, None), (4, 4), (4, 0), (20, -1)])
def test_windows_that_do_not_fit(window, step):
    with pytest.raises(UsageError):
        ListWise(window=window, step=step)


@pytest.mark.parametrize("queries", [120, pytest.param(2500, marks=pytest.mark.soak)])
def test_calls_with_thirty_percent_faults_lose_and_repeat_nothing(server, tmp_path, queries):
    server.chance, server.retry_after = 0.3, "0.02"
    done = ranked(server, lists(queries, 10), tmp_path / "j", workers=8, attempts=30)
    assert order(done.run) == {f"q{q}": expected(10, 4, 2, 10) for q in range(queries)}
    assert done.counts["windows"] == done.counts["asked"] == len(server.paid) == 4 * queries
    assert max(server.paid.values()) == 1
    assert done.counts["tried again"] > 0.2 * 4 * queries
    assert all(server.seen[name] for name in server.faults)


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_journal_survives_damage_line_by_line(tmp_path, capsys):
    path = tmp_path / "j"
    replies = [Reply(f"[{i}] é\n", "stop", i, 1) for i in range(20)]
    with Journal.open(path) as journal:
        for i, reply in enumerate(replies):
            journal.add(f"k{i}", reply)
        assert journal.tokens == sum(reply.tokens for reply in replies)
    whole = path.read_bytes()
    rng = random.Random(1)
    for _ in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.3 else None])
        with Journal.open(path) as journal:
            for i, reply in enumerate(replies):
                assert journal.get(f"k{i}") in (None, reply)
    path.write_bytes(whole[:-3])
    with Journal.open(path) as journal:
        assert len(journal) == 19
        journal.add("k19", replies[19])
    with Journal.open(path) as journal:
        assert len(journal) == 20
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"not json\n", b'{"prompt_tokens": 1, "answer_tokens": 2}\n', *lines[5:]]))
    capsys.readouterr()
    with Journal.open(path) as journal:
        assert len(journal) == 20
    assert "2 damaged lines" in capsys.readouterr().err


def test_two_processes_do_not_share_a_journal(tmp_path):
    from rankwright.errors import ResourceError

    with Journal.open(tmp_path / "j"), pytest.raises(ResourceError), Journal.open(tmp_path / "j"):
        pass


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a run of the tiny data set."""
    monkeypatch.chdir(tmp_path)
    data = Dataset.open(tiny_data)
    rows = [
        f"{query.id} Q0 {doc.id} {rank} {20 - rank} t\n"
        for query in list(data.queries)[:6]
        for rank, doc in enumerate(list(data.corpus)[:10], start=1)
    ]
    Path("run.trec").write_text("".join(rows))
    return tmp_path


def words(server: Any, data: Path, *more: str) -> list[str]:
    first = ["rank", "run.trec", str(data), "--endpoint", server.url, "--llm", "m", "--out", "p.trec"]
    return [*first, "--window", "4", *more]


def test_the_command_writes_a_run_that_a_source_reads(server, work, tiny_data, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    server.script = ["repeats", "500"]
    main(words(server, tiny_data, "--key-env", "MY_KEY", "--workers", "2"))
    said = capsys.readouterr()
    assert "1 repaired" in said.out
    assert "1 requests failed" in said.out
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    source = Ranking(str(tiny_data), run="p.trec", target="rank")
    (rows,) = source.parts(Dataset.open(tiny_data), reading=Reading())
    assert len(rows.queries) == 6
    assert rows.values[:10].tolist() == list(range(10, 0, -1))
    first = Path("p.trec").read_bytes()
    main(words(server, tiny_data, "--json"))
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"].get("asked", 0) == 0
    assert Path("p.trec").read_bytes() == first
    for path in work.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert KEY not in said.out + said.err


@pytest.mark.parametrize(
    ("code", "more"),
    [
        (2, ["--parameters", "[]"]), (2, ["--parameters", '{"model": "x"}']), (2, ["--window", "1"]),
        (2, ["--budget-tokens", "0"]), (2, ["--key-env", "NO_SUCH_VARIABLE_HERE"]), (2, ["--workers", "0"]),
        (2, ["--endpoint", "http://example.org/v1", "--key-env", "PATH"]), (2, ["--endpoint", "localhost:8000"]),
        (75, ["--budget-requests", "3"]), (2, ["--out", "."]),
    ],
)  # fmt: skip
def test_errors_have_exit_codes(server, work, tiny_data, capsys, code, more):
    with pytest.raises(SystemExit) as caught:
        main(words(server, tiny_data, *more))
    assert caught.value.code == code
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("p.trec").exists()


def test_a_redirecting_endpoint_exits_six(server, work, tiny_data, capsys):
    server.script = ["307"] * 10
    with pytest.raises(SystemExit) as caught:
        main(words(server, tiny_data))
    assert caught.value.code == 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_was_stopped_goes_on_and_pays_for_nothing_twice(server, work, tiny_data, number):
    server.delay = 0.05
    command = [sys.executable, "-m", "rankwright", *words(server, tiny_data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 60
    journal = Path("p.trec.journal.jsonl")
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 5:
            process.send_signal(number)
            break
        time.sleep(0.005)
    assert process.stderr is not None
    message = process.stderr.read().decode()
    assert process.wait() == (-9 if number == signal.SIGKILL else 75), message
    before = journal.read_bytes().count(b"\n")
    while server.at_once:
        time.sleep(0.01)
    asked = len(server.requests)
    assert asked - before <= (4 if number == signal.SIGKILL else 0)  # what was under way when it was killed
    main(words(server, tiny_data))
    assert len(server.requests) - asked == 24 - before
    assert len(read_run(Path("p.trec")).queries) == 6
