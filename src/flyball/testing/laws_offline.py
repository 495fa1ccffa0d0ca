"""What every offline engine must hold to, as a class of tests: subclass it and say how to make your engine.

The surprise: nearly all laws end in bytes. Answers are held to the oracle in value and status, and then to themselves:
however files are cut, whatever runs beside, whichever zone a session is in, the same bytes come out.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flyball.errors import InputError, SourceError
from flyball.features.answers import STATUS, answer_rows, row_columns
from flyball.features.offline import history
from flyball.features.ports import IngestLog, OfflineEngine
from flyball.features.reading.files import FIRST_SEQUENCE
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, Join, SourceSpec, Stat, Status, ViewSpec
from flyball.testing.oracle import Row
from flyball.testing.oracle import answer as oracle
from flyball.testing.worlds_offline import HOP, SOURCE, T0, World, newest_view, raw_table, window_view
from flyball.units import to_micros

__all__ = ["OfflineEngineLaws"]

_UTC = pa.timestamp("us", "UTC")
_ONE = EntitySpec("thing", (ColumnSpec("k", "int64"),))
_JOINS: tuple[Join, ...] = ("as_known", "as_corrected")


def _bytes(table: pa.Table) -> bytes:
    """Return a table's content as bytes that do not depend on its chunks or on what lies under a null."""
    table = table.combine_chunks()
    indices = pa.array(np.arange(table.num_rows), mask=np.zeros(table.num_rows, bool))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.take(indices).combine_chunks())
    return bytes(sink.getvalue())


def _plain_source(path: str = "data/*.parquet", **more: Any) -> SourceSpec:
    found: dict[str, Any] = {"created_time": None, "timezone": "UTC", "derive": (), "where": None, "delay": 0} | more
    return SourceSpec("events", path, "at", **found)


def _view(source: SourceSpec, entity: EntitySpec = _ONE, kind: str = "int64") -> ViewSpec:
    return ViewSpec("newest", entity, source, None, (FeatureSpec("n", kind, "n"),))


def _asked(at: Sequence[int], **keys: pa.Array) -> pa.Table:
    return pa.table({**keys, "__at": pa.array(at, pa.int64())})


