"""A process that runs a model may end what it started, and nothing that was there before it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="no filter for this machine")
SCRIPT = """
import ctypes, json, os, signal, subprocess, sys
from flyball.adapters.local.confine import confine

libc = ctypes.CDLL(None, use_errno=True)


def tried(call):
    try:
        call()
    except PermissionError:
        return "refused"
    return "done"


def traced():
    if libc.ptrace(16, os.getppid(), 0, 0):
        raise PermissionError if ctypes.get_errno() == 1 else OSError(ctypes.get_errno())


def in_child(call):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if tried(call) == "done" else 7)
    return "done" if os.waitpid(pid, 0)[1] == 0 else "refused"


def ended():
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    os.killpg(helper.pid, signal.SIGTERM)
    assert helper.wait(20) == -signal.SIGTERM


parent = os.getppid()
older = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
assert confine()
print(json.dumps({
    "parent": tried(lambda: os.kill(parent, 0)),
    "first": tried(lambda: os.kill(1, 0)),
    "everybody": tried(lambda: os.kill(-1, 0)),
    "group of the parent": tried(lambda: os.killpg(os.getpgid(parent), 0)),
    "trace": tried(traced),
    "limits of the parent": tried(lambda: __import__("resource").prlimit(parent, 7)),
    "parent by a child": in_child(lambda: os.kill(parent, 0)),
    "older with a larger number": tried(lambda: os.kill(older.pid, 0)),
    "itself": tried(lambda: os.kill(os.getpid(), 0)),
    "own group": tried(lambda: os.kill(0, 0)),
    "own limits": tried(lambda: __import__("resource").prlimit(0, 7)),
    "a child by itself": in_child(lambda: os.kill(os.getpid(), 0)),
    "own helper": tried(ended),
}))
"""


def test_what_was_there_before_is_out_of_reach_and_own_helpers_are_not():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, start_new_session=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    mine = {"itself", "own group", "own limits", "a child by itself", "own helper"}
    assert found == {name: "done" if name in mine else "refused" for name in found}
