from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.records.segment import HEADER, SegmentWriter, read_frames, torn_bytes


def write(folder: Path, payloads: list[bytes]) -> Path:
    writer = SegmentWriter(folder)
    for payload in payloads:
        writer.append(payload)
    path = writer.path
    writer.close()
    assert path is not None
    return path


def payloads(path: Path, start: int = 0) -> list[bytes]:
    return [frame.payload for frame in read_frames(path, start)]


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = write(tmp_path, [b"a", b"", b"ccc" * 1000])
    assert payloads(path) == [b"a", b"", b"ccc" * 1000]
    assert torn_bytes(path) == 0


def test_reading_goes_on_from_the_end_of_a_frame(tmp_path: Path) -> None:
    path = write(tmp_path, [b"a", b"bb", b"c"])
    first, second, _ = read_frames(path)
    assert (first.start, first.end) == (0, HEADER.size + 1)
    assert payloads(path, second.start) == [b"bb", b"c"]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_cutting_a_segment_anywhere_keeps_all_complete_frames(
    tmp_path_factory: pytest.TempPathFactory, written: list[bytes], data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("cut"), written)
    ends = [frame.end for frame in read_frames(path)]
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    complete = sum(end <= cut for end in ends)
    assert payloads(path) == written[:complete]
    assert torn_bytes(path) == cut - ([0, *ends][complete])


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_a_flipped_byte_ends_the_segment_before_its_frame(
    tmp_path_factory: pytest.TempPathFactory, written: list[bytes], data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("flip"), written)
    ends = [frame.end for frame in read_frames(path)]
    at = data.draw(st.integers(0, ends[-1] - 1))
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)
    assert payloads(path) == written[: sum(end <= at for end in ends)]


def test_segments_rotate_and_sort_in_the_order_of_writing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, rotate_bytes=30)
    names = [writer.append(b"x" * 20)[0] for _ in range(4)]
    writer.close()
    assert names == sorted(names)
    assert len(set(names)) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_append_tells_the_segment_and_the_end_of_the_frame(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path)
    name, end = writer.append(b"abc")
    _, later = writer.append(b"d")
    writer.sync()
    writer.close()
    assert [(f.start, f.end) for f in read_frames(tmp_path / name)] == [(0, end), (end, later)]


def test_a_full_disk_leaves_no_part_of_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path)
    writer.append(b"kept")
    real = os.write
    turns = iter([5])

    def full(fd: int, data: memoryview) -> int:
        for size in turns:
            return real(fd, data[:size])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flyball.records.segment.os.write", full)
        with pytest.raises(OSError, match="No space"):
            writer.append(b"x" * 30)
    writer.append(b"after")
    path = writer.path
    writer.close()
    assert path is not None
    assert payloads(path) == [b"kept", b"after"]


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from flyball.records.segment import SegmentWriter\n"
        "w = SegmentWriter(Path(sys.argv[1]))\n"
        "for n in range(1000): w.append(b'%d' % n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    (path,) = tmp_path.iterdir()
    assert payloads(path) == [b"%d" % n for n in range(1000)]
