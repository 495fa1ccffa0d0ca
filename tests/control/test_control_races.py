"""Several writers at once: threads sharing a Database, and processes that each open their own."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from flyball.control import Database, connect
from flyball.errors import ConflictError, RevisionConflict
from flyball.rollout.routing import RoutingTable
from flyball.rollout.types import Phase, RolloutSpec, RolloutStatus, Step

NOW = datetime(2020, 3, 11, tzinfo=UTC)

COUNT_UP = """
import sys
from flyball.control import connect
from flyball.errors import RevisionConflict
from flyball.rollout.routing import RoutingTable
db, won = connect(sys.argv[1]), 0
while won < 20:
    at = db.routing.current().version
    try:
        db.routing.write(RoutingTable(at + 1, 0, int(sys.argv[2])), expected=at, fence=0)
        won += 1
    except RevisionConflict:
        pass
print(won)
"""

OPEN = """
import sys
from flyball.control import connect
sys.stdin.readline()
db = connect(sys.argv[1])
print(db.versions.reserve("eta", sys.argv[2]))
"""


def start(script: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *args]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def test_two_processes_never_write_the_same_routing_version(db: Database, url: str) -> None:
    writers = [start(COUNT_UP, url, str(who)) for who in (1, 2)]
    assert [finish(w) for w in writers] == ["20", "20"]
    tables = db.routing.history()
    assert [t.version for t in tables] == list(range(1, 41))
    assert sorted(t.written for t in tables) == [1] * 20 + [2] * 20


def test_processes_that_open_a_new_database_at_once_all_succeed(url: str) -> None:
    openers = [start(OPEN, url, f"run{n}") for n in range(4)]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("\n")
        opener.stdin.flush()
    assert sorted(finish(o) for o in openers) == ["v1", "v2", "v3", "v4"]


def test_of_many_threads_one_wins_each_revision(db: Database) -> None:
    db.rollouts.create(
        RolloutSpec(steps=(Step(0.5),), bake=timedelta(0)), RolloutStatus("r", "eta", "v2", "v1", Phase.PENDING, 0, NOW)
    )

    def bump(_: int) -> int:
        _, status = db.rollouts.get("r")
        try:
            return db.rollouts.save(status, expected=status.revision, fence=None).revision
        except RevisionConflict:
            return 0

    with ThreadPoolExecutor(8) as pool:
        won = [revision for revision in pool.map(bump, range(80)) if revision]
    assert sorted(won) == list(range(1, len(won) + 1))
    assert db.rollouts.get("r")[1].revision == len(won)


def test_of_many_threads_one_starts_a_rollout(db: Database) -> None:
    spec = RolloutSpec(steps=(Step(0.5),), bake=timedelta(0))

    def begin(n: int) -> int:
        try:
            db.rollouts.create(spec, RolloutStatus(f"r{n}", "eta", "v2", "v1", Phase.PENDING, 0, NOW))
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(16))) == 1


def test_of_many_threads_one_holds_the_lease(db: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda n: db.leases.acquire("control", f"o{n}", timedelta(minutes=1)), range(16)))
    assert sum(lease is not None for lease in held) == 1


def test_threads_reserve_distinct_names(db: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda n: db.versions.reserve("eta", f"run{n % 10}"), range(40)))
    assert sorted(set(names), key=lambda v: int(v[1:])) == [f"v{n}" for n in range(1, 11)]


def test_a_reader_sees_the_last_commit_while_another_writes(db: Database, url: str) -> None:
    if "postgres" in url:
        pytest.skip("the point is SQLite's WAL")
    with connect(url) as other, db._gate.write():
        assert other.routing.current() == RoutingTable(0, 0, 0)
