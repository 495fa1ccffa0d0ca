"""Materialization: by arrival, by range, in parts, killed, twice at once; with checks and quarantine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.adapters.upkeep import FolderUpkeep, quarantined
from flyball.clock import ManualClock
from flyball.errors import CheckFailed, ConflictError, InputError
from flyball.features import definitions as fb
from flyball.features.arrival import Arrivals, arrivals_key
from flyball.features.definitions.checks import Check, check
from flyball.features.lookup import lookup
from flyball.features.materialize import MaterializeResult, Step, materialize
from flyball.features.packing import namespace
from flyball.features.spec import ViewSpec
from flyball.units import from_micros

START = 1_600_000_000_000_000
HOUR, DAY = 3_600_000_000, 86_400_000_000


def views(checks: tuple[Check, ...] = (), view_checks: tuple[Check, ...] = ()) -> tuple[ViewSpec, ViewSpec]:
    zone = fb.Entity("zone", keys={"zone": int})
    trips = fb.ParquetSource("trips", "trips/*.parquet", event_time="at", delay="10m")
    newest = fb.FeatureView(
        "newest", entity=zone, source=trips, features=[fb.Feature("v", float), fb.Feature("n", int)]
    )
    windows = fb.FeatureView(
        "windows", entity=zone, source=trips,
        features=[fb.count("n_24h", window="24h"), fb.sum("sum_24h", of="v", window="24h"),
                  fb.max("max_1h", of="n", window="1h")],
    )  # fmt: skip
    specs = (newest.spec, windows.spec)
    source = replace(specs[0].source, checks=tuple(c.spec for c in checks))
    about = replace(specs[0].about, checks=tuple(c.spec for c in view_checks))
    return tuple(replace(s, source=source, about=about) for s in specs)  # type: ignore[return-value]


Row = tuple[int, int, float | None, int]


def some_rows(seed: int, n: int, *, zones: int = 20, begin: int = START, span: int = DAY) -> list[Row]:
    rng = random.Random(seed)
    return [
        (begin + rng.randrange(span), rng.randrange(zones), float(rng.randrange(100)), rng.randrange(9))
        for _ in range(n)
    ]


class Place:
    """A project's folder with a store, an engine and a clock."""

    def __init__(self, folder: Path, specs: tuple[ViewSpec, ...] | None = None) -> None:
        self.folder = folder
        self.views = specs or views()
        self.store = LMDBStore(folder / "online", 4_000_000)
        self.upkeep = FolderUpkeep(folder / ".flyball")
        self.clock = ManualClock(from_micros(START + DAY))

    @property
    def engine(self) -> DuckDBEngine:
        return DuckDBEngine(self.folder)

    def write(self, name: str, rows: list[Row]) -> None:
        (self.folder / "trips").mkdir(exist_ok=True)
        at, zone, v, n = zip(*rows, strict=True) if rows else ((), (), (), ())
        table = pa.table({"at": pa.array(at, pa.timestamp("us", "UTC")), "zone": pa.array(zone, pa.int64()),
                          "v": pa.array(v, pa.float64()), "n": pa.array(n, pa.int64())})  # fmt: skip
        pq.write_table(table, self.folder / "trips" / f"{name}.parquet")

    def run(self, view: ViewSpec, until: int | None = None, **more: Any) -> MaterializeResult:
        moment = from_micros(until) if until is not None else self.clock.now()
        return materialize(self.engine, self.store, view, until=moment, upkeep=self.upkeep, clock=self.clock, **more)

    def all(self, **more: Any) -> list[MaterializeResult]:
        return [self.run(view, **more) for view in self.views]

    def dump(self, view: ViewSpec) -> dict[bytes, bytes]:
        keys = self.store.keys(namespace(view.digest))
        return dict(zip(keys, [bytes(v or b"") for v in self.store.get_many(keys)], strict=True))

    def online(self, zones: range = range(25), at: int | None = None) -> list[dict[str, Any]]:
        from flyball.units import to_micros

        moment = at if at is not None else to_micros(self.clock.now())
        return lookup(self.store, [{"zone": z} for z in zones], list(self.views), None, moment).to_dicts()


def afresh(place: Place, folder: Path) -> list[dict[str, Any]]:
    """What a store that is filled from the same files for the first time answers."""
    folder.mkdir()
    (folder / "trips").symlink_to(place.folder / "trips")
    other = Place(folder, place.views)
    other.clock = place.clock
    other.all()
    return other.online()


