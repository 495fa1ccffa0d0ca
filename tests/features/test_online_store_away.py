"""An online store that is away, or comes back older than it was: the log has all rows, and the store gets them first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from online_world import START, World, row

from flyball.adapters.lmdb import LMDBStore
from flyball.errors import Unavailable
from flyball.features.ingest import PushResult
from flyball.features.packing import checkpoint_key, namespace


def trip(zone: int = 1, at: int = START) -> dict[str, Any]:
    return {"at": at, "made": at, "zone": zone, "v": 1.0, "n": 1, "word": "a", "flag": True}


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Set the first element: writes fail as those of a remote store that is gone."""
    state = [False]
    real = LMDBStore.write

    def write(store: LMDBStore, **given: Any) -> int:
        if state[0]:
            raise Unavailable("the store is away")
        return real(store, **given)

    monkeypatch.setattr(LMDBStore, "write", write)
    return state


def test_rows_that_the_store_did_not_take_are_acknowledged_and_follow(tmp_path: Path, away: list[bool]) -> None:
    world = World.open(tmp_path)
    world.ingest.push("trips", [trip()], START)
    away[0] = True
    result = world.ingest.push("trips", [trip(), trip(2)], START + 1)
    assert result == PushResult(2, 0, 2)
    assert result.pending
    with pytest.raises(Unavailable, match="nothing of this push was kept"):
        world.ingest.push("trips", [trip()], START + 2)
    assert world.log.last() == 3
    away[0] = False
    assert world.ingest.recover()
    assert not world.ingest.recover()
    world.ingest.push("trips", [trip()], START + 3)
    assert [r["n_1h"] for r in world.online(START + 3)[0]] == [3, 1, 0, 0]
    world.check(START + 3)
    world.close()


def test_the_next_push_brings_what_is_missing_before_its_own_rows(tmp_path: Path, away: list[bool]) -> None:
    world = World.open(tmp_path)
    for k in range(20):
        away[0] = k % 3 == 1
        try:
            world.ingest.push("trips", [trip(1 + k % 3, START + k)], START + k)
        except Unavailable:
            away[0] = False
            world.ingest.push("trips", [trip(1 + k % 3, START + k)], START + k)
    away[0] = False
    world.ingest.recover()
    assert sum(r["n_1h"] for r in world.online(START + 20)[0]) == 20
    world.check(START + 20)
    world.close()


@pytest.mark.parametrize("lost", ["everything", "the newest"])
def test_a_store_that_came_back_older_is_brought_up_from_the_log(tmp_path: Path, lost: str) -> None:
    import random

    rng = random.Random(3)
    world = World.open(tmp_path)
    kept: list[tuple[bytes, bytes | None]] = []
    for k in range(12):
        if k == 5:
            keys = [k for v in world.views for k in world.store.keys(namespace(v.digest))]
            keys += [checkpoint_key(v.digest) for v in world.views]
            kept = list(zip(keys, world.store.get_many(keys), strict=True)) if lost == "the newest" else []
        world.ingest.push("trips", [row(rng, START + k * 60_000_000) for _ in range(4)], START + k * 60_000_000)
    present = [k for v in world.views for k in world.store.keys(namespace(v.digest))]
    gone = [(key, None) for key in [*present, *(checkpoint_key(v.digest) for v in world.views)]]
    world.store.write(puts=[*gone, *kept])
    at = START + 12 * 60_000_000
    world.ingest.push("trips", [row(rng, at)], at)
    world.check(at)
    world.close()
