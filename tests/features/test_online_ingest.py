from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from online_world import DAY, HOUR, MINUTE, START, World, row, same, views, write_file

from flyball import units
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.errors import BadRequest, ConflictError, InputError, UnknownName
from flyball.features.ingest import Ingest, PushResult
from flyball.features.packing import Checkpoint, checkpoint_key, namespace


class Crash(Exception):
    pass


def trip(zone: int = 1, at: int = START, **values: Any) -> dict[str, Any]:
    return {"at": at, "made": at, "zone": zone, "v": 1.0, "n": 1, "word": "a", "flag": True} | values


def stored(world: World) -> dict[bytes, bytes | None]:
    keys = [k for v in world.views for k in world.store.keys(namespace(v.digest))]
    return dict(zip(keys, world.store.get_many(keys), strict=True))


def test_a_crash_between_log_and_store_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.open(tmp_path)
    world.ingest.push("trips", [trip()], START)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(LMDBStore, "write", crash)
        with pytest.raises(Crash):
            world.ingest.push("trips", [trip(), trip(2)], START + 1)
    assert world.online(START + 1)[0][0]["n_1h"] == 1
    world = world.reopened()
    assert [r["n_1h"] for r in world.online(START + 1)[0]] == [2, 1, 0, 0]
    world.check(START + 1)
    world.close()


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_crash_at_any_transaction_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setattr("flyball.features.attached._SLICE", 1)
    rng = random.Random(fails_at)
    world = World.open(tmp_path)
    real, calls = LMDBStore.write, [0]

    def write(store: LMDBStore, **given: Any) -> int:
        calls[0] += 1
        if calls[0] == fails_at:
            raise Crash
        return real(store, **given)

    monkeypatch.setattr(LMDBStore, "write", write)
    at = START
    for _ in range(8):
        at += 17 * MINUTE
        try:
            world.ingest.push("trips", [row(rng, at), trip(2, at)], at)
        except Crash:
            world = world.reopened()
        world.check(at)
    world.close()


def test_replaying_everything_again_changes_no_answer(tmp_path: Path) -> None:
    rng = random.Random(1)
    world = World.open(tmp_path)
    for k in range(6):
        world.ingest.push("trips", [row(rng, START + k * HOUR) for _ in range(8)], START + k * HOUR)
    times = [START + 5 * HOUR + later for later in (0, MINUTE, HOUR, DAY)]
    before = [world.online(at) for at in times]
    world.store.write(puts=[(checkpoint_key(v.digest), Checkpoint().to_bytes()) for v in world.views])
    world = world.reopened()
    for at, (rows, statuses) in zip(times, before, strict=True):
        again, status = world.online(at)
        assert status == statuses
        for a, b in zip(again, rows, strict=True):
            assert all(same(name, value, b[name], b) for name, value in a.items()), (a, b)
    world.close()


