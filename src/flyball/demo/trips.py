"""The demo's trips as the simulator needs them: who picks up when, who drops off when, what the caller sends.

Times are int microseconds UTC. Local New York times are read by the same rules as the source's (a missing local hour
moves forward), so a trip of the simulator and its row in the feature store are the same trip.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flyball.units import to_micros

__all__ = ["NEW_YORK", "Trips", "data_file", "local_midnight", "read", "write_history"]

NEW_YORK = ZoneInfo("America/New_York")
_PATH = "data/green_trips.parquet"


@dataclass(frozen=True, slots=True)
class Trips:
    """Trips to replay, sorted by pickup; shape (n,) each.

    `accepted` says which the source's `where` keeps: only those are asked for and scored, all are pushed at drop-off.
    `raw` are the rows as a meter would send them (local times without a zone).
    """

    pickup: np.ndarray
    dropoff: np.ndarray
    minutes: np.ndarray
    accepted: np.ndarray
    day: np.ndarray  # local day of pickup, datetime64[D]
    raw: list[dict[str, Any]]


def data_file() -> Path:
    """Return the packaged Parquet file."""
    return Path(str(resources.files("flyball.demo") / _PATH))


def local_midnight(day: date) -> datetime:
    """Return the UTC instant at which a day begins in New York."""
    return datetime.combine(day, time(), tzinfo=NEW_YORK)


def write_history(target: Path, until: date) -> int:
    """Write the raw rows dropped off before `until` as one Parquet file; return how many."""
    table = pq.read_table(data_file())
    limit = pa.scalar(datetime.combine(until, time()), type=table.schema.field("dropoff_at").type)
    table = table.filter(pc.less(table.column("dropoff_at"), limit))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target, compression="zstd")
    return int(table.num_rows)


def read(first: date, end: date, *, shift: timedelta = timedelta(0)) -> Trips:
    """Read the trips picked up on local days [first, end), moved by whole days of local time."""
    table = pq.read_table(data_file())
    local = table.column("pickup_at").to_numpy().astype("datetime64[us]")
    mask = (local >= np.datetime64(first, "us")) & (local < np.datetime64(end, "us"))
    table = table.filter(pa.array(mask))
    table = table.take(np.argsort(_utc(table.column("pickup_at").to_numpy().astype("datetime64[us]")), kind="stable"))
    moved = np.timedelta64(shift, "us")
    pickup_local = table.column("pickup_at").to_numpy().astype("datetime64[us]") + moved
    dropoff_local = table.column("dropoff_at").to_numpy().astype("datetime64[us]") + moved
    minutes = (_utc(dropoff_local) - _utc(pickup_local)) / 60e6
    miles = table.column("distance_miles").to_numpy()
    return Trips(
        pickup=_utc(pickup_local),
        dropoff=_utc(dropoff_local),
        minutes=minutes,
        accepted=(minutes >= 1) & (minutes <= 60) & (miles > 0) & (miles <= 50),
        day=pickup_local.astype("datetime64[D]"),
        raw=_rows(table, pickup_local, dropoff_local),
    )


def _utc(local: np.ndarray) -> np.ndarray:
    """Turn local New York microseconds into UTC by the two offsets of the stretch."""
    change = np.datetime64("2020-03-08T03:00", "us")  # 02:30 does not exist and counts as 03:30
    hours = np.where(local < change, 5, 4)
    found: np.ndarray = local.astype(np.int64) + hours * 3_600_000_000
    return found


def _rows(table: pa.Table, pickup: np.ndarray, dropoff: np.ndarray) -> list[dict[str, Any]]:
    texts = (np.datetime_as_string(column, unit="s").tolist() for column in (pickup, dropoff))
    zones = (table.column(name).to_pylist() for name in ("pickup_zone", "dropoff_zone"))
    miles = table.column("distance_miles").to_pylist()
    names = [sys.intern(n) for n in ("pickup_at", "dropoff_at", "pickup_zone", "dropoff_zone", "distance_miles")]
    return [dict(zip(names, row, strict=True)) for row in zip(*texts, *zones, miles, strict=True)]


def first_tick(day: date) -> int:
    """Return a day's first microsecond, UTC."""
    return to_micros(local_midnight(day))
