"""The small base modules: errors, randomness, signals, progress, types."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright import errors, progress, randomness, signals
from rankwright.types import Batch, Qrels, Reps, Run, Texts

# --- errors -----------------------------------------------------------------------------------------------------------

CODES = {
    errors.RankwrightError: 1,
    errors.UsageError: 2,
    errors.RecipeError: 2,
    errors.DriftError: 2,
    errors.DataError: 3,
    errors.ArtefactError: 4,
    errors.ResourceError: 5,
    errors.RemoteError: 6,
    errors.NonFiniteError: 7,
    errors.Stopped: 75,
}


def test_every_error_has_its_exit_code():
    found = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert {cls: cls.code for cls in found} == CODES
    assert len({cls.kind for cls in CODES}) == len(CODES)


@pytest.mark.parametrize("cls", CODES)
def test_an_error_says_what_where_and_how_to_fix_it_and_travels_between_processes(cls):
    error = cls("grade 'x' is no number", where="qrels.tsv:3", fix="write 0 or 1")
    assert str(error) == "qrels.tsv:3: grade 'x' is no number\n  fix: write 0 or 1"
    assert str(cls("x")) == "x"
    assert str(cls("x", fix="y")) == "x\n  fix: y"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert (again.what, again.where, again.fix) == (error.what, error.where, error.fix)


def test_a_missing_extra_names_the_command():
    error = errors.missing_extra("peft", "lora", "LoRA")
    assert str(error) == "LoRA needs the package 'peft'\n  fix: pip install 'rankwright[lora]'"


# --- randomness -------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_every_earlier_version():
    assert randomness.key(0, "dropout", 1, "d7") == 3179761544772894811
    assert randomness.permutation(8, 13, "batches", 2).tolist() == [6, 2, 1, 4, 0, 7, 5, 3]
    assert randomness.generator(1, "x").standard_normal(2).tolist() == [0.05278023289702589, -0.7033885924251284]


def test_the_global_generators_neither_matter_nor_move():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # pyright: ignore
    one = randomness.permutation(100, 5, "p")
    np.random.seed(1)
    assert (randomness.permutation(100, 5, "p") == one).all()
    np.random.seed(0)
    assert (np.random.get_state()[1] == before).all()  # pyright: ignore


PARTS = st.lists(st.integers() | st.text("ab:\x1e\x1f0int1str", max_size=6), max_size=3)


@given(st.integers(), st.text("ab\x1e\x1f01:int", max_size=6), PARTS, st.integers(), st.text("ab\x1e\x1f01:int"), PARTS)
def test_distinct_tuples_have_distinct_keys(seed, purpose, parts, seed2, purpose2, parts2):
    same = (seed, purpose, parts) == (seed2, purpose2, parts2)
    one, two = randomness.key(seed, purpose, *parts), randomness.key(seed2, purpose2, *parts2)
    assert (one == two) == same
    assert 0 <= one < 1 << 63


@pytest.mark.parametrize("other", [("a\x1fint:1",), ("a", "1"), ("a", 10), ("a", -1), ("a", 1, 1), ("a", "int:1")])
def test_tuples_that_look_alike_have_distinct_keys(other):
    assert randomness.key(0, *other) != randomness.key(0, "a", 1)
    assert randomness.key(0, "a", "b\x1fstr:c") != randomness.key(0, "a", "b", "c")


def test_numpy_s_integers_count_by_value_and_floats_are_refused():
    for kind in (np.int64, np.int32, np.uint8):
        assert randomness.key(kind(3), "p", kind(7)) == randomness.key(3, "p", 7)
    with pytest.raises(TypeError):
        randomness.key(0, "p", 1.5)  # pyright: ignore


def test_permutations_are_uniform():
    counts = Counter(tuple(randomness.permutation(4, seed, "p").tolist()) for seed in range(2400))
    assert len(counts) == 24
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_keys_of_neighbours_share_no_bits():
    bits = np.array([[randomness.key(s, "p", i) >> b & 1 for b in range(63)] for s in range(20) for i in range(50)])
    assert abs(bits.mean(0) - 0.5).max() < 0.07
    assert np.abs(np.corrcoef(bits.T) - np.eye(63)).max() < 0.16


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_at_the_next_check_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with signals.handled():
        signals.check()
        assert not signals.requested()
        os.kill(os.getpid(), number)
        assert signals.requested()
        with pytest.raises(errors.Stopped) as caught:
            signals.check("run it again")
        assert str(caught.value) == (
            f"stopped by {signal.Signals(number).name}; what is finished is kept\n  fix: run it again to go on"
        )
    assert signal.getsignal(number) is before
    assert not signals.requested()
    signals.check()


def test_an_inner_block_does_not_swallow_the_signal():
    with signals.handled():
        with signals.handled():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested()
        with pytest.raises(errors.Stopped):
            signals.check()
    assert not signals.requested()


def test_another_thread_leaves_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals.handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_second_signal_ends_the_process_at_once():
    script = """
        import os, signal, time
        from rankwright import signals
        with signals.handled():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # the same stop, passed on by a wrapper
            print("alive", flush=True)
            time.sleep(0.7)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stdout) == (75, "alive\n")


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (8.24, "8.2 s"),
        (59.94, "59.9 s"),
        (60, "1m00s"),
        (185, "3m05s"),
        (3599.4, "59m59s"),
        (8040, "2h14m"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert progress.duration(seconds) == text


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with progress.progress("encode", 100, "docs") as bar:
        for _ in range(4):
            clock[0] += 6
            bar.advance(10, note="loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "encode: 20/100 docs (20%)  1.7 docs/s  ETA 48.0 s  loss 0.5",
        "encode: 40/100 docs (40%)  1.7 docs/s  ETA 36.0 s  loss 0.5",
        "encode: 40 docs in 24.0 s (1.7 docs/s) loss 0.5",
    ]


def test_what_an_earlier_session_did_does_not_enter_the_rate(clock, capsys):
    with progress.progress("encode", 100, "docs") as bar:
        bar.skip(50)
        clock[0] += 20
        bar.advance(5)
    line, _ = capsys.readouterr().err.splitlines()
    assert line == "encode: 55/100 docs (55%)  4.0 s each  ETA 3m00s"


def test_an_unknown_total_has_no_eta(clock, capsys):
    with progress.progress("read", unit="lines") as bar:
        clock[0] += 11
        bar.advance(1100)
    assert capsys.readouterr().err == "read: 1,100 lines  100.0 lines/s\nread: 1,100 lines in 11.0 s (100.0 lines/s)\n"


def test_track_passes_items_through_and_counts_them(capsys):
    assert list(progress.track([1, 2, 3], "count")) == [1, 2, 3]
    assert capsys.readouterr().err.startswith("count: 3 items in 0.0 s")


def test_quiet_is_quiet_and_stdout_is_never_touched(capsys):
    progress.quiet()
    try:
        progress.say("hello")
        list(progress.track([1], "x"))
        assert capsys.readouterr() == ("", "")
    finally:
        progress.quiet(False)
    progress.say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_terminal_gets_a_bar_and_the_final_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("encode", 2, "docs") as bar:
        bar.advance(2)
    assert terminal.getvalue().splitlines()[-1].endswith("docs/s)")


# --- types ------------------------------------------------------------------------------------------------------------

TABLE = st.dictionaries(
    st.text(max_size=3),
    st.dictionaries(st.text(max_size=2), st.floats(-3, 3).map(round), min_size=1, max_size=6),
    max_size=4,
)


@given(TABLE)
def test_a_table_holds_what_it_was_made_from(table):
    run = Run.from_dict(table)
    assert run.to_dict() == table
    assert len(run) == sum(map(len, table.values()))
    assert run.queries == tuple(table)
    assert run.rows() == {query: i for i, query in enumerate(table)}
    assert (run.offsets.dtype, run.columns.dtype, run.values.dtype) == (np.int64, np.int32, np.float64)


def test_scattered_rows_are_grouped_in_the_order_of_first_appearance():
    qrels = Qrels.from_rows(["b", "a", "b"], ["x", "y", "x2"], [1, 0, 2])
    assert [(q, docs, grades.tolist()) for q, docs, grades in qrels] == [
        ("b", ["x", "x2"], [1.0, 2.0]),
        ("a", ["y"], [0.0]),
    ]
    assert qrels.grades is qrels.values


@given(TABLE, st.none() | st.integers(0, 4))
def test_ranked_is_score_down_then_id_down_bytewise_as_trec_eval_has_it(table, depth):
    ranked = Run.from_dict(table).ranked(depth)
    for query, docs, scores in ranked:
        expected = sorted(table[query].items(), key=lambda pair: (pair[1], pair[0].encode()), reverse=True)[:depth]
        assert list(zip(docs, scores.tolist())) == expected
    assert ranked.queries == tuple(table)


def test_ties_are_broken_by_bytes_not_by_locale_or_code_unit():
    run = Run.from_dict({"q": {"a": 1, "B": 1, "é": 1, "\U0001f600": 1, "\uffff": 1, "aa": 1}})
    assert [docs for _, docs, _ in run.ranked()] == [["\U0001f600", "\uffff", "é", "aa", "a", "B"]]


def test_importing_the_types_does_not_import_torch():
    script = "import sys, rankwright.types; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=110)


class TestTexts:
    """Ragged token ids."""

    def texts(self, keys: bool = True) -> Texts:
        torch = pytest.importorskip("torch")
        values = torch.tensor([5, 6, 7, 8, 9], dtype=torch.int32)
        offsets = torch.tensor([0, 2, 2, 5])
        return Texts(values, offsets, torch.tensor([10, 11, 12]) if keys else None)

    def test_lengths(self):
        assert len(self.texts()) == 3
        assert self.texts().lengths.tolist() == [2, 0, 3]

    @pytest.mark.parametrize("rows", [[], [1], [2, 0], [0, 0, 2, 1]])
    def test_take(self, rows):
        import torch

        taken = self.texts().take(torch.tensor(rows, dtype=torch.int64))
        lists = [[5, 6], [], [7, 8, 9]]
        found = [taken.values[a:b].tolist() for a, b in zip(taken.offsets[:-1], taken.offsets[1:])]
        assert found == [lists[row] for row in rows]
        assert taken.keys is not None
        assert taken.keys.tolist() == [10 + row for row in rows]
        assert taken.values.dtype == torch.int64
        assert self.texts(keys=False).take(torch.tensor(rows, dtype=torch.int64)).keys is None

    def test_with_keys_and_to(self):
        assert self.texts().with_keys(None).keys is None
        moved = self.texts().to("cpu")
        assert moved.values.tolist() == [5, 6, 7, 8, 9]
        assert self.texts(keys=False).to("cpu").keys is None


def test_shapes_are_checked_in_tests():
    """The import hook of conftest bites: a mask of the wrong width cannot be handed over."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("beartype")
    Reps(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(TypeError):
        Reps(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError):
        Reps(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert Batch.__dataclass_params__.frozen  # pyright: ignore
