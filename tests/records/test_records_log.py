from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.records.log import Cursor, follow, read_range
from flyball.records.segment import SegmentWriter
from flyball.records.types import Event, Outcome, Prediction, Shadow, decode, encode

PREDICTION = Prediction(
    "p1", "eta", "v1", "champion", 7, "u", 1_583_884_800_000_000, {"zone": 74}, [1.0, 2.5], b"\x00\x01", 3.1
)
SHADOW = Shadow("p1", "eta", "v2", 7, "u", 1, None, "boom")
OUTCOME = Outcome("p1", 4.0, 2, 3)
EVENT = Event("trips", 1, 5, [{"zone": 74, "minutes": 3.5, "note": None}])


def test_records_of_all_kinds_come_back_as_they_were() -> None:
    records = [PREDICTION, SHADOW, OUTCOME, EVENT]
    assert decode(encode(records)) == records


def test_a_missing_value_stays_nan_in_the_log() -> None:
    (back,) = decode(encode([msgspec.structs.replace(PREDICTION, features=[math.nan, math.inf])]))
    assert isinstance(back, Prediction)
    assert math.isnan(back.features[0])
    assert back.features[1] == math.inf


def test_a_payload_that_is_no_list_of_records_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b"\x93zzz")


def test_a_reader_of_this_release_reads_shorter_records_of_an_older_one() -> None:
    old = msgspec.msgpack.encode([["o", "p1", 4.0, 2, 3]])
    assert decode(old) == [OUTCOME]


def append(root: Path, worker: str, names: list[str]) -> None:
    writer = SegmentWriter(root / worker)
    for name in names:
        writer.append(encode([Outcome(name, 0.0, 0, 0)]))
    writer.close()


def ids(root: Path, cursor: Cursor) -> list[str]:
    return [r.id for batch in follow(root, cursor) for r in batch.records if isinstance(r, Outcome)]


def test_following_gives_each_record_once(tmp_path: Path) -> None:
    cursor: Cursor = {}
    append(tmp_path, "w0", ["a", "b"])
    append(tmp_path, "w1", ["c"])
    assert ids(tmp_path, cursor) == ["a", "b", "c"]
    append(tmp_path, "w0", ["d"])
    assert ids(tmp_path, cursor) == ["d"]
    assert ids(tmp_path, cursor) == []
    assert ids(tmp_path, {}) == ["a", "b", "d", "c"]


def test_an_empty_or_absent_log_gives_nothing(tmp_path: Path) -> None:
    assert follow(tmp_path / "nowhere", {}) == []


def test_a_torn_tail_is_waited_for(tmp_path: Path) -> None:
    append(tmp_path, "w0", ["a", "b"])
    (path,) = tmp_path.glob("*/*.seg")
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 3)
    cursor: Cursor = {}
    assert ids(tmp_path, cursor) == ["a"]
    path.write_bytes(whole)
    assert ids(tmp_path, cursor) == ["b"]


def test_a_range_reads_the_same_frames_again(tmp_path: Path) -> None:
    append(tmp_path, "w0", ["a", "b", "c"])
    batches = follow(tmp_path, {})
    assert read_range(tmp_path, batches[0].segment, batches[1].start, batches[1].end) == [batches[1]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_however_often_one_looks_the_records_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    root = tmp_path_factory.mktemp("log")
    cursor: Cursor = {}
    seen: list[str] = []
    writer = SegmentWriter(root / "w0")
    for turn, size in enumerate(sizes):
        for n in range(size):
            writer.append(encode([Outcome(f"{turn}.{n}", 0.0, 0, 0)]))
        seen += ids(root, cursor)
    writer.close()
    assert seen == ids(root, {}) == [f"{turn}.{n}" for turn, size in enumerate(sizes) for n in range(size)]
