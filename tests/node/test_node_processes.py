import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from flyball.adapters.local.children import StageChild, run_stages, spawn
from flyball.adapters.local.process import child_environment
from flyball.adapters.local.running import Running, bind, lock, read_running, wait_ready
from flyball.disk import write_atomically
from flyball.errors import DeadlineExceeded, Refused, StageFailed, Unavailable
from flyball.layout import Layout
from flyball.node.child import Child

BEATING = """
import os, sys, time
from flyball.adapters.local.process import die_with_parent, READY
die_with_parent("t")
fd = int(os.environ[READY])
os.write(fd, b"R")
print("hello", flush=True)
while True:
    if "--silent" not in sys.argv: os.write(fd, b"B")
    time.sleep(0.02)
"""


def until(claim, seconds=15.0):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "the claim did not come true in time"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def layout(tmp_path):
    state = tmp_path / ".flyball"
    state.mkdir()
    return Layout(tmp_path, state)


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "beating.py").write_text(BEATING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "beating"


def keep(child: Child, claim) -> None:
    def turn() -> bool:
        child.step(time.monotonic())
        return claim()

    until(turn)


def test_a_killed_child_is_started_again_at_once(layout, script):
    child = Child("t", script, [], logs=layout.state)
    try:
        keep(child, lambda: child.ready)
        first = child.pid
        os.kill(first, signal.SIGKILL)
        started = time.monotonic()
        keep(child, lambda: child.pid not in {0, first})
        assert time.monotonic() - started < 1.0
        assert child.restarts == 1
        keep(child, lambda: child.ready)
        assert (layout.state / "t.log").read_text().count("hello") == 2
    finally:
        child.kill()
        child.close()


def test_a_child_that_keeps_dying_young_waits_longer_each_time(layout):
    child = Child("t", "no_such_module_at_all", [], logs=layout.state)
    starts = []

    def turn() -> bool:
        if child.pid and (not starts or starts[-1][1] != child.pid):
            starts.append((time.monotonic(), child.pid))
        return len(starts) == 5

    keep(child, turn)
    child.kill()
    child.close()
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(starts)]
    assert gaps[-1] > gaps[1]
    assert gaps[-1] >= 0.4


def test_a_child_that_falls_silent_counts_as_hung(layout, script):
    child = Child("t", script, ["--silent"], logs=layout.state, silence=0.2)
    try:
        keep(child, lambda: child.ready)
        first = child.pid
        keep(child, lambda: child.restarts == 1)
        assert not alive(first)
    finally:
        child.kill()
        child.close()


def test_children_die_with_a_killed_parent(layout, script, tmp_path):
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom flyball.node.child import Child\n"
        f"child = Child('t', 'beating', [], logs=Path({str(layout.state)!r}))\n"
        "while not child.ready: child.step(time.monotonic()); time.sleep(0.01)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert alive(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not alive(pid))


def test_a_second_node_is_told_that_one_runs(layout):
    held = lock(layout)
    write_atomically(layout.state / "run.json", b"")
    with pytest.raises(Refused, match=f"runs already .pid {os.getpid()}"):
        lock(layout)
    os.close(held)
    os.close(lock(layout))


def test_a_run_file_of_a_dead_node_counts_as_none(layout):
    import msgspec

    running = Running(1, "127.0.0.1", 2, "127.0.0.1", 3, 4.0)
    write_atomically(layout.state / "run.json", msgspec.json.encode(running))
    assert read_running(layout) is None
    held = lock(layout)
    assert read_running(layout) == running
    os.close(held)


def test_looking_whether_a_node_runs_never_stops_one_from_starting(layout):
    ending = threading.Event()
    write_atomically(
        layout.state / "run.json", b'{"pid":1,"host":"h","port":2,"control_host":"h","control_port":3,"started":4}'
    )

    def look():
        while not ending.is_set():
            read_running(layout)

    os.close(lock(layout))
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        os.close(lock(layout))
    ending.set()
    for thread in threads:
        thread.join()


def test_waiting_for_a_node_that_does_not_come_ends(layout):
    with pytest.raises(DeadlineExceeded, match="not ready"):
        wait_ready(layout, 0.05)


def test_a_port_in_use_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Unavailable, match=f"cannot listen on 127.0.0.1:{port} .address already in use.*server.port"
        ):
            bind("127.0.0.1", port, setting="server.port", patience=0.1)


def stage(layout, code: str, seconds: float = 20.0) -> StageChild:
    log = layout.state / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=output, stderr=output, start_new_session=True, env=child_environment()
        )
    return StageChild("r1", log, process, time.monotonic() + seconds)


def test_a_failed_stage_child_says_its_own_sentence(layout):
    child = stage(layout, "import sys; print('flyball: run r1 failed in train: no rows'); sys.exit(3)")
    with pytest.raises(StageFailed, match="run r1 failed in train: no rows"):
        run_stages(child)


def test_a_stage_child_over_its_time_is_ended(layout):
    child = stage(layout, "import time; time.sleep(60)", seconds=0.1)
    with pytest.raises(StageFailed, match="time limit"):
        run_stages(child)
    assert not alive(child.pid)


def test_a_killed_stage_child_says_how_to_resume(layout):
    child = stage(layout, "import time; time.sleep(60)")
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(StageFailed, match="SIGKILL; resume it with: flyball run --run r1"):
        run_stages(child)


def test_a_stage_child_outlives_the_thread_that_asked_for_it(layout, tmp_path):
    found: list[StageChild] = []
    asking = threading.Thread(
        target=lambda: found.append(
            spawn(tmp_path / "nowhere", "r1", layout.state / "run.log", timeout=timedelta(seconds=20))
        )
    )
    asking.start()
    asking.join()
    assert found[0].wait() in {1, 2, 3}, found[0].log.read_text()  # its own error, not SIGKILL