class OfflineEngineLaws:
    """Run these against an engine.

    Example:
        class TestMyEngine(OfflineEngineLaws):
            def make_engine(self, root, log):
                return MyEngine(root, log)
    """

    seeds: Sequence[int] = (1, 2, 3)
    """Each makes a random world."""
    cases: int = 60
    """Small worlds in each; they are answered in one call."""
    has_pushes: bool = True
    """Whether the engine reads the ingest log."""

    def make_engine(self, root: Path, log: IngestLog) -> OfflineEngine:
        """Return an engine over the files below `root` and the pushed rows of `log`."""
        raise NotImplementedError

    def other_engines(self, root: Path, log: IngestLog) -> Iterable[OfflineEngine]:
        """Return engines that must answer the same: other threads, other zones of the session, other partitions."""
        return ()

    @pytest.fixture
    def log(self, tmp_path: Path) -> IngestLog:
        """An empty ingest log."""
        return _log_of(tmp_path)

    @pytest.fixture
    def engine(self, tmp_path: Path, log: IngestLog) -> OfflineEngine:
        """The engine under test."""
        (tmp_path / "data").mkdir()
        return self.make_engine(tmp_path, log)

    def world(self, seed: int, root: Path, log: IngestLog) -> World:
        """Make a random world and write it."""
        world = World.of_seed(seed, self.cases)
        if not self.has_pushes:
            world.files[0] += [row for _, rows in world.pushes for row in rows]
            world.pushes = []
        world.write(root, log)
        return world

    def write(self, root: Path, **files: pa.Table) -> None:
        """Write tables as data/NAME.parquet."""
        for name, table in files.items():
            pq.write_table(table, root / "data" / f"{name}.parquet")

    # -- the oracle -----------------------------------------------------------------------------------------------

    def test_newest_rows_are_what_the_oracle_says(self, tmp_path: Path) -> None:
        """Show that ties, late, corrected and repeated rows, null keys and ttl to the microsecond end as specified."""
        for seed in self.seeds:
            root = tmp_path / str(seed)
            world = self.world(seed, root, _log_of(root))
            one = self.make_engine(root, _log_of(root))
            for ttl in (None, 48 * HOP, 3):
                for join in _JOINS:
                    _hold_to_oracle(one, world, newest_view(ttl), join)

    def test_windows_are_what_the_oracle_says(self, tmp_path: Path) -> None:
        """Show that every statistic, filters, NaN, infinities, int64 beyond 2**53 and edges end as specified."""
        for seed in self.seeds:
            root = tmp_path / str(seed)
            world = self.world(seed, root, _log_of(root))
            one = self.make_engine(root, _log_of(root))
            for join in _JOINS:
                _hold_to_oracle(one, world, window_view(), join)

    def test_an_engine_is_the_kernel_over_its_rows(self, engine: Any, log: IngestLog, tmp_path: Path) -> None:
        """Show that answers are, byte by byte, those of the kernel over all scanned rows at once."""
        world = self.world(self.seeds[-1] + 1, tmp_path, log)
        asked = world.request_table()
        for view in (newest_view(48 * HOP), window_view()):
            rows = engine.scan(view.source, columns=row_columns(view, view.features))
            want = answer_rows(rows, asked, view, view.features)
            assert _bytes(engine.answer(asked, view, view.features, join="as_known")) == _bytes(want)

    # -- requests -------------------------------------------------------------------------------------------------

    def test_requests_keep_count_order_index_and_duplicates(self, engine: Any, tmp_path: Path) -> None:
        """Show that nothing happens to requests but that columns are added."""
        self.write(tmp_path, a=_numbers(3))
        frame = pd.DataFrame(
            {"k": [2, 0, 9, 2, 1], "T": pd.to_datetime([T0 + 9] * 5, unit="us"), "mine": list("edcba")},
            index=[7, 3, 7, 1, 0],
        )
        from flyball.features.table import to_requests

        found = history(engine, to_requests(frame), [_view(_plain_source())], None, at="T").to_pandas()
        assert found.index.tolist() == [7, 3, 7, 1, 0]
        assert found["mine"].tolist() == list("edcba")
        assert found["n"].tolist() == [2, 0, pd.NA, 2, 1]
        assert str(found["n"].dtype) == "Int64"

    def test_no_request_and_one_request_have_answers(self, engine: Any, tmp_path: Path) -> None:
        """Show that the types of an empty answer are those of a full one."""
        self.write(tmp_path, a=_numbers(3))
        view = _view(_plain_source())
        one = engine.answer(_asked([T0 + 9], k=pa.array([1])), view, view.features, join="as_known")
        none = engine.answer(_asked([], k=pa.array([], pa.int64())), view, view.features, join="as_known")
        assert (one.column("n").to_pylist(), none.num_rows) == ([1], 0)
        assert one.schema.equals(none.schema)

    def test_requests_in_pieces_are_answered_as_at_once(self, engine: Any, log: IngestLog, tmp_path: Path) -> None:
        """Show that `answers` gives, put together, what `answer` gives."""
        world = self.world(self.seeds[0], tmp_path, log)
        view, asked = window_view(), world.request_table()
        whole = engine.answer(asked, view, view.features, join="as_known")
        cuts = [0, 1, asked.num_rows // 2, asked.num_rows]
        pieces = (asked.slice(a, b - a) for a, b in pairwise(cuts))
        told: list[int] = []
        parts = engine.answers(pieces, view, view.features, join="as_known", expected=asked.num_rows, done=told.append)
        assert _bytes(pa.concat_tables(parts)) == _bytes(whole)
        assert sum(told) == asked.num_rows

    def test_a_wrong_key_is_refused_by_name(self, engine: Any, tmp_path: Path) -> None:
        """Show that "1" is no 1."""
        self.write(tmp_path, a=_numbers(3))
        view = _view(_plain_source())
        with pytest.raises(InputError, match="'k'"):
            engine.answer(_asked([T0], k=pa.array(["1"])), view, view.features, join="as_known")

    # -- keys -----------------------------------------------------------------------------------------------------

    def test_keys_that_look_alike_differ(self, engine: Any, tmp_path: Path) -> None:
        """Show that no separator, null sign, normal form or rounding makes two entities one."""
        texts = ["", "a", "a|", "|a", "a|b", "\0", "\0a", "null", "None", "é", "e\u0301", "1", "😀" * 40, "a,b", '"']
        whole = [0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]
        keys = [(a, b, i) for a in texts for b in texts for i in whole]
        n = len(keys)
        a, b, i = (list(c) for c in zip(*keys, strict=True))
        columns = {"a": pa.array(a), "b": pa.array(b), "i": pa.array(i, pa.int64())}
        self.write(tmp_path, a=pa.table({**columns, "at": pa.array([T0] * n).cast(_UTC), "n": pa.array(range(n))}))
        entity = EntitySpec("e", (ColumnSpec("a", "string"), ColumnSpec("b", "string"), ColumnSpec("i", "int64")))
        view = _view(_plain_source(), entity)
        order = np.random.default_rng(3).permutation(n)
        asked = _asked([T0] * n, **columns).take(pa.array(order))
        found = engine.answer(asked, view, view.features, join="as_known")
        assert found.column("n").to_pylist() == order.tolist()

    def test_null_keys_match_nothing(self, engine: Any, tmp_path: Path) -> None:
        """Show that a null key is no entity, in rows and in requests."""
        table = pa.table({"k": pa.array([None, 1], pa.int64()), "at": pa.array([T0, T0]).cast(_UTC), "n": [5, 6]})
        self.write(tmp_path, a=table)
        view = _view(_plain_source())
        asked = _asked([T0, T0], k=pa.array([None, 1], pa.int64()))
        found = engine.answer(asked, view, view.features, join="as_known")
        assert found.column("n").to_pylist() == [None, 6]
        assert found.column(STATUS + "n").to_pylist() == [Status.MISSING, Status.PRESENT]

    # -- values ---------------------------------------------------------------------------------------------------

    def test_null_nan_and_missing_are_three(self, engine: Any, tmp_path: Path) -> None:
        """Show that null is not NaN is not missing, and that int64 and infinities are exact."""
        values = [1.5, None, math.nan, math.inf, -math.inf, -0.0]
        table = pa.table({
            "k": list(range(6)), "at": pa.array([T0] * 6).cast(_UTC), "x": pa.array(values, pa.float64()),
            "n": pa.array([2**53 + 1, None, 2**63 - 1, -(2**63), 0, 1], pa.int64()),
        })  # fmt: skip
        self.write(tmp_path, a=table)
        features = (FeatureSpec("x", "float64", "x"), FeatureSpec("n", "int64", "n"))
        view = ViewSpec("newest", _ONE, _plain_source(), None, features)
        found = engine.answer(_asked([T0] * 7, k=pa.array(range(7))), view, features, join="as_known")
        x = found.column("x").to_pylist()
        assert [x[i] for i in (0, 1, 3, 4, 6)] == [1.5, None, math.inf, -math.inf, None]
        assert math.isnan(x[2]) and math.copysign(1, x[5]) == -1
        assert found.column("n").to_pylist() == [2**53 + 1, None, 2**63 - 1, -(2**63), 0, 1, None]
        assert found.column(STATUS + "x").to_pylist() == [0, 1, 0, 0, 0, 0, 3]

    def test_files_and_pushes_mean_the_same(self, engine: Any, log: IngestLog, tmp_path: Path) -> None:
        """Show that derived columns and filters are equal for a row in a file and the same row pushed."""
        if not self.has_pushes:
            pytest.skip("this engine reads no pushes")
        world = World.of_seed(11, self.cases)
        rows = [row for rows in world.files for row in rows]
        (tmp_path / "other" / "data").mkdir(parents=True)
        self.write(tmp_path, a=raw_table(rows))
        self.write(tmp_path / "other", a=raw_table(rows[:1]))
        log.append_many([("events", rows, 0)])
        steps = (
            ("q", "n // 3"), ("r", "n % 7"), ("f", "n / 2"), ("y", "abs(x) + 1"), ("w", "if(x > 1, n, 0)"),
            ("u", "upper(concat(t, s))"), ("z", "substr(s, 1, 1)"), ("d", "(made - at) / 1s"),
            ("c", "coalesce(n, 0 - 1)"), ("b", "x is null or n in (3, 4)"),
        )  # fmt: skip
        source = _plain_source(created_time="made", derive=steps, where="not (t = 'v' and x < 0)")
        names = [n for n, _ in steps]
        files = self.make_engine(tmp_path, _log_of(tmp_path / "nothing")).scan(source, columns=names)
        pushed = engine.scan(source, columns=names, files=())
        assert _bytes(files.select(names)) == _bytes(pushed.select(names))
        assert files.num_rows < len(rows)

    # -- times ----------------------------------------------------------------------------------------------------

    def test_local_naive_nanosecond_and_text_times_are_one_time(self, engine: Any, tmp_path: Path) -> None:
        """Show that times of every kind are read as Python's zoneinfo reads them."""
        zone = ZoneInfo("Europe/London")
        naive = [
            datetime.fromisoformat(day) + timedelta(minutes=30 * i)
            for day in ("2020-03-29T00:30", "2020-10-25T00:30") for i in range(6)
        ]  # fmt: skip
        naive += [datetime.fromisoformat(t) for t in ("1969-12-31T23:59:59.999999", "1850-01-01", "2090-07-01T12:00")]
        naive = [t for t in naive if t.isoformat()[:13] != "2020-03-29T01"]  # an hour that was none
        want = [to_micros(t.replace(tzinfo=zone).astimezone(UTC)) for t in naive]
        texts = [t.replace(tzinfo=zone).astimezone(timezone(timedelta(hours=i % 5 - 2))).isoformat()
                 for i, t in enumerate(naive)]  # fmt: skip
        exact = pa.array(naive, pa.timestamp("us"))
        kinds: dict[str, pa.Array] = {
            "micro": exact, "milli_free": exact.cast(pa.timestamp("ns")),
            "aware": pa.array(want, pa.int64()).cast(pa.timestamp("us", "America/New_York")), "text": pa.array(texts),
            "aware_ns": pa.array([w * 1000 for w in want], pa.int64()).cast(pa.timestamp("ns", "Asia/Kolkata")),
        }  # fmt: skip
        for name, column in kinds.items():
            folder = tmp_path / "data" / name
            folder.mkdir()
            pq.write_table(
                pa.table({"k": [1] * len(naive), "at": column, "n": range(len(naive))}), folder / "a.parquet"
            )
            schema = (ColumnSpec("k", "int64"), ColumnSpec("at", "timestamp"), ColumnSpec("n", "int64"))
            source = _plain_source(f"data/{name}/*.parquet", timezone="Europe/London", schema=schema)
            found = engine.scan(source, columns=["n"])
            rows = dict(zip(found.column("n").to_pylist(), found.column("__event").to_pylist(), strict=True))
            assert [rows[i] for i in range(len(naive))] == want, name

    # -- scans ----------------------------------------------------------------------------------------------------

    def test_rows_are_numbered_by_file_and_place(self, engine: Any, tmp_path: Path) -> None:
        """Show that sequences follow the files' names and the rows in them, whichever files are asked for."""
        self.write(tmp_path, b=_numbers(3, first=10), a=_numbers(2), c=_numbers(2, first=20))
        source = _plain_source()
        found = engine.scan(source, columns=["n"])
        numbers = dict(zip(found.column("n").to_pylist(), found.column("__sequence").to_pylist(), strict=True))
        places = {0: 0, 1: 1, 10: 1 << 32, 11: (1 << 32) + 1, 12: (1 << 32) + 2, 20: 2 << 32, 21: (2 << 32) + 1}
        assert numbers == {n: FIRST_SEQUENCE + place for n, place in places.items()}
        assert [f.path for f in engine.files(source)] == [f"data/{n}.parquet" for n in "abc"]
        some = engine.scan(source, columns=["n"], files=["data/c.parquet"], published={"data/c.parquet": T0 + 10**9})
        assert some.column("__sequence").to_pylist() == [numbers[20], numbers[21]]
        assert set(some.column("__known").to_pylist()) == {T0 + 10**9}

    def test_a_column_that_came_later_is_null_in_older_files(self, engine: Any, tmp_path: Path) -> None:
        """Show that files of one source may differ in added columns, and in float32 for float64."""
        kind = pa.list_(pa.float32(), 2)
        old = pa.table({"at": pa.array([T0]).cast(_UTC), "n": pa.array([0.5])})
        new = pa.table({
            "v": pa.array([[1.0, 2.0]], kind), "at": pa.array([T0 + 1]).cast(_UTC),
            "n": pa.array([0.1], pa.float32()), "later": pa.array(["x"]),
        })  # fmt: skip
        self.write(tmp_path, a=old, b=new)
        found = engine.scan(_plain_source(derive=(("m", "n * 3"),)), columns=["n", "m", "later", "v"])
        assert found.column("n").to_pylist() == [0.5, float(np.float32(0.1))]
        assert found.column("m").to_pylist() == [1.5, float(np.float32(0.1)) * 3]
        assert found.column("later").to_pylist() == [None, "x"]
        assert found.column("v").to_pylist() == [None, [1.0, 2.0]]

    def test_a_scan_is_cut_by_event_and_batches_are_the_scan(self, engine: Any, log: IngestLog, tmp_path: Path) -> None:
        """Show that start counts, end does not, and that pieces hold the same rows."""
        self.world(self.seeds[0], tmp_path, log)
        start, end = (datetime.fromtimestamp((T0 + s) / 1e6, UTC) for s in (-5 * HOP, 10 * HOP))
        whole = engine.scan(SOURCE, columns=["n", "v"])
        events = whole.column("__event").to_numpy()
        want = whole.filter(pa.array((events >= to_micros(start)) & (events < to_micros(end))))
        assert 0 < want.num_rows < whole.num_rows
        assert _bytes(engine.scan(SOURCE, columns=["n", "v"], start=start, end=end)) == _bytes(want)
        pieces = pa.concat_tables(engine.batches(SOURCE, columns=["n", "v"], start=start, end=end))
        by_number = pieces.sort_by("__sequence")
        assert _bytes(by_number) == _bytes(want.sort_by("__sequence"))

    def test_what_cannot_be_read_is_one_sentence(self, engine: Any, tmp_path: Path) -> None:
        """Show that a missing file, an unknown column and a damaged file are SourceErrors that name it."""
        with pytest.raises(SourceError, match="no file"):
            engine.scan(_plain_source(), columns=[])
        self.write(tmp_path, a=_numbers(3))
        with pytest.raises(SourceError, match="nn"):
            engine.scan(_plain_source(), columns=["nn"])
        whole = (tmp_path / "data" / "a.parquet").read_bytes()
        (tmp_path / "data" / "half.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SourceError, match=r"half\.parquet"):
            engine.scan(_plain_source(), columns=["n"])

    # -- what must change nothing ---------------------------------------------------------------------------------

    def test_the_layout_of_files_changes_no_byte(self, tmp_path: Path, log: IngestLog) -> None:
        """Show that one file, split files, a file listed twice and shuffled rows of distinct times answer alike."""
        world = World.of_seed(self.seeds[-1], self.cases)
        rows = [row for part in world.files for row in part]
        rows = [row | {"made": row["at"] + 1000 + i} for i, row in enumerate(rows)]  # no ties: a row's place is nothing
        mixed = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
        third = len(rows) // 3
        layouts = {
            "one": ([rows], "data/*.parquet"), "split": ([rows[:third], rows[third:-1], rows[-1:]], "data/*.parquet"),
            "twice": ([rows[:third], rows[third:]], "data/part-1.parquet\ndata\ndata/*.parquet"),
            "shuffled": ([mixed[:third], mixed[third:]], "data/*.parquet"),
        }  # fmt: skip
        answers: dict[str, list[bytes]] = {}
        for name, (parts, path) in layouts.items():
            root = tmp_path / name
            World(parts, [], []).write(root, log)
            here = self.make_engine(root, log)
            views = [replace(v, source=replace(SOURCE, path=path)) for v in (newest_view(None), window_view())]
            asked = world.request_table()
            answers[name] = [_bytes(here.answer(asked, v, v.features, join="as_known")) for v in views]
        assert answers["split"] == answers["one"]
        assert answers["twice"] == answers["one"]
        assert answers["shuffled"] == answers["one"]

    def test_threads_sessions_and_zones_change_no_byte(self, engine: Any, log: IngestLog, tmp_path: Path) -> None:
        """Show that how an engine runs, and the machine's time zone, are in no answer."""
        world = self.world(self.seeds[0], tmp_path, log)
        asked, views = world.request_table(), (newest_view(48 * HOP), window_view())

        def answers(one: Any) -> list[bytes]:
            return [_bytes(one.answer(asked, v, v.features, join="as_known")) for v in views]

        want = answers(engine)
        for i, other in enumerate(self.other_engines(tmp_path, log)):
            assert answers(other) == want, i
        with _machine_in("Asia/Kolkata"):
            assert answers(self.make_engine(tmp_path, log)) == want

    def test_others_in_the_bucket_change_no_byte(self, engine: Any, tmp_path: Path) -> None:
        """Show that an entity's float sums do not depend on which entities are read with it."""
        rng = np.random.default_rng(9)
        n = 4000
        table = pa.table({
            "k": rng.integers(0, 40, n), "at": pa.array(T0 + rng.integers(0, 40 * HOP, n)).cast(_UTC),
            "n": pa.array(rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, n)),
        })  # fmt: skip
        self.write(tmp_path, a=table)
        features = tuple(
            FeatureSpec(s.value, "float64", "n", s, 48 * HOP, HOP) for s in (Stat.SUM, Stat.MEAN, Stat.VAR)
        )
        view = ViewSpec("w", _ONE, _plain_source(), None, features)
        asked = _asked([T0 + 41 * HOP] * 40, k=pa.array(range(40)))
        whole = engine.answer(asked, view, features, join="as_known")
        alone = table.filter(pa.array(np.isin(table["k"].to_numpy(), [7])))
        self.write(tmp_path, a=alone)
        mine = self.make_engine(tmp_path, _log_of(tmp_path)).answer(asked.slice(7, 1), view, features, join="as_known")
        assert _bytes(mine) == _bytes(whole.slice(7, 1))


def _numbers(n: int, *, first: int = 0) -> pa.Table:
    """Rows of n entities: k and n count from `first`, event times too."""
    count = list(range(first, first + n))
    return pa.table({"k": count, "at": pa.array([T0 + c - first for c in count]).cast(_UTC), "n": count})


def _log_of(root: Path) -> IngestLog:
    from flyball.adapters.ingest_files import FileIngestLog

    return FileIngestLog(root / "ingest")


@contextmanager
def _machine_in(zone: str) -> Iterator[None]:
    """Set the machine's time zone for a while."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def _hold_to_oracle(engine: OfflineEngine, world: World, view: ViewSpec, join: Join) -> None:
    found = engine.answer(world.request_table(), view, view.features, join=join)
    assert found.num_rows == len(world.requests)
    by_case: dict[Any, list[Row]] = {}
    for row in world.rows():
        by_case.setdefault(row.key[0], []).append(row)
    for feature in view.features:
        values, statuses = found.column(feature.name).to_pylist(), found.column(STATUS + feature.name).to_pylist()
        for i, (key, at) in enumerate(world.requests):
            rows = by_case.get(key[0], [])
            want, status = oracle(rows, view, feature, key, at, join=join)
            where = f"{view.name}:{feature.name} of {key} at {at} {join}: {values[i]!r}, wanted {want!r}"
            assert Status(statuses[i]) is status, where
            assert _agrees(values[i], want, feature, rows), where


def _agrees(found: Any, want: Any, feature: FeatureSpec, rows: Sequence[Row]) -> bool:
    """Whether they are equal; sums of floats may differ by 1e-12 of the largest value that went in, per row."""
    if isinstance(want, float) and isinstance(found, float) and math.isnan(want):
        return math.isnan(found)
    if isinstance(want, list) and isinstance(found, list):
        return bool(np.allclose(found, want, rtol=1e-6, atol=0))
    if feature.stat not in {Stat.SUM, Stat.MEAN, Stat.STD, Stat.VAR} or not isinstance(want, float):
        return bool(found == want and type(found) is type(want))
    if not isinstance(found, float) or math.isinf(want) or math.isinf(found):
        return bool(found == want)
    numbers = [abs(v) for r in rows if isinstance(v := r.values.get(feature.of or ""), float) and math.isfinite(v)]
    scale = max([1.0, *numbers])
    return abs(found - want) <= 1e-12 * max(1, len(rows)) * (scale**2 if feature.stat is Stat.VAR else scale)
