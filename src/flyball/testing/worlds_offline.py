"""Random worlds for the laws of offline engines: raw rows as a project has them, and what the oracle makes of them.

The surprise: a world is many small worlds in one source, told apart by a first key `case`, so that one call to an
engine, which may take a second, answers hundreds of cases.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flyball.features.ports import IngestLog
from flyball.features.reading.files import FIRST_SEQUENCE
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec
from flyball.testing.oracle import Row

__all__ = ["ENTITY", "HOP", "SOURCE", "T0", "World", "newest_view", "raw_table", "window_view"]

HOP = 1_000_000
T0 = 1_583_000_000_000_000 // HOP * HOP
DELAY = 7
WINDOW = 48 * HOP
SOURCE = SourceSpec(
    "events", "data/*.parquet", "at", "made", "UTC",
    (("half", "n // 2"), ("double", "x * 2")), "keep <> 'no'", DELAY,
)  # fmt: skip
ENTITY = EntitySpec("thing", (ColumnSpec("case", "int64"), ColumnSpec("k", "int64"), ColumnSpec("s", "string")))
_TEXTS = ["a", "b", "", "\0", "a|b", "é", "e\u0301", "null"]
_X = [0.0, -0.0, 1.5, -2.0, 1e9 + 0.25, 0.1, math.nan, math.inf, -math.inf, None]
_N = [0, 3, 4, -1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), None]
_TYPES = {"case": pa.int64(), "k": pa.int64(), "s": pa.string(), "at": pa.timestamp("us", "UTC"),
          "made": pa.timestamp("us", "UTC"), "x": pa.float64(), "n": pa.int64(), "t": pa.string(),
          "v": pa.list_(pa.float32(), 3), "keep": pa.string()}  # fmt: skip


def newest_view(ttl: int | None) -> ViewSpec:
    """Return a view of newest rows."""
    return ViewSpec(
        "newest", ENTITY, SOURCE, ttl,
        (FeatureSpec("n", "int64", "n"), FeatureSpec("x", "float64", "x"), FeatureSpec("half", "int64", "half"),
         FeatureSpec("t", "string", "t", default="none"), FeatureSpec("v", "vector<3>", "v"),
         FeatureSpec("double", "float64", "double")),
    )  # fmt: skip


def window_view() -> ViewSpec:
    """Return a view with every statistic, with filters, on floats, whole numbers, texts and vectors."""
    short, long = WINDOW, 5 * WINDOW

    def of(name: str, stat: Stat, column: str | None, window: int, kind: str = "float64", **more: Any) -> FeatureSpec:
        return FeatureSpec(name, kind, column, stat, window, HOP if window == short else 5 * HOP, **more)

    return ViewSpec("windows", ENTITY, SOURCE, None, (
        of("rows", Stat.COUNT, None, short, "int64"), of("rows_long", Stat.COUNT, None, long, "int64"),
        of("some", Stat.COUNT, "x", short, "int64"), of("big", Stat.COUNT, "x", long, "int64", where="n > 3"),
        of("sum", Stat.SUM, "x", short), of("mean", Stat.MEAN, "x", long), of("std", Stat.STD, "x", long),
        of("var", Stat.VAR, "x", short, where="n > 3"), of("min", Stat.MIN, "x", short), of("max", Stat.MAX, "x", long),
        of("isum", Stat.SUM, "n", long, "int64"), of("imin", Stat.MIN, "n", short, "int64"),
        of("imax", Stat.MAX, "n", long, "int64", default=-1), of("first", Stat.FIRST, "x", short),
        of("ilast", Stat.LAST, "n", long, "int64", where="t = 'u'"), of("ifirst", Stat.FIRST, "n", short, "int64"),
        of("texts", Stat.DISTINCT, "t", short, "int64"), of("xs", Stat.DISTINCT, "x", long, "int64"),
        of("median", Stat.QUANTILE, "x", long, q=0.5), of("p90", Stat.QUANTILE, "double", short, q=0.9),
        of("vector", Stat.MEAN, "v", long, "vector<3>"),
    ))  # fmt: skip


def raw_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return raw rows as a file holds them; times are µs."""
    columns = {}
    for name, kind in _TYPES.items():
        values = [row[name] for row in rows]
        columns[name] = (
            pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)
        )
    return pa.table(columns)


