from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import IntegrityError, Unavailable
from flyball.serving.shared.histogram import BUCKET_COUNT, bucket_of, bucket_upper, quantile
from flyball.serving.shared.mapclock import MapClock, MapGate
from flyball.serving.shared.slots import SharedMap, VetoReason


def test_header_is_seen_by_another_opening(tmp_path: Path) -> None:
    first = SharedMap.create(tmp_path / "map", slots=2)
    second = SharedMap.open(tmp_path / "map")
    first.table_version, first.domain_time, first.kill_switch = 7, 123, True
    assert (second.table_version, second.domain_time, second.kill_switch, len(second)) == (7, 123, True, 2)


def test_another_process_sees_the_slot(tmp_path: Path) -> None:
    shared = SharedMap.create(tmp_path / "map", slots=2)
    code = (
        "import sys; from pathlib import Path; from flyball.serving.shared.slots import SharedMap;"
        "s = SharedMap.open(Path(sys.argv[1])).slot(1); s.claim(); s.count(1, 900, 3, error=True); s.acknowledge(4)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "map")], check=True)
    slot = shared.slot(1)
    assert slot.pid not in (0, os.getpid())
    assert (slot.acknowledged, slot.totals(1).rows, slot.totals(1).errors, slot.totals(0).requests) == (4, 3, 1, 0)


def test_totals_go_on_after_a_restart(tmp_path: Path) -> None:
    slot = SharedMap.create(tmp_path / "map", slots=1).slot(0)
    slot.claim()
    slot.count(0, 100, 1)
    slot.set_veto(3, VetoReason.FAILURES, "eta")
    again = SharedMap.create(tmp_path / "map", slots=1).slot(0)
    assert again.claim() == 2
    assert (again.totals(0).requests, again.veto, again.acknowledged) == (1, None, 0)


def test_vetoes_are_told_by_model_and_table() -> None:
    shared = SharedMap.in_memory(slots=2)
    shared.slot(1).claim()
    shared.slot(1).set_veto(3, VetoReason.HOST_GONE, "eta")
    assert shared.vetoes("eta", table=3) == ["worker 1 sends the candidate nothing: its host process is gone"]
    assert shared.vetoes("eta", table=4) == []
    assert shared.vetoes("other") == []


def test_a_foreign_file_is_refused_and_replaced_by_create(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(IntegrityError, match="no shared map"):
        SharedMap.open(path)
    with pytest.raises(Unavailable, match="flyball up"):
        SharedMap.open(tmp_path / "none")
    assert len(SharedMap.create(path, slots=3)) == 3


def test_map_clock_tells_simulated_time_when_set() -> None:
    shared = SharedMap.in_memory()
    clock = MapClock(shared)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    shared.domain_time = 1_583_020_800_000_000
    assert clock.now() == datetime(2020, 3, 1, tzinfo=UTC)
    assert clock.micros() == 1_583_020_800_000_000


@given(st.integers(0, 10**8))
def test_buckets_hold_their_latency(micros: int) -> None:
    bucket = bucket_of(micros)
    assert 0 <= bucket < BUCKET_COUNT
    if bucket < BUCKET_COUNT - 1:
        assert micros < bucket_upper(bucket)
        assert bucket == 0 or micros >= bucket_upper(bucket - 1)


def test_quantile_is_within_a_quarter() -> None:
    buckets = [0] * BUCKET_COUNT
    for micros in range(1, 10_001):
        buckets[bucket_of(micros)] += 1
    assert 9_900 <= quantile(buckets, 0.99) <= 9_900 * 1.25
    assert quantile([0] * BUCKET_COUNT, 0.5) == 0


def test_reads_of_the_store_are_counted_by_what_became_of_them():
    shared = SharedMap.in_memory()
    slot = shared.slot(0)
    slot.claim()
    slot.name_store("redis")
    for micros, state in ((80, ""), (90, "stale"), (25_000, "error"), (25_000, "defaulted")):
        slot.count_read(micros, state)
    totals = slot.store_totals()
    assert (totals.store, totals.micros) == ("redis", 50_170)
    assert (totals.errors, totals.defaulted, totals.stale, sum(totals.buckets)) == (1, 1, 1, 4)
    assert sum(slot.totals(0).buckets) == sum(slot.totals(1).buckets) == 0  # neighbours in the slot


def test_a_gate_holds_the_readers_clock_just_below_a_publication_but_not_for_ever(tmp_path: Path) -> None:
    shared = SharedMap.create(tmp_path / "map", slots=1)
    readers, writer, gate = MapClock(shared), MapClock(shared, gated=False), MapGate(shared)
    at = writer.micros()
    gate.hold(at)
    assert readers.micros() == at - 1
    assert writer.micros() >= at
    gate.hold(writer.micros() + 60_000_000)
    assert abs(readers.micros() - writer.micros()) < 1_000_000
    gate.hold(time.time_ns() // 1000 - gate.patience - 1)  # its holder was killed
    assert readers.micros() >= at
    gate.release()
    assert readers.micros() >= at
    assert not readers.simulated
    shared.domain_time = 7
    gate.hold(5)
    assert (readers.micros(), readers.simulated) == (7, True)
    shared.close()
