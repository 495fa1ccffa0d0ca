"""What the supervisor does for one child beyond starting it: its whole group ends with it, its log stays bounded."""

import os
import time

from flyball.node.child import Child

FORKS = """
import os, sys, time
if os.fork() == 0:
    time.sleep(600)
os._exit(3)
"""
SHOUTS = """
import sys, time
for _ in range(40):
    sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
time.sleep(0.3)
print("the last word", flush=True)
time.sleep(600)
"""


def child(tmp_path, code):
    (tmp_path / "script.py").write_text(code)
    made = Child("c", "script", [], logs=tmp_path)
    made._command[1:] = [str(tmp_path / "script.py")]
    return made


def until(claim, seconds=20.0):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.005)


def members(group):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in {"Z", "X"}:
            found.append(int(name))
    return found


def test_what_a_child_forked_off_ends_with_it(tmp_path):
    made = child(tmp_path, FORKS)
    made.step(time.monotonic())
    pid = made.pid
    until(lambda: (made.step(time.monotonic()), made.restarts)[1] >= 1)
    until(lambda: members(pid) == [])
    made.leave()
    made.kill()
    until(made.gone)
    made.close()


def test_a_log_is_cut_while_its_child_runs_and_keeps_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("flyball.node.child._LOOK", 0.0)
    made = child(tmp_path, SHOUTS)
    log = tmp_path / "c.log"
    kept = log, tmp_path / "c.log.1"  # what was written just before a cut stands in the second

    def said() -> bool:
        return any(file.exists() and b"the last word" in file.read_bytes()[-40:] for file in kept)

    until(lambda: (made.step(time.monotonic()), said())[1])
    for _ in range(3):
        made.step(time.monotonic())
    assert log.stat().st_size <= 17 << 20
    assert (tmp_path / "c.log.1").stat().st_size >= 1 << 20
    made.leave()
    made.kill()
    until(made.gone)
    made.close()