def test_an_ingest_killed_mid_stream_replays_to_the_same_state(tmp_path: Path) -> None:
    code = (
        "import random, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from online_world import World, row, START\n"
        "world, rng = World.open(Path(sys.argv[1]), rotate=4000), random.Random(4)\n"
        "for k in range(100_000):\n"
        "    at = START + k * 37_000_000\n"
        "    print(world.ingest.push('trips', [row(rng, at) for _ in range(3)], at).sequence, flush=True)\n"
        "    if k % 10 == 9: world.ingest.compact()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "killed"), str(Path(__file__).parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        acknowledged = 0
        while acknowledged < 90:
            acknowledged = int(child.stdout.readline())
        child.kill()
    killed = World.open(tmp_path / "killed")
    rows = killed.log.last()
    assert rows >= acknowledged + 2
    whole, rng = World.open(tmp_path / "whole"), random.Random(4)
    for k in range(rows // 3):
        at = START + k * 37_000_000
        whole.ingest.push("trips", [row(rng, at) for _ in range(3)], at)
    at = START + (rows // 3) * 37_000_000
    assert killed.online(at)[1] == whole.online(at)[1]
    killed.check(at)
    killed.close()
    whole.close()


def test_a_bad_push_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    write_file(tmp_path, [])
    world = World.open(tmp_path)
    good, bad = [trip()], [trip(), trip(zone="1")]
    results = world.ingest.push_many([("trips", good, START), ("trips", bad, START), ("nowhere", good, START), ("trips", good, START)])  # fmt: skip
    assert [type(r).__name__ for r in results] == ["PushResult", "InputError", "UnknownName", "PushResult"]
    assert results[3] == PushResult(1, 0, 2)
    assert world.log.last() == 2
    assert world.online(START)[0][0]["n_1h"] == 2
    world.close()


@pytest.mark.parametrize(
    ("rows", "says"),
    [([{"zone": 1}], "no column"), ([trip(at=None)], "event time"), ([trip(zone="1")], "zone"),
     ([trip(at="yesterday")], "timestamp"), (["x"], "object"), ([trip(__sequence=1)], "__sequence"), ("x", "list")],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_refused_before_the_log(tmp_path: Path, rows: Any, says: str) -> None:
    write_file(tmp_path, [])
    world = World.open(tmp_path)
    with pytest.raises(InputError, match=says):
        world.ingest.push("trips", rows, START)
    assert world.log.last() == 0
    world.close()


def test_rows_that_where_drops_are_counted(tmp_path: Path) -> None:
    world = World.open(tmp_path, where="v > 0")
    assert world.ingest.push("trips", [trip(), trip(v=-1.0), trip(v=0.5)], START) == PushResult(2, 1, 1)
    assert world.ingest.push("trips", [], START) == PushResult(0, 0, 4)
    assert world.online(START)[0][0]["n_1h"] == 2
    world.close()


def test_two_writers_are_refused(tmp_path: Path) -> None:
    world = World.open(tmp_path)
    with pytest.raises(ConflictError):
        Ingest(world.store, FileIngestLog(tmp_path / "log"), views(), clock=world.clock)
    world.close()


def test_a_view_attached_later_replays_the_log(tmp_path: Path) -> None:
    world = World.open(tmp_path)
    newest, windows = world.views
    world.ingest.detach(windows.digest, drop=True)
    world.ingest.push("trips", [trip(), trip()], START)
    assert world.online(START)[0][0]["n_1h"] == 0
    assert world.ingest.attach(windows) == 2
    assert world.ingest.attach(windows) == 0
    world.check(START)
    assert newest in world.ingest.views
    world.close()


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_materialization_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setattr("flyball.features.materialize._KEYS", 1)
    rng = random.Random(2)
    write_file(tmp_path, [trip(rng.randrange(1, 9), units.from_micros(START + k * HOUR).replace(tzinfo=None), v=rng.random(), made=None) for k in range(90)])  # fmt: skip
    world = World.open(tmp_path)
    first, until = units.from_micros(START + DAY), units.from_micros(START + 5 * DAY)
    for view in world.views:
        world.ingest.materialize(world.engine, view, until=first)

    def die(done: int, _: int) -> None:
        if done == 3:
            raise Crash

    for view in world.views:
        with pytest.raises(Crash):
            world.ingest.materialize(world.engine, view, until=until, full=full, progress=die)
    at = START + 5 * DAY
    world.ingest.push("trips", [trip(k, at) for k in range(1, 9)], at)
    world = world.reopened()
    for view in world.views:
        steps: list[tuple[int, int]] = []
        result = world.ingest.materialize(
            world.engine, view, until=until, full=full, progress=lambda *done, into=steps: into.append(done)
        )
        assert (result.resumed, result.keys) == (True, 5)
        assert steps[-1] == (5, 5)
    found, expected = world.online(at, tuple(range(1, 9))), world.batch(at, tuple(range(1, 9)))
    assert found[1] == expected[1]
    assert [r["n_24h"] for r in found[0]] == [r["n_24h"] for r in expected[0]]
    world.close()


def test_pushes_during_a_rebuild_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.features.materialize._KEYS", 1)
    write_file(tmp_path, [trip(z, units.from_micros(START).replace(tzinfo=None), made=None) for z in (1, 2, 3)])
    world = World.open(tmp_path)
    at = START + HOUR
    world.ingest.push("trips", [trip(z, at) for z in (1, 2, 3)], at)

    def push(done: int, _: int) -> None:
        world.ingest.push("trips", [trip(z, at + done) for z in (1, 2, 3, 4)], at + done)

    for view in world.views:
        world.ingest.materialize(world.engine, view, until=units.from_micros(at), full=True, progress=push)
    world.check(at + 3)
    world.close()


def test_an_entity_that_left_history_is_removed_by_a_full_run(tmp_path: Path) -> None:
    moment = units.from_micros(START).replace(tzinfo=None)
    write_file(tmp_path, [trip(1, moment, made=None), trip(2, moment, made=None)])
    world = World.open(tmp_path)
    until = units.from_micros(START + HOUR)
    for view in world.views:
        world.ingest.materialize(world.engine, view, until=until)
    write_file(tmp_path, [trip(2, moment, made=None)])
    for view in world.views:
        world.ingest.materialize(world.engine, view, until=until, full=True)
    world.check(START + HOUR)
    assert len(stored(world)) == 2
    world.close()


def test_wrong_keys_and_names_are_refused_at_lookup(tmp_path: Path) -> None:
    world = World.open(tmp_path)
    with pytest.raises(BadRequest, match="declared as an integer"):
        world.online(START, ("1",))  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="integer"):
        world.online(START, (True,))
    from flyball.features.lookup import lookup

    with pytest.raises(UnknownName, match="did you mean newest"):
        lookup(world.store, [{"zone": 1}], world.views, ["newes"], START)
    found = lookup(world.store, [{"zone": None}], world.views, ["windows:n_1h", "newest:n"], START)
    assert found.to_dicts() == [{"n_1h": 0, "n": -1}]
    assert found.matrix.tolist() == [[0.0, -1.0]]
    world.close()
