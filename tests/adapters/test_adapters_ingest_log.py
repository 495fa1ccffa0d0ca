"""The ingest log under trouble: full disks, failed syncs, several processes, erasure, length."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flyball.adapters.ingest_files import FileIngestLog, Rewritten
from flyball.errors import ConflictError, Unavailable
from flyball.records.types import DeadLetter, Published


def fill(log: FileIngestLog, begin: int, end: int, source: str = "a") -> None:
    for k in range(begin, end):
        log.append(source, [{"v": 10 * k + i, "user": i} for i in range(10)], arrival=k)


def values(log: FileIngestLog, source: str = "a") -> list[int]:
    table = log.read(source)
    return list(table["v"].to_pylist()) if table.num_rows else []


def test_batches_give_what_reading_gives_from_any_sequence(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log", rotate_bytes=700)
    fill(log, 0, 30)
    log.append("b", [{"v": 1}], arrival=0)
    log.compact()
    fill(log, 30, 40)
    reader = FileIngestLog(tmp_path / "log")
    whole = reader.read("a")
    assert whole["v"].to_pylist() == list(range(400))
    for after in (0, 1, 9, 10, 11, 155, 301, 399, 401, 500):
        pieces = list(reader.read_batches("a", after=after, rows=7))
        found = [v for piece in pieces for v in piece["__sequence"].to_pylist()]
        assert found == [s for s in whole["__sequence"].to_pylist() if s > after]
        assert all(piece.num_rows for piece in pieces)
    assert (reader.count("a"), reader.count("b"), reader.sources()) == (400, 1, ["a", "b"])


def test_a_long_log_is_followed_without_holding_it(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log", rotate_bytes=200_000)
    for k in range(40):
        log.append("a", [{"v": k * 1000 + i, "text": "x" * 50} for i in range(1000)], arrival=k)
    log.close()
    log.compact()
    log.close()
    reader = FileIngestLog(tmp_path / "log")
    reader.sources()
    held = pa.total_allocated_bytes()
    tracemalloc.start()
    most = rows = 0
    for piece in reader.read_batches("a", rows=500):
        rows += piece.num_rows
        most = max(most, pa.total_allocated_bytes() - held)
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 40_000
    assert most + python < 1_500_000 < 40_000 * 66


def test_a_full_disk_is_told_keeps_what_was_acknowledged_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileIngestLog(tmp_path / "log")
    fill(log, 0, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        segment = next((tmp_path / "log").glob("*.seg"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, hard))
        with pytest.raises(Unavailable, match="took nothing of this.*acknowledged is safe; make room"):
            fill(log, 3, 4)
        assert values(log) == list(range(30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    fill(log, 3, 5)
    log.close()
    assert values(FileIngestLog(tmp_path / "log")) == list(range(50))
    assert FileIngestLog(tmp_path / "log").last() == 50


def test_after_a_failed_sync_the_log_goes_on_in_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileIngestLog(tmp_path / "log")
    fill(log, 0, 1)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("flyball.records.segment.os.fdatasync", broken)
        with pytest.raises(Unavailable, match="could not be brought to the disk"):
            log.append_many([("a", [{"v": 99}], 1, (("s", "0", "7"),))])
    assert log.positions("s") == {"0": "7"}  # the frame may be there: a consumer must not bring it again
    fill(log, 2, 3)
    assert len(list((tmp_path / "log").glob("*.seg"))) == 2
    assert values(log) == [*range(10), 99, *range(20, 30)]
    assert log.read("a")["__sequence"].to_pylist() == list(range(1, 22))


def test_of_two_processes_one_writes_and_the_other_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flyball.adapters.ingest_files import FileIngestLog\n"
        "log = FileIngestLog(Path(sys.argv[1])); log.append('a', [{'v': 1}], arrival=0); print('here', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        mine = FileIngestLog(tmp_path / "log")
        with pytest.raises(ConflictError, match="already has a writer"):
            mine.append("a", [{"v": 2}], arrival=0)
        assert values(mine) == [1]
        child.kill()
    assert mine.append("a", [{"v": 2}], arrival=0) == 2


def drop_user(user: int) -> Any:
    return lambda table: pc.equal(table.column("user"), user)


def test_rewriting_removes_a_subject_everywhere_and_keeps_sequences(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log", rotate_bytes=700)
    fill(log, 0, 20)
    log.append("b", [{"user": 3}], arrival=0)
    log.compact()
    fill(log, 20, 25)
    letter = DeadLetter("a", "a", "0", "1", 5, b'{"user": 3', "no JSON")
    log.append_many([("a", [], 0, (("a", "0", "1"),))], dead=[letter])
    reader = FileIngestLog(tmp_path / "log")
    before = reader.revision("a")
    assert len(values(reader)) == 250
    done = log.rewrite(
        "a", drop_user(3), dead=lambda t: pa.array([b'"user": 3' in p for p in t["payload"].to_pylist()])
    )
    assert (done.rows, done.dead) == (25, 1)
    for each in (log, reader, FileIngestLog(tmp_path / "log")):
        table = each.read("a")
        assert 3 not in table["user"].to_pylist()
        assert table["__sequence"].to_pylist() == [k for k in range(1, 261) if k % 10 != 4 and k != 201 and k < 201] + [
            k for k in range(202, 252) if (k - 1) % 10 != 4
        ]
        assert each.dead_count() == each.dead("a").num_rows == 0
    assert reader.revision("a") > before
    assert reader.read("b").num_rows == 1
    assert b'"user": 3' not in b"".join(p.read_bytes() for p in (tmp_path / "log").rglob("*") if p.is_file())
    assert log.rewrite("a", drop_user(3)) == Rewritten(0, 0, done.files)
    assert log.append("a", [{"v": 1, "user": 1}], arrival=9) == 252
    assert log.positions("a") == {"0": "1"}


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_rewrite_that_is_killed_loses_nothing_else_and_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    log = FileIngestLog(tmp_path / "log", rotate_bytes=700)
    fill(log, 0, 12)
    calls = [0]

    def killed_at(real: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def move(path: Path, target: Path) -> Path:
            calls[0] += 1
            if calls[0] == fails_at:
                raise KeyboardInterrupt
            return real(path, target)

        return move

    with monkeypatch.context() as patched:
        for name in ("rename", "replace"):
            patched.setattr(Path, name, killed_at(getattr(Path, name)))
        with pytest.raises(KeyboardInterrupt):
            log.rewrite("a", drop_user(3))
    log.close()
    again = FileIngestLog(tmp_path / "log")
    others = [v for v in range(120) if v % 10 != 3]
    assert [v for v in values(again) if v % 10 != 3] == others
    again.rewrite("a", drop_user(3))
    assert values(again) == others
    assert again.last() == 120
    again.close()


def test_corrections_survive_compaction_and_move_only_their_rows(tmp_path: Path) -> None:
    log = FileIngestLog(tmp_path / "log", rotate_bytes=300)
    fill(log, 0, 6)
    log.publish([Published("a", 5, 14, 1000), Published("b", 1, 60, 5000), Published("a", 12, 13, 7)])
    expected = [1000 if 5 <= s <= 14 else (s - 1) // 10 for s in range(1, 61)]
    assert log.read("a")["__arrival"].to_pylist() == expected
    log.close()
    log.compact()
    log.close()
    again = FileIngestLog(tmp_path / "log")
    assert again.read("a")["__arrival"].to_pylist() == expected
    assert [s for t in again.read_batches("a", rows=3) for s in t["__arrival"].to_pylist()] == expected
    assert again.revision("a") == 2


def test_threads_that_follow_one_log_neither_miss_nor_double_rows(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    writer, reader = FileIngestLog(tmp_path / "log"), FileIngestLog(tmp_path / "log")
    together = Barrier(4)

    def look(turn: int) -> int:
        together.wait()
        return reader.rows("a") if turn % 2 else len(values(reader))

    with ThreadPoolExecutor(4) as pool:
        for k in range(40):
            fill(writer, k, k + 1)
            assert list(pool.map(look, range(4))) == [10 * (k + 1)] * 4
    assert values(reader) == list(range(400))
