from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from online_world import DAY, HOUR, MINUTE, START, World, row, same, write_file

from flyball import units
from flyball.features.online import OnlineReader
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn, Status


@pytest.mark.parametrize("seed", range(6))
def test_online_answers_equal_batch_while_events_arrive(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World.open(tmp_path)
    arrival = START
    world.ingest.push("trips", [{**row(rng, START), "made": START, "v": 1.5, "n": 2, "word": "a", "flag": True}], START)
    for _ in range(12):
        arrival += rng.choice([0, 1, 500_000, MINUTE, 17 * MINUTE, HOUR, 20 * HOUR])
        world.ingest.push("trips", [row(rng, arrival) for _ in range(rng.randrange(1, 12))], arrival)
        for later in (0, 1, rng.randrange(2 * HOUR), rng.randrange(2 * DAY)):
            world.check(arrival + later)
    world.close()


@pytest.mark.parametrize("seed", range(3))
def test_materialized_files_then_pushes_equal_batch(tmp_path: Path, seed: int) -> None:
    rng = random.Random(100 + seed)
    world = filled(tmp_path, rng)
    arrival = START + 3 * DAY
    for _ in range(4):
        arrival += rng.choice([1, 90_000_000, 3 * HOUR])
        world.ingest.push("trips", [row(rng, arrival) for _ in range(5)], arrival)
        for view in world.views:
            world.ingest.materialize(world.engine, view, until=units.from_micros(arrival))
        world.check(arrival)  # later than `until`, files would have more to say
    world.close()


def filled(folder: Path, rng: random.Random) -> World:
    """A world with two days of files after START, of which nothing is online yet."""
    rows = [row(rng, START + rng.randrange(5 * DAY)) for _ in range(300)]
    write_file(folder, [{**r, "at": units.from_micros(r["at"]).replace(tzinfo=None),
                         "made": r["made"] and units.from_micros(r["made"]).replace(tzinfo=None)} for r in rows])  # fmt: skip
    return World.open(folder)


def test_incremental_steps_equal_one_full_run(tmp_path: Path) -> None:
    world = filled(tmp_path, random.Random(7))
    for day in range(1, 7):
        until = START + day * DAY
        results = [world.ingest.materialize(world.engine, v, until=units.from_micros(until)) for v in world.views]
        assert [r.full for r in results] == [day == 1] * 2
        world.check(until)
    stepped = world.online(START + 6 * DAY)
    for view in world.views:
        world.ingest.materialize(world.engine, view, until=units.from_micros(START + 6 * DAY), full=True)
    again = world.online(START + 6 * DAY)
    assert stepped[1] == again[1]
    for a, b in zip(stepped[0], again[0], strict=True):
        assert all(same(name, value, b[name], b) for name, value in a.items()), (a, b)
    world.close()


def test_reader_gives_the_same_for_one_row_and_for_many(tmp_path: Path) -> None:
    rng = random.Random(3)
    world = World.open(tmp_path)
    for k in range(10):
        world.ingest.push("trips", [row(rng, START + k * MINUTE) for _ in range(9)], START + k * MINUTE)
    newest, windows = world.views
    columns = [ServiceColumn(f.name, "view", view=v.name) for v in (windows, newest) for f in v.features]
    rng.shuffle(columns)
    service = FeatureService("m", "at", tuple(columns), (InputSpec("zone", "int64"),), (newest, windows))
    reader = OnlineReader(world.store, service)
    at = START + 9 * MINUTE
    zones = np.array([1, 2, 99, 1, 3, 3])
    matrix, statuses = reader.read({"zone": zones}, len(zones), at)
    for i, zone in enumerate(zones.tolist()):
        one, status = reader.read({"zone": [zone]}, 1, at)
        np.testing.assert_array_equal(one[0], matrix[i])
        np.testing.assert_array_equal(status[0], statuses[i])
    assert (statuses[2] == Status.MISSING).all()
    world.close()


def test_the_order_of_late_events_does_not_matter(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [row(rng, START) for _ in range(40)]
    answers = []
    for k in range(2):
        world = World.open(tmp_path / str(k))
        for some in (rows[:20], rows[20:]):
            rng.shuffle(some)
            world.ingest.push("trips", [{**r, "made": r["at"]} for r in some], START)
        world.check(START + HOUR)
        answers.append(lookup_windows(world, START + HOUR))
        world.close()
    for a, b in zip(*answers, strict=True):
        assert all(same(name, value, b[name], b) for name, value in a.items()), (a, b)


def lookup_windows(world: World, at: int) -> list[dict[str, object]]:
    names = {f.name for f in world.views[1].features}
    return [{n: v for n, v in found.items() if n in names} for found in world.online(at)[0]]
