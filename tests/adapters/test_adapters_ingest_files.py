from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.adapters.ingest_files import FileIngestLog
from flyball.errors import ConflictError
from flyball.features.raw import MARK


def rows(*values: int) -> list[dict[str, object]]:
    return [{"v": v} for v in values]


def read(log: FileIngestLog, source: str = "a", after: int = 0) -> list[tuple[int, int]]:
    table = log.read(source, after=after)
    return list(zip(table["__sequence"].to_pylist(), table["v"].to_pylist(), strict=True)) if table.num_rows else []


def test_sequences_are_contiguous_over_sources_and_restarts(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log")
    assert log.append("a", rows(1, 2), arrival=5) == 1
    assert log.append_many([("b", rows(9), 6), ("a", rows(3), 7)]) == [3, 4]
    log.close()
    again = FileIngestLog(tmp_path / "log")
    assert again.last() == 4
    assert again.append("a", rows(4), arrival=8) == 5
    assert read(again) == [(1, 1), (2, 2), (4, 3), (5, 4)]
    assert read(again, after=2) == [(4, 3), (5, 4)]
    assert again.read("a")["__arrival"].to_pylist() == [5, 5, 7, 8]
    assert again.read("none").num_rows == 0


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer, reader = FileIngestLog(tmp_path / "log", rotate_bytes=200), FileIngestLog(tmp_path / "log")
    for i in range(50):
        writer.append("a", rows(i), arrival=i)
        if i % 7 == 0:
            assert read(reader)[-1] == (i + 1, i)
        if i % 11 == 0:
            writer.compact()
    assert read(reader) == [(i + 1, i) for i in range(50)]


def test_a_second_writer_is_refused_and_reading_is_not(tmp_path: Path) -> None:
    first, second = FileIngestLog(tmp_path / "log"), FileIngestLog(tmp_path / "log")
    first.append("a", rows(1), arrival=0)
    with pytest.raises(ConflictError, match="already has a writer"):
        second.append("a", rows(2), arrival=0)
    assert read(second) == [(1, 1)]
    first.close()
    assert second.append("a", rows(2), arrival=0) == 2


def test_a_torn_tail_is_left_out_counted_and_written_after(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log")
    log.append("a", rows(1), arrival=0)
    log.append("a", rows(2), arrival=0)
    log.close()
    segment = next((tmp_path / "log").glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - 3)
    again = FileIngestLog(tmp_path / "log")
    assert again.append("a", rows(7), arrival=0) == 2
    assert again.torn > 0
    assert read(again) == [(1, 1), (2, 7)]
    again.compact()
    assert read(FileIngestLog(tmp_path / "log")) == [(1, 1), (2, 7)]


@pytest.mark.parametrize("moment", ["making", "both"])
def test_a_compaction_killed_half_way_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "log"
    log = FileIngestLog(folder)
    log.append("a", rows(1, 2, 3), arrival=0)
    log.close()
    segment = next(folder.glob("*.seg"))
    data = segment.read_bytes()
    if moment == "making":
        segment.with_suffix(".making").mkdir()
        (segment.with_suffix(".making") / "0.parquet").write_bytes(b"half")
    else:
        other = FileIngestLog(folder)
        other.compact()
        other.close()
        segment.write_bytes(data)
    assert [v for _, v in read(FileIngestLog(folder))] == [1, 2, 3]
    again = FileIngestLog(folder)
    assert again.append("a", rows(4), arrival=1) == 4
    again.compact()
    assert [v for _, v in read(FileIngestLog(folder))] == [1, 2, 3, 4]
    assert not list(folder.glob("*.making"))


def test_values_of_mixed_types_are_kept_as_text(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log")
    log.append("a", [{"v": 1}, {"v": "x"}, {"w": True}], arrival=0)
    log.append("a", [{"v": 2.5}], arrival=0)
    table = log.read("a")
    assert table["v"].to_pylist() == [f"{MARK}1", "x", None, f"{MARK}2.5"]
    assert table["w"].to_pylist() == [None, None, True, None]


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flyball.adapters.ingest_files import FileIngestLog\n"
        "log = FileIngestLog(Path(sys.argv[1]), rotate_bytes=2000)\n"
        "while True:\n"
        "    print(log.append('a', [{'v': 1}] * 3, arrival=0), flush=True)\n"
        "    log.compact()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = 0
    with child:
        while acknowledged < 100:
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest = [line for line in child.stdout.read().splitlines() if line]
    acknowledged = int(rest[-1]) if rest else acknowledged
    sequence = [s for s, _ in read(FileIngestLog(tmp_path / "log"))]
    assert sequence == list(range(1, len(sequence) + 1))
    assert len(sequence) >= acknowledged + 2
