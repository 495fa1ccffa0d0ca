"""Event ids: a redelivery is accepted and changes nothing, also over restarts, kills and a lost index."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from online_world import DAY, START, views

from flyball.adapters.event_ids import EventIdIndex
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import ManualClock
from flyball.errors import InputError, Unavailable
from flyball.features.ingest import Ingest, PushResult
from flyball.features.lookup import lookup
from flyball.features.spec import ViewSpec
from flyball.units import from_micros


def specs() -> list[ViewSpec]:
    return [replace(v, source=replace(v.source, event_id="id")) for v in views()]


def trip(name: object, at: int = START, zone: int = 1) -> dict[str, Any]:
    return {"id": name, "at": at, "made": at, "zone": zone, "v": 1.0, "n": 1, "word": "a", "flag": True}


class World:
    def __init__(self, folder: Path, *, dedup: int = 7 * DAY) -> None:
        self.store = LMDBStore(folder / "online", 1_000_000)
        self.log = FileIngestLog(folder / "log", dedup=dedup)
        self.clock = ManualClock(datetime.fromtimestamp(START / 1e6, UTC))
        self.ingest = Ingest(self.store, self.log, specs(), clock=self.clock, root=folder)

    def close(self) -> None:
        self.ingest.close()
        self.store.close()

    def count(self, at: int = START, zone: int = 1) -> int:
        found = lookup(self.store, [{"zone": zone}], specs(), ["windows:n_24h"], at)
        return int(found.to_dicts()[0]["n_24h"])


def test_a_batch_sent_again_answers_the_same_and_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [trip(f"e{k}") for k in range(5)]
    assert world.ingest.push("trips", rows) == PushResult(5, 0, 1)
    assert world.ingest.push("trips", rows) == PushResult(0, 0, 1, 5)
    assert world.ingest.push("trips", [rows[2], trip("new")]) == PushResult(1, 0, 6, 1)
    assert (world.log.last(), world.count()) == (6, 6)
    world.close()


def test_the_same_id_twice_in_one_push_or_in_one_group_counts_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    first, second = world.ingest.push_many(
        [("trips", [trip("a"), trip("a"), trip("b")], None), ("trips", [trip("b"), trip(7), trip("7")], None)]
    )
    assert isinstance(first, PushResult)
    assert isinstance(second, PushResult)
    assert (first.accepted, first.duplicates, second.accepted, second.duplicates) == (2, 1, 1, 2)
    assert world.count() == 3
    world.close()


@pytest.mark.parametrize("index", ["kept", "lost", "half written", "behind"])
def test_ids_are_known_after_a_restart_whatever_became_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setattr("flyball.adapters.event_ids._GATHER", 10)
    world = World(tmp_path)
    for k in range(8):
        world.ingest.push("trips", [trip(f"{k}-{i}") for i in range(7)])
    if index == "behind":  # a kill: what gathered in memory is gone
        monkeypatch.setattr(EventIdIndex, "close", lambda self: [env.close() for env in self._envs])
    world.close()
    monkeypatch.undo()
    if index == "lost":
        shutil.rmtree(tmp_path / "log" / "ids")
    if index == "half written":
        (tmp_path / "log" / "ids" / "1" / "data.mdb").write_bytes(b"\0" * 9000)
    world = World(tmp_path)
    for k in range(8):
        result = world.ingest.push("trips", [trip(f"{k}-{i}") for i in range(8)])
        assert (result.accepted, result.duplicates) == (1, 7)
    assert world.count() == 64
    world.close()


def test_an_id_is_known_for_the_horizon_and_new_again_long_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyball.adapters.event_ids._GATHER", 1)
    world = World(tmp_path, dedup=DAY)
    world.ingest.push("trips", [trip("old")])
    for k in range(8):
        at = START + k * DAY // 2
        world.clock.set(from_micros(at))
        world.ingest.push("trips", [trip(f"x{k}", at)])
        if k <= 2:
            assert world.ingest.push("trips", [trip("old", at)]).duplicates == 1
    assert world.ingest.push("trips", [trip("old", START + 4 * DAY)]).accepted == 1
    assert len(list((tmp_path / "log" / "ids").iterdir())) == 2
    world.close()


@pytest.mark.parametrize("name", [None, "", 1.5, True])
def test_a_row_without_an_event_id_is_refused(tmp_path: Path, name: object) -> None:
    world = World(tmp_path)
    with pytest.raises(InputError, match="event id"):
        world.ingest.push("trips", [trip("a"), trip(name)])
    assert world.log.last() == 0
    world.close()


def test_a_refused_push_does_not_use_up_its_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("flyball.records.segment.os.write", full)
        with pytest.raises(Unavailable, match="No space left"):
            world.ingest.push("trips", [trip("a")])
    assert world.ingest.push("trips", [trip("a")]).accepted == 1
    assert world.count() == 1
    world.close()


_CHILD = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import flyball.adapters.event_ids as event_ids
event_ids._GATHER = 40
from test_online_event_ids import World, trip, START
world, rng = World(Path(sys.argv[1])), random.Random(int(sys.argv[3]))
for k in range(int(sys.argv[4]), 100_000):
    rows = [trip(f"e{i}") for i in range(3 * k, 3 * k + 3)]
    rows += [trip(f"e{rng.randrange(0, 3 * k + 3)}") for _ in range(rng.randrange(3))]
    world.ingest.push_many([("trips", rows, None)])
    print(k, flush=True)
    if k % 10 == 9: world.ingest.compact()
"""


def test_a_kill_at_any_moment_and_sending_everything_again_counts_each_event_once(tmp_path: Path) -> None:
    done = 0
    for run in range(4):
        again = max(0, done - 5)  # what was acknowledged last is sent again
        command = [sys.executable, "-c", _CHILD, str(tmp_path), str(Path(__file__).parent), str(run), str(again)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            seen = again
            while seen < done + 25 + 7 * run:
                seen = int(child.stdout.readline())
            child.kill()
            rest = [line for line in child.stdout.read().splitlines() if line.isdigit()]
        done = int(rest[-1]) if rest else seen
    world = World(tmp_path)
    ids = world.log.read("trips")["id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert set(ids) >= {f"e{i}" for i in range(3 * done + 3)}
    assert world.count() == len(ids)
    world.close()


def test_the_index_agrees_with_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.adapters.event_ids._GATHER", 50)
    rng, known = random.Random(1), {}
    index = EventIdIndex(tmp_path / "ids", horizon=DAY)
    sequence = 1
    for step in range(60):
        keys = [rng.randrange(900).to_bytes(16, "big") for _ in range(20)]
        assert index.find(keys) == [known.get(key, 0) for key in keys]
        fresh = [key for key in dict.fromkeys(keys) if key not in known]
        numbers = list(range(sequence, sequence + len(fresh)))
        known |= dict(zip(fresh, numbers, strict=True))
        index.add("s", fresh, numbers, START)
        sequence += len(fresh)
        if step % 20 == 19:
            index.close()
            index = EventIdIndex(tmp_path / "ids", horizon=DAY)
            assert index.covered("s") == sequence - 1
    index.close()
