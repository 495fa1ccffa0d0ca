"""The shipper's turns: what is old, expired or over budget goes once it was shipped, and only what nobody needs."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

import pytest

from flyball.adapters.local.segments import Needed, read_shipped, segments_of, write_needed
from flyball.adapters.log_files import LogShipper, ShippedFiles
from flyball.disk import write_atomically
from flyball.layout import Layout
from flyball.node.shipper import Shipper
from flyball.records.segment import SegmentWriter
from flyball.records.types import Prediction, encode
from flyball.rollout.routing import ModelRoute, RoutingTable, ServingSpec, VersionRef
from flyball.settings import LogSettings

NOW = time.time_ns() // 1000
DAY = 86_400_000_000


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, tmp_path / ".flyball")


def write(layout, times, *, model="eta"):
    writer = SegmentWriter(layout.log / "w0", rotate_bytes=1)
    for k, at in enumerate(times):
        writer.append(encode([Prediction(f"p{k}", model, "v1", "champion", 1, "u", at, {}, [], b"", 1.0)]))
    writer.close()


def turn(layout, *, now=NOW, **settings):
    files = ShippedFiles(str(layout.shipped))
    shipper = LogShipper(layout.log, files)
    try:
        Shipper(layout, LogSettings(**settings), shipper=shipper, local=True).turn(now)
    finally:
        shipper.close()


def test_a_shipped_segment_stays_until_it_is_old_and_nobody_needs_it(layout):
    write(layout, [NOW] * 3)
    turn(layout)
    assert len(segments_of(layout.log)) == 3  # control never said what is needed
    write_needed(layout.log, Needed(NOW + 10 * DAY))
    turn(layout, keep_segments=timedelta(days=1))
    assert len(segments_of(layout.log)) == 3  # too young
    write_needed(layout.log, Needed(0))
    turn(layout, now=NOW + 5 * DAY, keep_segments=timedelta(days=1))
    assert len(segments_of(layout.log)) == 3  # a rollout reads them
    write_needed(layout.log, Needed(NOW + 10 * DAY))
    turn(layout, now=NOW + 5 * DAY, keep_segments=timedelta(days=1))
    assert len(segments_of(layout.log)) == 1  # the open one


def test_predictions_of_a_model_are_kept_as_long_as_it_says(layout):
    write(layout, [NOW - 9 * DAY, NOW, NOW])
    ref = VersionRef("v1", "p", "d", True)
    table = RoutingTable(1, 1, 0, {"eta": ModelRoute("eta", "s", ref, serving=ServingSpec(retention=7 * 86400.0))})
    write_atomically(layout.table(1), table.to_json())
    turn(layout)
    parts = [p for ps in read_shipped(layout.log).segments.values() for p in ps]
    assert [p.until for p in parts] == [NOW]
    assert len(list(layout.shipped.rglob("*.parquet"))) == 1


def test_a_budget_that_cannot_be_held_is_measured(layout):
    write(layout, [NOW] * 3)
    write_needed(layout.log, Needed(0))
    turn(layout, budget=10)
    text = (layout.state / "shipper.prom").read_text()
    assert len(segments_of(layout.log)) == 3
    assert "flyball_log_over_budget_bytes 0\n" not in text
    write_needed(layout.log, Needed(NOW + 10 * DAY))
    turn(layout, budget=10)
    assert (len(segments_of(layout.log)), list(layout.shipped.rglob("*.parquet"))) == (1, [])


def test_one_turn_runs_from_the_command_line(layout):
    (layout.root / "flyball.toml").write_text('[project]\nname = "small"\n')
    write(layout, [NOW] * 3)
    command = [sys.executable, "-m", "flyball.node.shipper", "--once", "--project", str(layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count('"segment shipped"')) == (0, 2), done.stderr
    assert len(read_shipped(layout.log).segments) == 2
