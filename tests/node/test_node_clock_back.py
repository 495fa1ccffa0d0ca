"""The machine's clock jumps, back and ahead, under a running node: ids, log, leases and rates keep their order.

The jump is real for the node: a `sitecustomize` in the path of its processes moves `time.time` and `time.time_ns` by what
a file says at the moment of the call. The kernel's clock, which everybody else here reads too, is left alone.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from faults_kit import ask, body_of, health, totals
from node_under_load import Load, Node, until

from flyball.adapters.local.running import stop
from flyball.adapters.local.segments import segments_of
from flyball.config import load
from flyball.control import connect
from flyball.errors import FenceLost
from flyball.node.shipper import once
from flyball.records.log import follow
from flyball.records.segment import SegmentWriter, read_frames
from flyball.records.types import Prediction
from flyball.serving.http.limits import RateExceeded, Rates
from flyball.serving.log.explain import find
from flyball.serving.log.ids import IdMaker

JUMP = """
import mmap, os, struct, time

_file = os.open(os.environ["CLOCK_MOVED"], os.O_RDONLY)
_map = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
_ns, _by = time.time_ns, struct.Struct("<q").unpack_from
time.time_ns = lambda: _ns() + _by(_map)[0]
time.time = lambda: (_ns() + _by(_map)[0]) / 1e9
"""
HOUR_NS = 3_600 * 10**9


class Clock:
    """The clock of the node's processes, as far as it is off."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._file = folder / "moved"
        (folder / "sitecustomize.py").write_text(JUMP)
        self.move(0)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("CLOCK_MOVED", str(self._file))

    def move(self, hours: float) -> None:
        """Have it show that many hours more than the true time, from now on."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(int(hours * HOUR_NS).to_bytes(8, "little", signed=True))


def hour_of(prediction: str) -> float:
    """Return the hours by which an id's time differs from now."""
    return (int(prediction[:12], 32) / 1e6 - time.time()) / 3600


@pytest.mark.slow
def test_a_jumping_clock_fails_no_request_and_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path / "clock", monkeypatch)
    node = Node(tmp_path)
    node.up()
    node.route()
    try:
        with Load(node, pushers=1) as load_:
            load_.more(100)
            before = totals(node.running)
            clock.move(-2)
            load_.more(100)
            node.kill("w0")  # its successor was never told the time before
            load_.more(100)
            assert node.route() < 1.0
            clock.move(+3)
            load_.more(100)
            node.kill("w1")
            clock.move(-1)
            load_.more(100)
            after = totals(node.running)
        assert load_.refused == []
        assert load_.broken <= 2 * 5  # connections of the killed
        assert set(load_.answered.values()) == {2.0}
        assert {round(hour_of(i)) for i in load_.answered} >= {0, 3}  # the clock did move, as workers saw it
        assert {k for k, v in before.items() if after.get(k, -1.0) < v} == set()
        until(lambda: health(node.running) == "ok", what="health")
        in_order_and_complete(node, load_)
    finally:
        node.down()


def in_order_and_complete(node: Node, load_: Load) -> None:
    """Every acknowledged record is there once; of each worker only what it writes now counts as open."""
    records = [r for b in follow(node.layout.log, {}) for r in b.records if isinstance(r, Prediction)]
    ids = [r.id for r in records]
    assert len(ids) == len(set(ids))
    assert load_.answered.keys() - set(ids) == set()
    live = {str(node.pid(name)) for name in ("w0", "w1")}
    made_by = {s.name: s.name.rpartition("-")[2].partition(".")[0] for s in segments_of(node.layout.log)}
    open_ = {s.name for s in segments_of(node.layout.log) if not s.closed}
    assert open_ == {name for name, pid in made_by.items() if pid in live} != set()
    for asked in (min(load_.answered), max(load_.answered)):
        assert find(node.layout.log, asked)[0] is not None
    stop(node.layout)
    once(load(node.root / "flyball.toml"))
    shipped = sum(1 for _ in (node.layout.log).glob("*/*.seg"))
    assert len(json.loads((node.layout.log / "shipped.json").read_text())["segments"]) == shipped


def test_segments_are_named_in_the_order_in_which_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time_ns
    for k, hours in enumerate((0, -2, +5, -1, 0)):
        monkeypatch.setattr(time, "time_ns", lambda hours=hours: true() + hours * HOUR_NS)
        writer = SegmentWriter(tmp_path)
        writer.append(b"%d" % k)
        writer.close()
    assert [f.payload for p in sorted(tmp_path.glob("*.seg")) for f in read_frames(p)] == [b"0", b"1", b"2", b"3", b"4"]


def test_ids_of_a_worker_grow_whatever_the_clock_does() -> None:
    times = iter([100, 50, 50, 0, 101, 99, 10**15, 5])
    maker = IdMaker(3, 7, micros=lambda: next(times))
    ids = [maker.next() for _ in range(8)]
    assert ids == sorted(set(ids))


def test_a_record_is_found_in_a_file_that_seems_older_than_it(tmp_path: Path) -> None:
    node = Node(tmp_path, workers=1)
    node.up()
    node.route()
    try:
        said = ask(node.running, "/v2/models/eta/infer", body_of(3.0))[1]
        stop(node.layout)
        for path in node.layout.log.glob("*/*.seg"):
            os.utime(path, (0, 0))
        record = find(node.layout.log, said["parameters"]["prediction_id"])[0]
        assert record is not None
        assert record.value == 6.0
    finally:
        node.down()


def test_a_lease_from_before_the_clock_jumped_back_binds_nobody(tmp_path: Path) -> None:
    database = connect(f"sqlite:///{tmp_path / 'control.db'}")
    leases, ttl = database.leases, timedelta(seconds=15)
    now = [10_000.0]
    leases._wall = lambda: now[0]
    held = leases.acquire("control", "a", ttl)
    assert held is not None
    for skew in (-14.0, +14.0):  # clocks of two machines differ a little
        now[0] = 10_000.0 + skew
        assert leases.acquire("control", "b", ttl) is None
    now[0] = 10_000.0 - 7_200.0
    assert leases.acquire("control", "b", ttl) is not None
    with pytest.raises(FenceLost):
        leases.renew(held)
    database.close()


def test_rates_do_not_ask_the_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [0]
    rates = Rates.in_memory(clock=lambda: moments[0])
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    for _ in range(5):
        rates.take(9, "ann", 1.0, 5.0)
    with pytest.raises(RateExceeded):
        rates.take(9, "ann", 1.0, 5.0)
    moments[0] = 10**9
    rates.take(9, "ann", 1.0, 5.0)