def test_late_rows_of_a_new_file_land_whatever_their_event_time(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", some_rows(1, 300))
    assert {r.mode for r in place.all()} == {"full"}
    place.clock.set(from_micros(START + DAY + HOUR))
    assert [r.rows for r in place.all()] == [0, 0] or all(r.mode == "arrival" for r in place.all())
    place.write("b", some_rows(2, 50, begin=START + HOUR))
    results = place.all()
    assert [(r.mode, r.files) for r in results] == [("arrival", ("trips/b.parquet",))] * 2
    assert all(r.rows == 50 for r in results)
    assert place.online() == afresh(place, tmp_path / "again")
    assert [r.rows for r in place.all()] == [0, 0], "nothing arrived since"


def test_rows_that_were_not_known_yet_come_with_a_later_run_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", some_rows(1, 300, span=3 * DAY))
    total = [0, 0]
    for day in (1, 2, 3, 4):
        place.clock.set(from_micros(START + day * DAY))
        total = [t + r.rows for t, r in zip(total, place.all(), strict=True)]
    assert total == [300, 300]
    assert place.online() == afresh(place, tmp_path / "again")


def test_a_late_file_is_published_and_not_visible_before(tmp_path: Path) -> None:
    place = Place(tmp_path)
    newest, windows = place.views
    place.write("a", [(START, 1, 1.0, 1)])
    place.all()
    assert place.upkeep.published(newest) == {}, "the first files are known by their declared delay"
    place.clock.set(from_micros(START + DAY + 5 * HOUR))
    place.write("b", [(START + HOUR, 1, 2.0, 2)])
    result = place.run(newest)
    at = START + DAY + 5 * HOUR
    assert result.published == at and not result.overrun
    assert dict(place.upkeep.published(newest)) == {"trips/b.parquet": at}
    assert place.upkeep.published(windows) == {}
    place.run(windows)
    before, after = (place.online(range(1, 2), t)[0] for t in (at - 1, at))
    assert (before["v"], after["v"]) == (1.0, 2.0)
    state = Arrivals.from_bytes(place.store.get_many([arrivals_key(newest.digest)])[0])
    assert state.run is None and state.files["trips/b.parquet"].published == at
    later = place.run(newest, full=True)
    assert later.mode == "full" and place.online(range(1, 2), at - 1)[0]["v"] == 1.0, "a rebuild keeps publications"


def test_a_running_clock_plans_the_publication_ahead_and_waits_for_it(tmp_path: Path) -> None:
    from flyball.clock import SystemClock
    from flyball.units import to_micros

    place = Place(tmp_path)
    place.write("a", [(START, 1, 1.0, 1)])
    place.clock = SystemClock()  # type: ignore[assignment]
    place.run(place.views[0])
    place.write("b", [(START + HOUR, 1, 2.0, 2)])
    began = to_micros(place.clock.now())
    result = place.run(place.views[0])
    assert result.published is not None and began < result.published <= to_micros(place.clock.now())


@pytest.mark.parametrize("how", ["rewritten", "removed", "sorts before"])
def test_files_that_cannot_be_added_to_force_a_rebuild_that_says_so(tmp_path: Path, how: str) -> None:
    place = Place(tmp_path)
    place.write("b", some_rows(1, 100))
    place.write("c", [*some_rows(2, 50, zones=5), (START, 24, 1.0, 1)])
    place.all()
    if how == "rewritten":
        place.write("c", some_rows(3, 60, zones=5))
    elif how == "removed":
        (tmp_path / "trips" / "c.parquet").unlink()
    else:
        place.write("a", some_rows(4, 10))
    results = place.all()
    said = {"rewritten": "c.parquet was rewritten", "removed": "c.parquet is gone", "sorts before": "sorts before"}[how]
    assert all(r.mode == "full" and said in r.reason for r in results)
    if how != "sorts before":
        assert place.online() == afresh(place, tmp_path / "again")
        assert not [k for k in place.store.keys(namespace(place.views[0].digest)) if k.endswith(bytes([24]))]
    assert [r.rows for r in place.all()] == [0, 0]


def test_a_range_rebuilds_only_the_entities_it_touches_and_again_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", [*some_rows(1, 200), *[(START + 2 * DAY + k * HOUR, 3, 5.0, k) for k in range(3)]])
    place.clock.set(from_micros(START + 3 * DAY))
    place.all()
    whole = [place.dump(v) for v in place.views]
    for view in place.views:
        key = next(k for k in place.dump(view) if k.endswith(bytes([3])))
        place.store.write(puts=[(key, None)])
    bounds = {"start": from_micros(START + 2 * DAY), "end": from_micros(START + 3 * DAY)}
    for _ in range(2):
        results = place.all(**bounds)
        assert [(r.mode, r.keys) for r in results] == [("range", 1)] * 2
        assert [place.dump(v) for v in place.views] == whole
    with pytest.raises(InputError, match="not after its start"):
        place.run(place.views[0], start=bounds["end"], end=bounds["start"])
    place.write("b", some_rows(7, 10))
    assert place.all(**bounds)[0].files == () and place.all()[0].files == ("trips/b.parquet",)


def test_a_range_of_what_was_never_built_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", some_rows(1, 10))
    with pytest.raises(InputError, match="never materialized"):
        place.run(place.views[0], start=from_micros(START))


@pytest.mark.parametrize("full", [False, True])
def test_parts_give_the_bytes_that_one_piece_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    one, many = Place(tmp_path / "one"), Place(tmp_path / "many")
    for place in (one, many):
        place.folder.mkdir(exist_ok=True)
        monkeypatch.setattr("flyball.features.history_rows.PART_ROWS", 2_000_000 if place is one else 40)
        monkeypatch.setattr("flyball.features.materialize._SLICE", 32_768 if place is one else 16)
        monkeypatch.setattr("flyball.features.materialize._KEYS", 1_024 if place is one else 3)
        place.write("a", some_rows(1, 400))
        place.all()
        place.write("b", some_rows(2, 300))
        steps: list[Step] = []
        place.all(full=full, detail=steps.append)
        assert steps[-1].keys == steps[-1].all_keys and steps[-1].rows == steps[-1].all_rows
        assert steps[-1].eta == 0 and steps[-1].rows_per_second > 0
    assert [one.dump(v) for v in one.views] == [many.dump(v) for v in many.views]
    assert not (tmp_path / "many" / ".flyball" / "spill").exists() or not any(
        (tmp_path / "many" / ".flyball" / "spill").iterdir()
    )


_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_materialize import Place
import flyball.features.history_rows as rows, flyball.features.materialize as m
rows.PART_ROWS, m._SLICE, m._KEYS = 60, 16, 2
place = Place(Path(sys.argv[2]))
from flyball.units import from_micros
from test_materialize import START, DAY
place.clock.set(from_micros(START + 2 * DAY))
view, left = place.views[int(sys.argv[3])], int(sys.argv[4])
def tell(step):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
place.run(view, full=sys.argv[5] == "full", detail=tell)
"""


@pytest.mark.parametrize(("view", "mode"), [(0, "full"), (1, "full"), (1, "arrival")])
def test_kill_9_at_chunks_and_going_on_gives_what_an_undisturbed_run_gives(
    tmp_path: Path, view: int, mode: str
) -> None:
    place = Place(tmp_path)
    place.write("a", some_rows(1, 200))
    place.run(place.views[view])
    place.clock.set(from_micros(START + 2 * DAY))
    place.write("b", some_rows(2, 150))
    place.store.close()
    deaths = 0
    for steps in (1, 3, 4, 2):
        arguments = [str(Path(__file__).parent), str(tmp_path), str(view), str(steps), mode]
        died = subprocess.run([sys.executable, "-c", _KILLED, *arguments], capture_output=True, timeout=60, check=False)
        deaths += died.returncode == -signal.SIGKILL
        assert died.returncode in {0, -signal.SIGKILL}, died.stderr.decode()
    assert deaths >= 3
    place = Place(tmp_path)
    place.clock.set(from_micros(START + 2 * DAY))
    place.run(place.views[view])
    for other in place.views:
        if other is not place.views[view]:
            place.run(other)
    found, wanted = place.online(), afresh(place, tmp_path / "again")
    assert found == wanted
    assert not list((tmp_path / ".flyball").glob("spill/*/part-*")) or place.run(place.views[view]).rows == 0


def test_two_at_once_one_wins_and_the_other_is_told_who_and_since_when(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", some_rows(1, 100))
    inside, go = threading.Event(), threading.Event()

    def hold(step: Step) -> None:
        inside.set()
        go.wait(20)

    winner = threading.Thread(target=lambda: place.run(place.views[0], detail=hold))
    winner.start()
    assert inside.wait(20)
    with pytest.raises(ConflictError, match=rf"process {os.getpid()} on .* since 20\d\d-"):
        place.run(place.views[0])
    place.run(place.views[1])
    go.set()
    winner.join()
    assert place.run(place.views[0]).rows == 0


BAD: list[Row] = [(START + HOUR, 1, -5.0, 3), (START + 2 * HOUR, 2, None, 99)]


@pytest.mark.parametrize("policy", ["stop", "quarantine", "warn"])
def test_a_check_of_the_source_follows_its_policy(tmp_path: Path, policy: Any) -> None:
    place = Place(tmp_path, views((check.range("v", 0, policy=policy), check.not_null("v", policy=policy))))
    place.write("a", some_rows(1, 50))
    place.all()
    before = [place.dump(v) for v in place.views]
    place.write("b", BAD)
    if policy == "stop":
        with pytest.raises(CheckFailed, match=r"source 'trips' failed 2 data checks.*range\(v\).*not_null\(v\)"):
            place.all()
        assert [place.dump(v) for v in place.views] == before
        place.write("b", [(START + HOUR, 1, 5.0, 3)])
        assert [r.rows for r in place.all()] == [1, 1], "corrected, it goes on"
    elif policy == "warn":
        results = place.all()
        assert all(len(r.warnings) == 2 and r.rows == 2 for r in results)
    else:
        results = place.all()
        assert [(r.quarantined, r.rows) for r in results] == [(2, 0)] * 2
        kept = quarantined(tmp_path / ".flyball", "trips")
        assert kept is not None and kept.column("__reason").to_pylist() == ["not_null(v)", "range(v)"]
        assert [place.dump(v) for v in place.views] == before
        place.all(full=True)
        again = quarantined(tmp_path / ".flyball", "trips")
        assert again is not None and again.num_rows == 2, "the same rows are kept once"
        place.write("b", [(START + HOUR, 1, 5.0, 3)])
        place.all()
        assert quarantined(tmp_path / ".flyball", "trips") is None, "a rebuild without bad rows empties it"


def test_a_view_may_check_its_features_and_table_level_checks_stop(tmp_path: Path) -> None:
    place = Place(tmp_path, views((), (check.unique("zone", policy="warn"),)))
    place.write("a", [(START, 1, 1.0, 1), (START + 1, 1, 1.0, 1)])
    assert place.run(place.views[0]).warnings[0].startswith("unique: 1 of 2 rows fail")
    stale = Place(tmp_path, views((check.freshness("1h"),)))
    with pytest.raises(CheckFailed, match="newest event is 24.0 h old"):
        stale.run(stale.views[0])
    report = place.upkeep.report(place.views[0], "view")
    assert report is not None and report.rows == 2 and not report.verdicts[0].passed


def test_volume_is_compared_over_incremental_runs(tmp_path: Path) -> None:
    place = Place(tmp_path, views((check.volume(max_change="50%"),)))
    place.write("a", some_rows(1, 100, span=HOUR))
    place.run(place.views[0])
    place.write("b", some_rows(2, 40, span=HOUR))
    assert place.run(place.views[0]).rows == 40
    place.write("c", some_rows(3, 90, span=HOUR))
    with pytest.raises(CheckFailed, match="230 rows, 140 the last time"):
        place.run(place.views[0])


def test_part_of_is_spread_and_the_same_for_equal_keys() -> None:
    from flyball.features.partitions import part_of

    keys = pa.chunked_array([pa.array([f"u{i % 5_000}" for i in range(10_000)])])
    found = part_of([keys, pa.chunked_array([pa.array(np.arange(10_000) % 5_000)])], 8)
    assert (found[:5_000] == found[5_000:]).all()
    assert np.bincount(found).min() > 1_000


def test_quarantined_rows_are_equally_absent_in_history_and_online_pushed_or_in_files(tmp_path: Path) -> None:
    from flyball.adapters.ingest_files import FileIngestLog
    from flyball.features.ingest import Ingest
    from flyball.features.offline import history

    place = Place(tmp_path, views((check.range("v", 0, policy="quarantine"),)))
    place.write("a", [*some_rows(1, 60, zones=4), (START + 22 * HOUR, 1, -1.0, 77)])
    log = FileIngestLog(tmp_path / "log")
    ingest = Ingest(place.store, log, place.views, clock=place.clock, root=tmp_path, upkeep=place.upkeep)
    engine = DuckDBEngine(tmp_path, FileIngestLog(tmp_path / "log"))
    for view in place.views:
        ingest.materialize(engine, view)
    at = START + DAY
    pushed = [{"at": at - k, "zone": k % 4, "v": v, "n": 50 + k} for k, v in enumerate([-3.0, 4.0, -1e9, 5.0])]
    result = ingest.push("trips", pushed, at)
    assert (result.accepted, result.rejected) == (2, 2)
    requests = pa.table({"zone": list(range(4)), "T": pa.array([at] * 4, pa.timestamp("us", "UTC"))})
    names = [f.name for v in place.views for f in v.features]
    wanted = history(engine, requests, place.views, None, at="T").to_arrow().select(names).to_pylist()
    assert place.online(range(4), at) == wanted
    for view in place.views:
        ingest.materialize(engine, view, full=True)
    assert place.online(range(4), at) == wanted
    kept = quarantined(tmp_path / ".flyball", "trips")
    assert kept is not None and sorted(kept.column("v").to_pylist()) == [-1e9, -3.0, -1.0], "pushes are listed too"
    ingest.close()


def test_views_that_quarantine_one_row_fill_in_each_others_columns(tmp_path: Path) -> None:
    place = Place(tmp_path, views())
    upkeep = FolderUpkeep(tmp_path / ".flyball")
    own = {"__event": [5, 9], "__sequence": [1, 2], "__reason": ["bad", "worse"], "__at": [7, 7]}
    upkeep.quarantine(place.views[0], pa.table({"v": [None, 2.0], **own}), whole=True)
    upkeep.quarantine(place.views[1], pa.table({"v": [1.0, 3.0], "zone": ["a", "b"], **own}), whole=True)
    kept = quarantined(tmp_path / ".flyball", "trips")
    assert kept is not None and kept.column("zone").to_pylist() == ["b", "a"], "newest first, and each row once"
    assert kept.column("v").to_pylist()[1] == 1.0


def test_pushed_rows_of_a_large_source_are_streamed_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = fb.Entity("user", keys={"user": int})
    taps = fb.PushSource("taps", schema={"user": int, "v": float, "at": datetime}, event_time="at")
    view = fb.FeatureView("newest", entity=user, source=taps, features=[fb.Feature("v", float)]).spec
    log = FileIngestLog(tmp_path / "log")
    log.acquire()
    for k in range(30):
        at = from_micros(START + k)
        log.append_many([("taps", [{"user": u, "v": float(k), "at": at} for u in range(k % 9)], START + k, ())])
    dumps = []
    for size in (2_000_000, 7):
        monkeypatch.setattr("flyball.features.history_rows.PART_ROWS", size)
        store, engine = LMDBStore(tmp_path / f"online{size}"), DuckDBEngine(tmp_path, log)
        assert engine.count(view.source) == log.rows("taps") == sum(k % 9 for k in range(30))
        materialize(engine, store, view, until=None, upkeep=FolderUpkeep(tmp_path / f"state{size}"))
        keys = store.keys(namespace(view.digest))
        dumps.append(dict(zip(keys, store.get_many(keys), strict=True)))
        assert bool(engine._accepted) is (size > 7), "only a small log is kept in memory"
        store.close()
    assert dumps[0] == dumps[1] and len(dumps[0]) == 8
    log.close()


@pytest.mark.parametrize("size", [2_000_000, 40])
def test_what_is_no_longer_there_goes_also_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("flyball.features.history_rows.PART_ROWS", size)
    place = Place(tmp_path)
    place.write("a", some_rows(1, 300, zones=200))
    place.all()
    place.write("a", some_rows(2, 300, zones=90, span=DAY // 2))
    kept = {zone for _, zone, _, _ in some_rows(2, 300, zones=90, span=DAY // 2)}
    assert [r.mode for r in place.all()] == ["full", "full"]
    assert [len(place.dump(view)) for view in place.views] == [len(kept)] * 2
    assert not list((tmp_path / ".flyball").glob("spill/*")), "nothing spilled is left"


@pytest.mark.parametrize("size", [2_000_000, 40])
def test_uniqueness_is_judged_in_parts_as_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("flyball.features.history_rows.PART_ROWS", size)
    place = Place(tmp_path, views((check.unique("at", "zone", policy="stop"),)))
    rows = list({(at, zone): (at, zone, v, n) for at, zone, v, n in some_rows(1, 300, span=DAY // 2)}.values())
    place.write("a", rows)
    assert place.all()[0].rows == len(rows)
    place.write("b", [rows[7], rows[100], (START + 5, 1, 1.0, 1)])
    with pytest.raises(CheckFailed, match="2 "):
        place.all()
    assert not list((tmp_path / ".flyball").glob("spill/*")), "nothing spilled is left"