@dataclass
class World:
    """Raw rows in files and pushes, the accepted ones as the oracle takes them, and requests."""

    files: list[list[dict[str, Any]]]
    pushes: list[tuple[int, list[dict[str, Any]]]]  # arrival, rows
    requests: list[tuple[tuple[Any, ...], int]]

    @classmethod
    def of_seed(cls, seed: int, cases: int) -> World:
        """Make a world: ties, late, corrected, delivered twice, null keys, NaN, infinities, extremes, edges."""
        rng = random.Random(seed)
        world = cls([[], [], []], [], [])
        for case in range(cases):
            world._add_case(rng, case)
        rng.shuffle(world.requests)
        return world

    def _add_case(self, rng: random.Random, case: int) -> None:
        made: list[dict[str, Any]] = []
        keys: list[tuple[Any, ...]] = [(case, rng.choice([1, 2, 2**53 + 1]), rng.choice(_TEXTS)) for _ in range(2)]
        for _ in range(rng.choice([0, 1, 2, 8, 20])):
            key = rng.choice([*keys, *keys, (case, None, "a"), (case, 1, None)])
            event = T0 + rng.choice(
                [rng.randint(-60, 60) * HOP, rng.randint(-3, 3), rng.choice([-WINDOW, WINDOW, HOP])]
            )
            lag = rng.choice([None, 0, 0, -5, 3, HOP, 30 * HOP, 200 * HOP])
            row: dict[str, Any] = {
                "case": key[0], "k": key[1], "s": key[2], "at": event, "made": None if lag is None else event + lag,
                "x": rng.choice(_X), "n": rng.choice(_N),
                "t": rng.choice(["u", "v", None]), "keep": rng.choice(["yes", "yes", "yes", "yes", "no", None]),
                "v": rng.choice([None, [float(rng.randint(-8, 8)) for _ in range(3)]]),
            }  # fmt: skip
            made += [row] * rng.choice([1, 1, 1, 2])  # delivered twice: both count
        for row in made:
            if rng.random() < 0.25:
                self.pushes.append((row["at"] + rng.choice([0, 1, HOP, 90 * HOP]), [row]))
            else:
                rng.choice(self.files).append(row)
        edges = [0, 1, -1, WINDOW, WINDOW + 1, WINDOW - 1, 5 * WINDOW, HOP, 3, 4]
        for _ in range(rng.choice([1, 4, 8])):
            base = rng.choice(made)["at"] if made else T0
            key = rng.choice([*keys, *keys, *keys, (case, None, "a"), (case, 1, None), (case, 7, "z"), (None, 1, "a")])
            request = (key, base + rng.choice([*edges, rng.randint(-60, 300) * HOP, DELAY, DELAY - 1]))
            self.requests += [request] * rng.choice([1, 1, 2])

    def write(self, root: Path, log: IngestLog) -> None:
        """Put files and pushes where an engine finds them."""
        (root / "data").mkdir(parents=True, exist_ok=True)
        for i, rows in enumerate(self.files):
            pq.write_table(raw_table(rows), root / "data" / f"part-{i}.parquet", row_group_size=50)
        log.append_many([("events", rows, arrival) for arrival, rows in self.pushes])

    def rows(self) -> list[Row]:
        """Return the accepted rows, spelled out anew for the oracle."""
        numbered: list[tuple[int, dict[str, Any], int | None]] = [
            (FIRST_SEQUENCE + (i << 32) + j, row, None)
            for i, rows in enumerate(self.files)
            for j, row in enumerate(rows)
        ]
        pushed = [(row, arrival) for arrival, rows in self.pushes for row in rows]
        numbered += [(i, row, arrival) for i, (row, arrival) in enumerate(pushed, 1)]
        return [_accepted(n, row, arrival) for n, row, arrival in numbered if row["keep"] not in {None, "no"}]

    def request_table(self) -> pa.Table:
        """Return the requests' keys and `__at`."""
        columns = list(zip(*(key for key, _ in self.requests), strict=True))
        kinds = (pa.int64(), pa.int64(), pa.string())
        arrays = [pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
        return pa.table([*arrays, pa.array([at for _, at in self.requests], pa.int64())], ["case", "k", "s", "__at"])


def _accepted(sequence: int, row: dict[str, Any], arrival: int | None) -> Row:
    created = row["at"] if row["made"] is None else row["made"]
    known = max(row["at"], created) if arrival is None else max(row["at"], created, arrival)
    if row["made"] is None and arrival is None:
        known = row["at"] + DELAY
    n, x = row["n"], row["x"]
    derived = {
        "half": None if n is None else abs(n) // 2 * (1 if n > 0 else -1),
        "double": None if x is None else x * 2,
    }
    return Row((row["case"], row["k"], row["s"]), row["at"], created, known, sequence, {**row, **derived})
