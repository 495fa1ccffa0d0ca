"""A disk that takes no more, for real: the kernel itself refuses, in the middle of a frame."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.records.log import follow

WRITER = """
import asyncio, json, resource, signal, sys
from pathlib import Path
from flyball.errors import Unavailable
from flyball.records.types import Outcome
from flyball.serving.log.writer import LogWriter
from flyball.serving.shared.slots import SharedMap

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

async def main():
    slot = SharedMap.in_memory().slot(0)
    log = LogWriter(Path(sys.argv[1]) / "w0", full=sys.argv[2], mode=sys.argv[3], slot=slot)
    kept, refused = [], 0
    async def put(k):
        nonlocal refused
        before = slot.log_dropped
        try:
            turn = log.put([Outcome(f"p{k}", 1.0, k, k, "x" * 100)])
            if turn is not None:
                await turn
        except Unavailable:
            refused += 1
            return
        await asyncio.sleep(0)
        if slot.log_dropped == before:
            kept.append(f"p{k}")
    limit(20_000)
    for k in range(300):
        await put(k)
    full = slot.log_dropped
    limit(hard)
    for k in range(300, 400):
        await put(k)
    log.close()
    print(json.dumps({"kept": kept, "refused": refused, "dropped_full": full, "dropped": slot.log_dropped}))

asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["async", "durable", "sync"])
@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
def test_a_full_disk_loses_only_what_was_counted_and_is_over_when_there_is_room(tmp_path: Path, policy: str, mode: str):
    command = [sys.executable, "-c", WRITER, str(tmp_path), policy, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    written = [r.id for b in follow(tmp_path, {}) for r in b.records]
    assert written == found["kept"]
    assert written[-100:] == [f"p{k}" for k in range(300, 400)]
    assert 0 < found["dropped_full"] == found["dropped"] == 400 - len(written)
    assert (found["refused"] > 0) == (policy == "fail_closed" and mode != "async")
