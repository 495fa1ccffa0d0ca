from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.records.log import follow, read_range
from flyball.records.segment import SegmentWriter, read_frames, torn_bytes
from flyball.records.types import Event, Outcome, decode, encode


def written(folder: Path, payloads: list[bytes]) -> Path:
    writer = SegmentWriter(folder)
    for payload in payloads:
        writer.append(payload)
    writer.close()
    return next(folder.glob("*.seg"))


@given(payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=6), cut=st.integers(0, 400))
def test_cutting_anywhere_leaves_whole_frames(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int
) -> None:
    path = written(tmp_path_factory.mktemp("s"), payloads)
    size = path.stat().st_size
    os.truncate(path, min(cut, size))
    found = [f.payload for f in read_frames(path)]
    assert found == payloads[: len(found)]
    assert torn_bytes(path) == min(cut, size) - sum(12 + len(p) for p in found)


def test_a_changed_byte_ends_the_reading(tmp_path: Path) -> None:
    path = written(tmp_path, [b"one", b"two", b"three"])
    data = bytearray(path.read_bytes())
    data[12 + 3 + 12] ^= 1
    path.write_bytes(data)
    assert [f.payload for f in read_frames(path)] == [b"one"]


def test_segments_rotate_by_size_and_keep_the_order(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, rotate_bytes=50)
    for i in range(20):
        writer.append(b"%02d" % i * 10)
    writer.close()
    paths = sorted(tmp_path.glob("*.seg"))
    assert len(paths) > 3
    assert [f.payload[:2] for p in paths for f in read_frames(p)] == [b"%02d" % i for i in range(20)]


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = written(tmp_path, [b"one", b"two"])
    first = next(iter(read_frames(path)))
    assert [f.payload for f in read_frames(path, first.end)] == [b"two"]


def test_records_come_back_as_they_were() -> None:
    records = [Event("trips", 3, 9, [{"a": 1, "b": None}]), Outcome("x", 1.5, 1, 2)]
    assert decode(encode(list(records))) == records


def test_a_follower_sees_each_record_once_and_ranges_read_again(tmp_path: Path) -> None:
    writers = [SegmentWriter(tmp_path / name) for name in ("w0", "w1")]
    cursor: dict[str, int] = {}
    seen, batches = [], []
    for i in range(6):
        writers[i % 2].append(encode([Outcome(str(i), 0.0, 0, 0)]))
        if i % 3 == 2:
            got = follow(tmp_path, cursor)
            batches += got
            seen += [r.id for b in got for r in b.records if isinstance(r, Outcome)]
    assert sorted(seen) == ["0", "1", "2", "3", "4", "5"]
    assert follow(tmp_path, cursor) == []
    last = batches[-1]
    assert read_range(tmp_path, last.segment, last.start, last.end) == [last]
