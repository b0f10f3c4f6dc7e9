"""ByteDataset: what SR-DPR wrote becomes a data set, every protocol reads, and a pickle that would act is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright.data import Dataset, Reading
from rankwright.data.dialects import convert, detect
from rankwright.data.dialects._bytedataset import read_bytedataset
from rankwright.errors import DataError

SAMPLES = [
    {"sample_id": 7, "questions": ["who eats?", "what eats?"],
     "positive_contexts": [{"title": "Bears", "text": "fish"}],
     "hardneg_contexts": [{"title": "", "text": "é" * 300}, {"title": "Bears", "text": "b"}]},
    {"sample_id": 70000, "questions": ["why?"], "positive_contexts": [{"title": "", "text": "c"}],
     "hardneg_contexts": []},
]  # fmt: skip


def place(folder: Path, pickles: list[bytes], *, announced: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    count = len(pickles) if announced is None else announced
    offsets = [sum(map(len, pickles[:i])) for i in range(len(pickles))]
    (folder / "data.pkl").write_bytes(b"".join(pickles))
    (folder / "idxs.pkl").write_bytes(count.to_bytes(4, "big") + b"".join(o.to_bytes(6, "big") for o in offsets))
    return folder


def read(folder: Path, reading: Reading | None = None) -> list[Any]:
    return [record for _, record in read_bytedataset(folder / "data.pkl", reading or Reading())]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_reads(tmp_path, protocol):
    odd = {"a": [1, -1, 2**70, 255, 65535, 1.5, None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "b": {}}
    records = [*SAMPLES, odd, {"text": "\n\\u0041\u00e9\U0001f600", "again": "text"}]
    assert read(place(tmp_path, [pickle.dumps(record, protocol) for record in records])) == records


def test_it_becomes_a_data_set(tmp_path):
    source = place(tmp_path / "bytes", [pickle.dumps(sample) for sample in SAMPLES])
    assert detect(source) == "dpr"
    counts = convert(source, tmp_path / "out").counts
    assert {k: counts[k] for k in ("documents", "queries", "judgements")} == {
        "documents": 4, "queries": 3, "judgements": 7,
    }  # fmt: skip
    dataset = Dataset.open(tmp_path / "out", cache=tmp_path / "cache")
    assert {query.text for query in dataset.queries} == {"who eats?", "what eats?", "why?"}


class Acts:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("lenient", [False, True])
def test_a_pickle_that_would_act_is_refused_and_does_nothing(tmp_path, protocol, lenient):
    folder = place(
        tmp_path / "in", [pickle.dumps(SAMPLES[1]), pickle.dumps({"text": [Acts(tmp_path / "made")]}, protocol)]
    )
    with pytest.raises(DataError, match=r"opcode (STACK_)?GLOBAL") as caught:
        read(folder, Reading(lenient=lenient))
    assert str(caught.value.where).endswith("data.pkl:2")
    with pytest.raises(DataError, match="GLOBAL"):
        convert(folder, tmp_path / "out", dialect="dpr", reading=Reading(lenient=lenient))
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nmkdir\n.", b"(ios\nmkdir\n.", b"(cos\nmkdir\no.", b"Pid\n.", b"\x82\x01.", b"}2.", b"}Q.",
        b"\x80\x04\x8f.", b"\x80\x05\x97.",
    ],
)  # fmt: skip
def test_opcodes_of_objects_are_refused(tmp_path, raw):
    with pytest.raises(DataError, match="opcode"):
        read(place(tmp_path, [raw]))


def test_lists_within_lists_of_themselves_are_refused(tmp_path):
    bomb: list[Any] = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(DataError, match="in two places"):
        read(place(tmp_path, [pickle.dumps({"questions": bomb})]))


def test_an_index_that_announces_more_than_it_holds_is_noted(tmp_path):
    reading = Reading()
    assert read(place(tmp_path, [pickle.dumps(s) for s in SAMPLES], announced=9), reading) == SAMPLES
    assert reading.notes.total() == 1


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["data.pkl", "idxs.pkl"]), st.integers(0, 10**6), st.integers(0, 6), st.binary(max_size=8),
    st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans(),
)  # fmt: skip
def test_damage_is_a_data_error(tmp_path, name, at, cut, piece, protocol, lenient):
    folder = place(tmp_path, [pickle.dumps(sample, protocol) for sample in SAMPLES])
    data = (folder / name).read_bytes()
    at %= len(data) + 1
    (folder / name).write_bytes(data[:at] + piece + (b"" if cut == 6 else data[at + cut :]))
    try:
        records = read(folder, Reading(lenient=lenient))
    except DataError:
        return
    assert all(isinstance(record, dict) for record in records)
