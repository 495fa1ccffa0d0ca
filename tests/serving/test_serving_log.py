from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.errors import Unavailable
from flyball.records.log import follow
from flyball.records.types import Outcome
from flyball.serving.log.writer import LogWriter
from flyball.serving.shared.slots import SharedMap


def outcome(k: int) -> Outcome:
    return Outcome(f"p{k}", float(k), k, k)


def batches(folder: Path) -> list[list[str]]:
    return [[r.id for r in b.records] for b in follow(folder, {})]


def test_one_turn_is_one_frame_and_is_there_before_the_answer(tmp_path: Path) -> None:
    async def story():
        log = LogWriter(tmp_path / "w0")
        await asyncio.gather(*(log.put([outcome(k)]) for k in range(5)))
        seen = batches(tmp_path)
        await log.put([outcome(9)])
        log.close()
        return seen

    assert asyncio.run(story()) == [["p0", "p1", "p2", "p3", "p4"]]
    assert batches(tmp_path)[1:] == [["p9"]]


@pytest.mark.parametrize("mode", ["async", "durable", "sync"])
def test_every_mode_writes_everything(tmp_path: Path, mode: str) -> None:
    async def story():
        log = LogWriter(tmp_path / "w0", mode=mode, rotate_bytes=200)
        for k in range(30):
            waited = log.put([outcome(k)])
            assert (waited is None) == (mode == "async")
            if waited is not None:
                await waited
        log.close()

    asyncio.run(story())
    assert [i for b in batches(tmp_path) for i in b] == [f"p{k}" for k in range(30)]


def test_sync_waits_for_the_disk(tmp_path: Path) -> None:
    async def story():
        log = LogWriter(tmp_path / "w0", mode="sync")
        await log.put([outcome(1)])
        clean = not log._segments._dirty
        log.close()
        return clean

    assert asyncio.run(story())


def full(_: bytes) -> tuple[str, int]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_counted_or_refused(tmp_path: Path) -> None:
    async def story(policy: str):
        shared = SharedMap.in_memory()
        log = LogWriter(tmp_path / policy, full=policy, slot=shared.slot(0))
        log._segments.append = full
        turn = log.put([outcome(1), outcome(2)])
        try:
            await turn
        finally:
            lost.append(shared.slot(0).log_dropped)
            log.close()

    lost: list[int] = []
    asyncio.run(story("fail_open"))
    with pytest.raises(Unavailable, match="No space left"):
        asyncio.run(story("fail_closed"))
    assert lost == [2, 2]


def test_nothing_acknowledged_is_lost_after_kill_9(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from flyball.records.types import Outcome
from flyball.serving.log.writer import LogWriter
async def main():
    log = LogWriter(Path(sys.argv[1]) / "w0")
    k = 0
    while True:
        await log.put([Outcome(f"p{k}", 1.0, k, k)])
        print(k, flush=True)
        k += 1
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    acknowledged = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    last = int(rest[-1]) if rest else acknowledged[-1]
    written = [i for b in batches(tmp_path) for i in b]
    assert written[: last + 1] == [f"p{k}" for k in range(last + 1)]


def test_a_record_that_cannot_be_written_neither_hangs_nor_takes_its_neighbours_along(tmp_path: Path) -> None:
    async def story():
        shared = SharedMap.in_memory()
        log = LogWriter(tmp_path / "w0", slot=shared.slot(0))
        turns = [log.put([outcome(1)]), log.put([Outcome("poison", 1.0, 10**30, 0)]), log.put([outcome(2)])]
        written = await asyncio.wait_for(asyncio.gather(*turns), 5)
        log.close()
        return written, shared.slot(0).log_dropped

    assert asyncio.run(story()) == ([False] * 3, 1)
    assert batches(tmp_path) == [["p1", "p2"]]
