"""Shipping the prediction log: every record once, whatever is killed when; nothing unshipped is ever deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from flyball.adapters.local.segments import read_shipped, segments_of
from flyball.adapters.log_files import LogShipper, ShippedFiles, placed
from flyball.errors import IntegrityError, Refused
from flyball.records.columnar import records_of
from flyball.records.segment import SegmentWriter
from flyball.records.shipping import Part, Segment, Shipped, expired, file_name, over_budget, removable
from flyball.records.types import Outcome, Prediction, Shadow, encode

DAY = 86_400_000_000


def prediction(name: str, at: int, model: str = "eta") -> Prediction:
    return Prediction(name, model, "v1", "champion", 1, "u", at, {"x": 1.5}, [1.5], b"\0", 2.0)


def write(folder: Path, frames: list[list], *, rotate: int = 1) -> None:
    """Write each frame into a segment of its own, as a writer that rotates at once; the last one stays open."""
    writer = SegmentWriter(folder, rotate_bytes=rotate)
    for records in frames:
        writer.append(encode(records))
    writer.sync()


def all_ids(files: ShippedFiles, shipped: Shipped) -> list[str]:
    paths = [part.path for parts in shipped.segments.values() for part in parts]
    return sorted(p.record.id for path in paths for p in records_of(path.partition("/")[0], files.read(path)))


@pytest.fixture(params=["file", "memory"])
def files(request, tmp_path):
    return ShippedFiles(str(tmp_path / "out") if request.param == "file" else f"memory://{tmp_path.name}/out")


def test_closed_segments_are_shipped_by_kind_model_and_day(tmp_path, files):
    records = [prediction("a", DAY), prediction("b", 2 * DAY), prediction("c", DAY, "churn"),
               Shadow("a", "eta", "v2", 1, "u", DAY, 2.5), Outcome("a", 3.0, DAY, DAY + 5)]  # fmt: skip
    write(tmp_path / "log" / "w0", [records, [prediction("open", DAY)]])
    shipper = LogShipper(tmp_path / "log", files)
    assert shipper.ship() == 1
    stem = next(iter(shipper.shipped.segments)).removesuffix(".seg").replace("/", "-")
    assert sorted(p.path for parts in shipper.shipped.segments.values() for p in parts) == [
        f"outcomes/date=1970-01-02/{stem}.parquet",
        f"predictions/model=churn/date=1970-01-02/{stem}.parquet",
        f"predictions/model=eta/date=1970-01-02/{stem}.parquet",
        f"predictions/model=eta/date=1970-01-03/{stem}.parquet",
        f"shadows/model=eta/date=1970-01-02/{stem}.parquet",
    ]
    assert all_ids(files, shipper.shipped) == ["a", "a", "a", "b", "c"]
    shipper.close()


def test_shipping_again_ships_nothing_twice(tmp_path, files):
    write(tmp_path / "log" / "w0", [[prediction(f"p{k}", DAY + k)] for k in range(5)])
    for wanted in (4, 0):
        shipper = LogShipper(tmp_path / "log", files)
        assert shipper.ship() == wanted
        shipper.close()
    assert all_ids(files, read_shipped(tmp_path / "log")) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize("kill_at", range(7))
def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(tmp_path, monkeypatch, kill_at):
    write(tmp_path / "log" / "w0", [[prediction(f"p{k}", DAY * k), prediction(f"q{k}", DAY * 2)] for k in range(4)])
    files = ShippedFiles(str(tmp_path / "out"))
    steps = 0

    def step(call):
        def counted(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == kill_at + 1:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(ShippedFiles, "put", step(ShippedFiles.put))
        patch.setattr(LogShipper, "_keep", step(LogShipper._keep))
        shipper = LogShipper(tmp_path / "log", files)
        with pytest.raises(KeyboardInterrupt):
            shipper.ship()
        shipper.close()
    shipper = LogShipper(tmp_path / "log", files)
    shipper.ship()
    wanted = sorted(f"{name}{k}" for k in range(3) for name in "pq")
    assert all_ids(files, shipper.shipped) == wanted
    on_disk = sorted(
        p.record.id
        for f in (tmp_path / "out").rglob("*.parquet")
        for p in records_of("predictions", files.read(f.relative_to(tmp_path / "out").as_posix()))
    )
    assert on_disk == wanted
    shipper.close()


def test_a_second_shipper_is_told(tmp_path, files):
    first = LogShipper(tmp_path / "log", files)
    with pytest.raises(Refused, match="another process ships"):
        LogShipper(tmp_path / "log", files)
    first.close()
    LogShipper(tmp_path / "log", files).close()


def test_the_segment_of_a_killed_writer_is_shipped_and_its_torn_tail_counted(tmp_path, files):
    code = (
        "import os, sys; from pathlib import Path; from flyball.records.segment import SegmentWriter;"
        "from flyball.records.types import Outcome, encode; w = SegmentWriter(Path(sys.argv[1]));"
        "w.append(encode([Outcome('a', 1.0, 2, 3)])); os.write(w._fd, b'torn!'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "log" / "w0")], check=False)
    shipper = LogShipper(tmp_path / "log", files)
    assert shipper.ship() == 1
    assert list(shipper.shipped.torn.values()) == [5]
    assert all_ids(files, shipper.shipped) == ["a"]
    shipper.close()


def test_erasing_reaches_the_parquet_files(tmp_path, files):
    write(tmp_path / "log" / "w0", [[prediction("a", DAY), prediction("b", DAY)], [prediction("c", DAY)], []])
    shipper = LogShipper(tmp_path / "log", files)
    shipper.ship()
    assert shipper.rewrite(lambda record: record.id in {"a", "c"}) == 2
    assert all_ids(files, shipper.shipped) == ["b"]
    shipper.close()
    assert all_ids(files, read_shipped(tmp_path / "log")) == ["b"]


def test_a_damaged_journal_is_told_not_guessed(tmp_path):
    (tmp_path / "shipped.json").write_bytes(b"{")
    with pytest.raises(IntegrityError, match="move it away"):
        read_shipped(tmp_path)


def test_the_open_segment_of_a_living_writer_is_not_closed(tmp_path):
    write(tmp_path / "w0", [[prediction("a", 1)], [prediction("b", 2)]])
    (tmp_path / "w1").mkdir()
    (tmp_path / "w1" / f"00000000000000000001-{os.getpid()}.seg").write_bytes(b"")
    assert [(s.name[:2], s.closed) for s in segments_of(tmp_path)] == [("w0", True), ("w0", False), ("w1", False)]


def test_the_places_of_records_are_those_of_the_segment(tmp_path):
    write(tmp_path / "w0", [[prediction("a", 1), prediction("b", 2)]], rotate=1 << 20)
    name = segments_of(tmp_path)[0].name
    assert [(p.frame, p.place, p.record.id) for p in placed(tmp_path, name)] == [(0, 0, "a"), (0, 1, "b")]


def segment(name: str, written: int, *, size: int = 10, closed: bool = True) -> Segment:
    return Segment(name, size, written, closed)


def test_only_what_was_shipped_and_nobody_needs_may_go():
    there = [
        segment("w0/1.seg", 1),
        segment("w0/2.seg", 2),
        segment("w0/3.seg", 3),
        segment("w0/4.seg", 4, closed=False),
    ]
    shipped = Shipped({"w0/1.seg": (), "w0/3.seg": (), "w0/4.seg": ()})
    gone = removable(there, shipped, now=100, keep=timedelta(microseconds=10), needed=50)
    assert [s.name for s in gone] == ["w0/1.seg", "w0/3.seg"]
    assert removable(there, shipped, now=100, keep=timedelta(microseconds=10), needed=2) == [there[0]]
    assert removable(there, shipped, now=100, keep=timedelta(microseconds=98), needed=50) == [there[0]]


def test_a_budget_takes_shipped_segments_first_then_the_oldest_files_and_says_what_is_left():
    there = [segment("w0/1.seg", 1), segment("w0/2.seg", 2), segment("w0/3.seg", 90)]
    shipped = Shipped(
        {"w0/1.seg": (Part("predictions/model=a/x", 1, 4, 1),), "w0/3.seg": (Part("p/model=a/y", 1, 4, 90),)}
    )
    gone, files, left = over_budget(there, shipped, budget=5, needed=50, local_parts=True)
    assert ([s.name for s in gone], [p.path for p in files], left) == (["w0/1.seg"], ["predictions/model=a/x"], 19)
    assert over_budget(there, shipped, budget=0, needed=50, local_parts=True) == ([], [], 0)
    assert over_budget(there, shipped, budget=38, needed=50, local_parts=True) == ([], [], 0)


def test_retention_is_by_model_and_outcomes_follow_the_longest():
    parts = [
        Part(p, 1, 1, 100)
        for p in ("predictions/model=a/d/x", "shadows/model=a/d/x", "predictions/model=b/d/x", "outcomes/d/x")
    ]
    shipped = Shipped({"s": tuple(parts)})
    short, long = timedelta(microseconds=10), timedelta(microseconds=1000)
    assert [p.path for p in expired(shipped, {"a": short, "b": long}, now=200)] == [parts[0].path, parts[1].path]
    assert [p.path for p in expired(shipped, {"a": short, "b": long}, now=2000)] == [p.path for p in parts]
    assert [p.path for p in expired(shipped, {"a": short, "b": timedelta(0)}, now=2000)] == [p.path for p in parts[:2]]


@pytest.mark.parametrize("model", ["..", "a/b"])
def test_a_file_name_stays_below_its_folder(model):
    from flyball.errors import InputError

    with pytest.raises(InputError):
        file_name("predictions", model, "2026-01-01", "w0/1.seg")


def test_records_behind_a_damaged_frame_are_shipped_too(tmp_path, files):
    write(tmp_path / "log" / "w0", [[prediction(f"p{k}", DAY)] for k in range(3)], rotate=1 << 20)
    path = next((tmp_path / "log").glob("w0/*.seg"))
    data = bytearray(path.read_bytes())
    frame = len(data) // 3
    data[frame + 20] ^= 1
    path.write_bytes(data)
    path.rename(path.with_name("00000000000000000001-4194305.seg"))
    shipper = LogShipper(tmp_path / "log", files)
    assert shipper.ship() == 1
    assert (all_ids(files, shipper.shipped), list(shipper.shipped.torn.values())) == (["p0", "p2"], [frame])
    shipper.close()
