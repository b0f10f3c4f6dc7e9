"""Storage: what survives any fault at any moment, and what is never believed."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.errors import ArtefactError, RankwrightError, ResourceError, UsageError

# --- a disk that fails on purpose -------------------------------------------------------------------------------------

METHODS = ("create", "append", "write", "truncate", "fsync", "rename", "mkdir", "unlink", "rmtree", "fsync_folder")
ERRORS = {
    "ENOSPC": errno.ENOSPC,
    "EDQUOT": errno.EDQUOT,
    "EIO": errno.EIO,
    "EINTR": errno.EINTR,
    "EACCES": errno.EACCES,
}
GROWING = ("create", "append", "write", "mkdir")


class Faults:
    """Makes call number `at` of all disk-changing calls go wrong; `fired` says whether there was such a call."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.calls, self.fired = kind, at, 0, False

    def around(self, name: str, method: Callable) -> Callable:
        def call(*args):
            if self.kind in ("short", "lie", "zero") and name != "write":
                return method(*args)
            self.calls += 1
            now = self.calls == self.at
            if self.kind == "full":  # from here on the disk takes nothing more
                if self.calls >= self.at and name in GROWING:
                    self.fired = True
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            elif self.kind in ("short", "lie", "zero") and now:
                self.fired = True
                fd, data = args
                if self.kind == "zero":
                    return 0
                written = method(fd, data[: len(data) // 2])
                return written if self.kind == "short" else len(data)
            elif self.kind == "kill" and now:
                if name == "write":
                    method(args[0], args[1][: len(args[1]) // 2])
                elif name == "rmtree":  # half done
                    for path in sorted(args[0].rglob("*"))[:1]:
                        path.unlink() if path.is_file() else None
                os._exit(9)
            elif self.kind in ERRORS and now:
                self.fired = True
                raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
            return method(*args)

        return call


@contextmanager
def failing(kind: str, at: int) -> Iterator[Faults]:
    faults = Faults(kind, at)
    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            patch.setattr(storage.fs, name, faults.around(name, getattr(storage.fs, name)))
        yield faults


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch) -> None:
    """Only a power cut could tell; the order of fsyncs is proved below, in a process of its own."""
    monkeypatch.setattr(storage.fs, "fsync", lambda fd: None)
    monkeypatch.setattr(storage.fs, "fsync_folder", lambda path: None)


OLD, NEW = b"old " * 50, b"new! " * 70


def fill(draft: storage.Draft, content: bytes) -> None:
    """Files of every sort: by name, nested, and written by a library."""
    for name in ("a.bin", "sub/deep/b.bin"):
        if not draft.has(name):
            storage.write_bytes(draft.file(name), content)
            draft.done(name)
    draft.file("library.bin").write_bytes(content[:60])
    draft.meta["length"] = len(content)


def publish(folder: Path, content: bytes, *, resume: bool = False) -> None:
    with storage.publish(folder, "thing", key=content[:4].decode(), resume=resume) as draft:
        fill(draft, content)


def start_and_die(folder: Path, content: bytes) -> None:
    """A draft that a killed session left: one file done, one torn, a temporary of a dead writer."""
    if (child := os.fork()) == 0:
        with storage.publish(folder, "thing", key=content[:4].decode(), resume=True) as draft:
            storage.write_bytes(draft.file("a.bin"), content)
            draft.done("a.bin")
            draft.file("sub").mkdir()
            draft.file("sub/torn.bin").write_bytes(b"to")
            draft.file(f".x.{os.getpid()}.tmp").write_bytes(b"tmp")
            os._exit(9)
    os.waitpid(child, 0)


def artefact_is(folder: Path, content: bytes) -> bool:
    """Complete and bit-equal to what `publish` makes of `content`, nothing more and nothing less."""
    manifest = storage.verify(folder, "thing", full=True)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(storage.MANIFEST)
    expected = {"a.bin": content, "sub/deep/b.bin": content, "library.bin": content[:60]}
    return found == expected and set(manifest.files) == set(expected) and manifest.meta == {"length": len(content)}


class Scenario:
    """One kind of write: how it is prepared, done, and what may be found afterwards."""

    def __init__(self, prepare, act, *, old, new, repeatable: bool = True) -> None:
        self.prepare, self.act, self.old, self.new, self.repeatable = prepare, act, old, new, repeatable


def file_is(content: bytes) -> Callable[[Path], bool]:
    return lambda root: (root / "f").read_bytes() == content


def folder_is(content: bytes) -> Callable[[Path], bool]:
    return lambda root: artefact_is(root / "new" / "f", content)


def absent(root: Path) -> bool:
    return not (root / "f").exists() and not (root / "new" / "f").exists()


def lines_are(n: int) -> Callable[[Path], bool]:
    return lambda root: storage.read_lines(root / "log") == [{"i": i} for i in range(n)]


SCENARIOS = {
    "write a new file": Scenario(
        lambda root: None, lambda root: storage.write_bytes(root / "f", NEW), old=absent, new=file_is(NEW)
    ),
    "replace a file": Scenario(
        lambda root: storage.write_bytes(root / "f", OLD),
        lambda root: storage.write_bytes(root / "f", NEW),
        old=file_is(OLD),
        new=file_is(NEW),
    ),
    "publish a new folder": Scenario(
        lambda root: None, lambda root: publish(root / "new" / "f", NEW), old=absent, new=folder_is(NEW)
    ),
    "replace a folder": Scenario(
        lambda root: publish(root / "new" / "f", OLD),
        lambda root: publish(root / "new" / "f", NEW),
        old=folder_is(OLD),
        new=folder_is(NEW),
    ),
    "resume a draft over an old folder": Scenario(
        lambda root: (publish(root / "new" / "f", OLD), start_and_die(root / "new" / "f", NEW)),
        lambda root: publish(root / "new" / "f", NEW, resume=True),
        old=folder_is(OLD),
        new=folder_is(NEW),
    ),
    "remove a folder": Scenario(
        lambda root: publish(root / "new" / "f", OLD),
        lambda root: storage.remove_folder(root / "new" / "f"),
        old=folder_is(OLD),
        new=absent,
    ),
    "append a line": Scenario(
        lambda root: (storage.append_line(root / "log", {"i": 0}), (root / "log").open("ab").write(b'{"torn')),
        lambda root: storage.append_line(root / "log", {"i": 1}),
        old=lines_are(1),
        new=lines_are(2),
        repeatable=False,
    ),
}


def left_overs(root: Path) -> list[str]:
    return [str(p.relative_to(root)) for p in root.rglob(".*") if not p.name.endswith(".lock")]


def check_after(scenario: Scenario, root: Path, *, must_be_new: bool, where: str) -> None:
    """Old or new, whole; and after the next start new, with nothing left over."""
    now_new = _holds(scenario.new, root)
    assert now_new or (not must_be_new and _holds(scenario.old, root)), where
    if scenario.repeatable or not now_new:
        scenario.act(root)
    storage.sweep(root)
    storage.sweep(root / "new")
    assert _holds(scenario.new, root), where
    assert left_overs(root) == [], where


def _holds(check: Callable[[Path], bool], root: Path) -> bool:
    try:
        return check(root)
    except (ArtefactError, OSError):
        return False


def sweep_errors(scenario: Scenario, name: str, kind: str, tmp_path: Path) -> int:
    """Every call in turn goes wrong; returns how many points there were."""
    for at in range(1, 500):
        root = tmp_path / f"{kind}-{at}"
        root.mkdir()
        scenario.prepare(root)
        where = f"{name}, {kind} at call {at}"
        with failing(kind, at) as faults:
            try:
                scenario.act(root)
                raised = None
            except Exception as error:
                raised = error
        if raised is not None:
            assert isinstance(raised, ResourceError), (where, raised)
            assert raised.where, where
            assert str(root) in raised.where, where
            assert raised.fix, where
        check_after(scenario, root, must_be_new=raised is None, where=where)
        shutil.rmtree(root)
        if faults.calls < at:
            return at - 1
    raise AssertionError("the sweep does not end")


@pytest.mark.parametrize("kind", [*ERRORS, "full", "short", "lie", "zero"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_call_leaves_the_old_or_the_new_and_a_typed_error(name, kind, tmp_path):
    points = sweep_errors(SCENARIOS[name], name, kind, tmp_path)
    if kind not in ("short", "lie", "zero"):  # these concern writes alone
        assert points >= {"append a line": 3, "remove a folder": 2}.get(name, 5)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new(name, tmp_path):
    scenario = SCENARIOS[name]
    for at in range(1, 500):
        root = tmp_path / str(at)
        root.mkdir()
        scenario.prepare(root)
        if (child := os.fork()) == 0:
            with failing("kill", at):
                scenario.act(root)
            os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        check_after(scenario, root, must_be_new=finished, where=f"{name}, killed at call {at}")
        shutil.rmtree(root)
        if finished:
            return
    raise AssertionError("the sweep does not end")


@pytest.mark.parametrize(("kind", "at"), [("short", 1), ("EINTR", 4)])
def test_a_short_or_interrupted_write_is_simply_continued(kind, at, tmp_path):
    with failing(kind, at) as faults:  # mkdir, unlink, create, write
        storage.write_bytes(tmp_path / "f", NEW)
    assert faults.fired
    assert (tmp_path / "f").read_bytes() == NEW


# --- durability: what the kernel is asked for, in which order ---------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    from rankwright import storage
    root = Path(sys.argv[1])
    storage.write_bytes(root / "parents" / "made" / "f", b"x" * 100)
    storage.write_bytes(root / "parents" / "made" / "f", b"y" * 100)
    for content in (b"1", b"2"):
        with storage.publish(root / "artefact", "thing") as draft:
            storage.write_bytes(draft.file("sub/deep/a"), content)
            (draft.path / "by" / "library").mkdir(parents=True)
            (draft.path / "by" / "library" / "b").write_bytes(content)
    print("DONE", flush=True)
"""
NAIVE = """
    import os, sys
    from pathlib import Path
    root = Path(sys.argv[1])
    (root / "f.tmp").write_bytes(b"x" * 100)
    os.replace(root / "f.tmp", root / "f")
    print("DONE", flush=True)
"""


CALLS = "write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat"


def order_violations(script: str, root: Path, log: Path) -> tuple[list[str], int]:
    """What was renamed before its fsync or not durable when success was said; and how many renames were seen."""
    command = [*f"strace -f -y -e trace={CALLS} -o {log}".split(), sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run([*command, str(root)], capture_output=True, text=True, timeout=110)
    if "DONE" not in done.stdout:
        pytest.skip(f"strace cannot run here: {done.stderr[-200:]}")
    dirty: set[str] = set()  # files with bytes that are not on the disk, folders with entries that are not
    found, renames = [], 0
    for line in log.read_text().splitlines():
        call = re.match(r"(?:\d+ +)?(\w+)\(", line)
        if call is None or " = -1 " in line:
            continue
        name = call[1]
        if name == "write" and "DONE" in line:
            found += [f"not durable when success is said: {path}" for path in dirty]
        paths = [one or two for one, two in re.findall(r'<(/[^>]*)>|"(/[^"]*)"', line)]
        paths = [path for path in paths if path.startswith(str(root))]
        if not paths:
            continue
        if name in ("write", "pwrite64", "ftruncate"):
            dirty |= set() if paths[0].endswith(".lock") else {paths[0]}
        elif name in ("fsync", "fdatasync"):
            dirty.discard(paths[0])
        elif name.startswith("mkdir"):
            dirty.add(str(Path(paths[-1]).parent))
        elif name.startswith("unlink"):
            dirty -= {path for path in dirty if path == paths[-1]}
        else:
            renames += 1
            source, target = paths[-2:]
            found += [f"renamed before fsync: {path}" for path in dirty if f"{path}/".startswith(f"{source}/")]
            dirty |= set() if target.endswith(".gone") else {str(Path(target).parent)}  # may come back: it is swept
    return found, renames


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_every_rename_follows_the_fsync_of_its_source_and_precedes_that_of_its_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    violations, renames = order_violations(WRITER, root, tmp_path / "log")
    assert violations == []
    assert renames >= 7


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_order_test_bites_on_a_naive_writer(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    violations, renames = order_violations(NAIVE, root, tmp_path / "log")
    assert renames == 1
    assert any("renamed before fsync" in line for line in violations)
    assert any("not durable" in line for line in violations)


# --- bit rot ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def artefact(tmp_path) -> Path:
    publish(tmp_path / "artefact", NEW)
    return tmp_path / "artefact"


def refused(folder: Path, *, kind: str | None = "thing") -> str:
    with pytest.raises(ArtefactError) as caught:
        storage.verify(folder, kind)
    assert caught.value.code == 4
    assert caught.value.fix
    return str(caught.value)


def flip(path: Path, rng: random.Random) -> Callable[[], None]:
    """Flip one random bit; returns the way back."""
    data = path.read_bytes()
    bit = rng.randrange(8 * len(data))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(damaged)
    return lambda: path.write_bytes(data) and None


def rot(folder: Path, seeds: range) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for seed in seeds:
        rng = random.Random(seed)
        path = files[seed % len(files)]
        if seed % 10:
            back = flip(path, rng)
        else:
            data = path.read_bytes()
            path.write_bytes(data[: rng.randrange(len(data))])
            back = lambda path=path, data=data: path.write_bytes(data) and None  # noqa: E731
        assert path.name in refused(folder), seed
        back()
    storage.verify(folder, full=True)


def test_every_flipped_bit_and_every_cut_is_refused_by_name(artefact):
    rot(artefact, range(300))


@pytest.mark.soak
def test_ten_thousand_flipped_bits_are_refused(artefact):
    rot(artefact, range(1000, 12_000))


def test_damage_is_found_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr("rankwright.artefacts.BLOCK", 16)
    publish(tmp_path / "a", NEW)
    (tmp_path / "a" / "a.bin").write_bytes(NEW[:100] + b"?" + NEW[101:])
    assert "block 6 is damaged" in refused(tmp_path / "a")


def test_missing_swapped_stale_and_foreign_parts_are_refused(artefact, tmp_path):
    one, two = artefact / "a.bin", artefact / "library.bin"
    keep = {path: path.read_bytes() for path in artefact.rglob("*") if path.is_file()}

    def restore() -> None:
        for path, data in keep.items():
            path.write_bytes(data)
        storage.verify(artefact)

    one.unlink()
    assert f"{one}: file is missing" in refused(artefact)
    restore()
    one.write_bytes(keep[two])
    assert str(one) in refused(artefact)
    restore()
    one.write_bytes(bytes(len(keep[one])))  # the right size
    assert f"{one}: block 0 is damaged" in refused(artefact)
    restore()
    publish(tmp_path / "other", OLD)
    shutil.copy(tmp_path / "other" / storage.MANIFEST, artefact)
    assert str(artefact) in refused(artefact)
    restore()
    (artefact / storage.MANIFEST).unlink()
    assert "no manifest.json: not a finished artefact" in refused(artefact)
    restore()
    assert "holds 'thing', expected 'model'" in refused(artefact, kind="model")
    assert "not a finished artefact" in refused(tmp_path / "nowhere")


def forge(folder: Path, **changes) -> None:
    """A manifest with a valid seal over other contents."""
    from rankwright.artefacts import sealed

    body = json.loads((folder / storage.MANIFEST).read_text())
    (folder / storage.MANIFEST).write_bytes(sealed(body | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"kind": 3},
        {"files": []},
        {"files": {"../secret": {"size": 1, "sha256": "", "xxh3": [""]}}},
        {"files": {"/etc/hostname": {"size": 1, "sha256": "", "xxh3": [""]}}},
        {"files": {"a.bin": {"size": 350, "sha256": "", "xxh3": []}}},
        {"files": {"a.bin": {"size": "350", "sha256": "", "xxh3": []}}},
        {"files": {"a.bin": None}},
        {"files": {"a\0b": {"size": 0, "sha256": "", "xxh3": []}}},
        {"meta": None},
    ],
)
def test_a_forged_manifest_is_refused(artefact, changes):
    forge(artefact, **changes)
    assert storage.MANIFEST in refused(artefact, kind=None)


@settings(max_examples=150)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_as_a_manifest_are_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("m")
    (folder / storage.MANIFEST).write_bytes(data)
    refused(folder, kind=None)


def test_full_verification_also_compares_sha256(artefact):
    files = json.loads((artefact / storage.MANIFEST).read_text())["files"]
    files["a.bin"]["sha256"] = "0" * 64
    forge(artefact, files=files)
    storage.verify(artefact)
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        storage.verify(artefact, full=True)


def test_is_current_asks_for_kind_key_and_integrity(artefact):
    key = NEW[:4].decode()
    assert storage.is_current(artefact, "thing", key)
    assert not storage.is_current(artefact, "model", key)
    assert not storage.is_current(artefact, "thing", "other")
    assert not storage.is_current(artefact / "nowhere", "thing", key)
    (artefact / "a.bin").write_bytes(b"x")
    assert not storage.is_current(artefact, "thing", key)


# --- drafts -----------------------------------------------------------------------------------------------------------


def test_a_resumed_draft_finds_what_is_finished_and_nothing_else(tmp_path):
    start_and_die(tmp_path / "f", NEW)
    with storage.publish(tmp_path / "f", "thing", key=NEW[:4].decode(), resume=True) as draft:
        assert draft.has("a.bin")
        assert not draft.has("sub/torn.bin")
        assert [p.name for p in draft.path.rglob("*") if p.is_file()] in (
            ["a.bin", "done.jsonl"],
            ["done.jsonl", "a.bin"],
        )
        fill(draft, NEW)
    assert artefact_is(tmp_path / "f", NEW)


def test_a_draft_of_another_key_or_without_resume_starts_empty(tmp_path):
    for key, resume in (("other", True), (NEW[:4].decode(), False)):
        start_and_die(tmp_path / "f", NEW)
        with storage.publish(tmp_path / "f", "thing", key=key, resume=resume) as draft:
            assert not draft.has("a.bin")
            assert not draft.file("a.bin").exists()
            draft.file("x").write_bytes(b"x")


def test_a_finished_file_that_was_damaged_since_is_not_found(tmp_path):
    start_and_die(tmp_path / "f", NEW)
    (tmp_path / ".f.draft" / "a.bin").write_bytes(b"?" * len(NEW))
    with storage.publish(tmp_path / "f", "thing", key=NEW[:4].decode(), resume=True) as draft:
        assert not draft.has("a.bin")
        fill(draft, NEW)
    assert artefact_is(tmp_path / "f", NEW)


def test_a_file_changed_after_it_was_recorded_is_sealed_as_it_is(tmp_path):
    with storage.publish(tmp_path / "f", "thing") as draft:
        storage.write_bytes(draft.file("a"), b"first")
        draft.done("a")
        storage.write_bytes(draft.file("a"), b"later")
    storage.verify(tmp_path / "f", full=True)


def test_a_failed_block_leaves_the_old_version_and_its_own_error(tmp_path):
    publish(tmp_path / "f", OLD)
    for error in (
        ValueError("bad"),
        FileNotFoundError(errno.ENOENT, "input"),
        ConnectionResetError(),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(error)), storage.publish(tmp_path / "f", "thing"):
            raise error
        with pytest.raises(type(error)), storage.write_file(tmp_path / "g"):
            raise error
    error = OSError(errno.ENOSPC, "a library met a full disk")
    with pytest.raises(ResourceError), storage.publish(tmp_path / "f", "thing"):
        raise error
    assert artefact_is(tmp_path / "f", OLD)
    assert left_overs(tmp_path) == []
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    "make", [lambda p: (p.mkdir(), (p / "thesis.tex").write_text("x")), lambda p: p.write_text("x")]
)
def test_what_is_no_artefact_is_never_replaced(tmp_path, make):
    make(tmp_path / "home")
    with pytest.raises(UsageError, match="exists and is no artefact"):
        publish(tmp_path / "home", NEW)
    assert (tmp_path / "home").is_file() or (tmp_path / "home" / "thesis.tex").read_text() == "x"


def test_an_empty_folder_and_a_damaged_artefact_are_replaced(tmp_path):
    (tmp_path / "f").mkdir()
    publish(tmp_path / "f", OLD)
    (tmp_path / "f" / storage.MANIFEST).write_text("?")
    publish(tmp_path / "f", NEW)
    assert artefact_is(tmp_path / "f", NEW)


def test_remove_folder_is_content_with_an_absent_one(tmp_path):
    storage.remove_folder(tmp_path / "nothing")


# --- several processes ------------------------------------------------------------------------------------------------


@contextmanager
def holder(path: Path) -> Iterator[int]:
    """Another process that holds the lock; yields its pid."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        with storage.lock(path):
            os.write(write, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_a_second_process_is_told_at_once_who_works_here(tmp_path):
    with holder(tmp_path / ".f.lock") as pid:
        began = time.monotonic()
        with pytest.raises(ResourceError) as caught:
            publish(tmp_path / "f", NEW)
        assert time.monotonic() - began < 2
        message = f"{tmp_path}/.f.lock: another process (pid {pid}) is working here\n  fix: wait for it or end it"
        assert str(caught.value) == message
    publish(tmp_path / "f", NEW)  # the killed owner's lock is free


def test_a_lock_is_freed_when_its_block_ends_however(tmp_path):
    for _ in range(3):
        with pytest.raises(ValueError), storage.lock(tmp_path / "l"):
            raise ValueError
    with storage.lock(tmp_path / "l"), pytest.raises(ResourceError), storage.lock(tmp_path / "l", patience=0):
        pass


def rewrite_under_readers(folder: Path, *, rewrites: int, readers: int = 4) -> None:
    publish(folder, OLD)
    children = []
    for _ in range(readers):
        if (child := os.fork()) == 0:
            code = 1
            try:
                while not (folder.parent / "stop").exists():
                    storage.verify(folder, "thing")
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for i in range(rewrites):
        publish(folder, (OLD, NEW)[i % 2])
    storage.write_text(folder.parent / "stop", "")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * readers


def test_readers_never_see_a_torn_artefact_while_it_is_replaced(tmp_path):
    rewrite_under_readers(tmp_path / "f", rewrites=60)


@pytest.mark.soak
def test_a_thousand_rewrites_under_four_readers_tear_nothing(tmp_path):
    rewrite_under_readers(tmp_path / "f", rewrites=1000)


def test_a_reader_brings_back_what_a_kill_between_the_two_renames_hid(tmp_path):
    publish(tmp_path / "f", OLD)
    (tmp_path / "f").rename(tmp_path / ".f.old")
    assert artefact_is(tmp_path / "f", OLD)


def test_sweep_removes_only_what_dead_processes_left(tmp_path):
    if (dead := os.fork()) == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    keep = [f".a.{os.getpid()}.tmp", ".a.x.tmp", "a.1.tmp", ".git", ".f.draft"]
    for name in (*keep, f".a.{dead}.tmp", ".b.99999999999999999999.tmp"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".c.gone").mkdir()
    storage.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)


# --- names, modes, formats --------------------------------------------------------------------------------------------


def name_is_safe_or_refused(root: Path, name: str) -> None:
    try:
        safe = storage.safe_name(name)
    except UsageError as error:
        assert error.fix is not None  # noqa: PT017
        return
    storage.write_bytes(root / safe, b"")
    assert [path.name for path in root.iterdir()] == [name]
    (root / name).unlink()


NAMES = st.text(max_size=40) | st.sampled_from(
    [
        ".",
        "..",
        "",
        "/",
        "a/b",
        "\\",
        "a\0",
        "-rf",
        "~",
        "a" * 250,
        "\u202egnp",
        "\u2067",
        "\ud800",
        "a\n",
        "é",
        " ",
        "\x7f",
    ]
)


@settings(max_examples=300)
@given(NAMES)
def test_a_name_stays_below_its_folder_or_is_refused(tmp_path_factory, name):
    name_is_safe_or_refused(tmp_path_factory.mktemp("names"), name)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(NAMES)
def test_twenty_thousand_names_stay_below_their_folder(tmp_path_factory, name):
    name_is_safe_or_refused(tmp_path_factory.mktemp("names"), name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "\u202ea", "\ud800", "x" * 201]
)
def test_dangerous_names_are_refused(name):
    with pytest.raises(UsageError, match="cannot be a file name"):
        storage.safe_name(name)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        publish(tmp_path / "f", NEW)
        storage.write_text(tmp_path / "t", "x")
    finally:
        os.umask(before)
    for path in (tmp_path / "t", *(tmp_path / "f").rglob("*")):
        full = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == full & ~umask, path


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (), (2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_shape_come_back(tmp_path, shape, order):
    array = np.asarray(np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape), order=order)
    storage.write_npy(tmp_path / "a.npy", array)
    again = storage.read_npy(tmp_path / "a.npy")
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    np.testing.assert_array_equal(again, array)


def test_pickles_archives_and_damaged_headers_are_no_arrays(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(ValueError):
        storage.write_npy(path, np.array([{}], dtype=object))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    for make in (lambda: None, lambda: np.savez(path.open("wb"), a=np.ones(3)), lambda: path.write_bytes(b"")):
        make()
        with pytest.raises(ArtefactError, match="not a readable"):
            storage.read_npy(path)
    storage.write_npy(path, np.ones(100))
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(ArtefactError, match="not a readable"):
        storage.read_npy(path)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.randrange(128)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            storage.read_npy(path)
        except RankwrightError as error:
            assert isinstance(error, ArtefactError)  # noqa: PT017
    path.unlink()
    with pytest.raises(ArtefactError, match="file is missing"):
        storage.read_npy(path)


def test_tensors_come_back(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}
    storage.write_tensors(tmp_path / "t.safetensors", tensors, {"format": "pt"})
    again = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_torn_last_line_is_dropped_and_the_next_append_repairs_it(tmp_path):
    path = tmp_path / "log.jsonl"
    assert storage.read_lines(path) == []
    for i in range(3):
        storage.append_line(path, {"i": i})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = storage.read_lines(path)
        assert kept == [{"i": i} for i in range(whole[:cut].count(b"\n"))]
        storage.append_line(path, "next")
        assert storage.read_lines(path) == [*kept, "next"]


def test_a_long_torn_line_is_repaired(tmp_path, monkeypatch):
    monkeypatch.setattr("rankwright._files.BLOCK", 16)
    path = tmp_path / "log"
    path.write_bytes(b'{"i": 0}\n' + b"x" * 100)
    storage.append_line(path, 1)
    assert storage.read_lines(path) == [{"i": 0}, 1]
    path.write_bytes(b"x" * 100)
    storage.append_line(path, 1)
    assert storage.read_lines(path) == [1]


def test_a_damaged_line_before_the_last_is_an_error_with_its_number(tmp_path):
    (tmp_path / "log").write_bytes(b'{"i": 0}\n{"i"\n{"i": 2}\n')
    with pytest.raises(ArtefactError, match=r"log:2: line is not JSON"):
        storage.read_lines(tmp_path / "log")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_json_that_cannot_be_read_is_a_typed_error(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ArtefactError, match="not valid JSON"):
        storage.read_json(tmp_path / "x.json")
    with pytest.raises(ArtefactError, match="file is missing"):
        storage.read_json(tmp_path / "y.json")
    with pytest.raises(ArtefactError, match="cannot be read"):
        storage.read_json(tmp_path)


def test_json_round_trip_and_no_nan(tmp_path):
    storage.write_json(tmp_path / "x.json", {"é": [1, None, 1e-9]})
    assert storage.read_json(tmp_path / "x.json") == {"é": [1, None, 1e-9]}
    with pytest.raises(ValueError):
        storage.write_json(tmp_path / "x.json", float("nan"))
    assert storage.read_json(tmp_path / "x.json") == {"é": [1, None, 1e-9]}


def test_space_is_asked_for_before_the_work(tmp_path):
    storage.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(ResourceError, match=r"needs about .* MB, .* MB are free"):
        storage.require_space(tmp_path / "not" / "yet", 1 << 60)


@pytest.mark.parametrize("where", [".", "", "folder", "file/below", "file/far/below"])
def test_a_file_where_none_can_be_is_refused_in_words(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"is a f(older|ile), a f(ile|older) is") as caught:
        storage.write_text(where, "x")
    assert caught.value.fix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_no_tensors_make_no_file(tmp_path):
    with pytest.raises(UsageError, match="no tensors"):
        storage.write_tensors(tmp_path / "model.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_who_waited_for_a_removed_lock_does_not_hold_it(tmp_path):
    """Many processes add 1 under the lock, whose file comes and goes: no two are within at once."""
    path, count = tmp_path / "l", tmp_path / "count"
    count.write_text("0")
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            code = 1
            try:
                for _ in range(50):
                    with storage.lock(path, patience=60):
                        number = int(count.read_text())
                        time.sleep(0.0005)
                        count.write_text(str(number + 1))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert count.read_text() == "200"
    assert not path.exists()


def test_the_records_of_a_damaged_log_that_can_be_read_are(tmp_path):
    (tmp_path / "log").write_bytes(
        b'{"step": 1, "loss": 2.0}\n{"step": 2\n[1]\n{"step": "3", "loss": 1}\n\xff\n7\n{"torn'
    )
    assert storage.readable_lines(tmp_path / "log", ["step", "loss"]) == ([{"step": 1, "loss": 2.0}], 5)
    assert storage.readable_lines(tmp_path / "absent", ["step"]) == ([], 0)
