"""Every column type on its way through the store: pushed, kept, looked up, and the same in history."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import ManualClock
from flyball.errors import BadRequest, InputError
from flyball.features.ingest import Ingest
from flyball.features.lookup import Vectors, lookup
from flyball.features.offline import history
from flyball.features.spec import Status, ViewSpec

AT = 1_600_000_000_000_000
HOUR = 3_600_000_000
TYPES: dict[str, Any] = {
    "whole": int, "real": float, "short": "float32", "flag": bool, "word": str, "blob": bytes, "moment": datetime,
    "day": date, "price": fb.Decimal(18, 2), "fine": fb.Decimal(38, 9), "tags": fb.List(str), "embedding": fb.Vector(3),
}  # fmt: skip
ROW: dict[str, Any] = {
    "whole": 2**62 + 1, "real": 0.1, "short": 0.5, "flag": False, "word": "föhn\0", "blob": "AP8=",
    "moment": "2020-03-01T12:00:00+02:00", "day": "2020-02-29", "price": "12345678901234.56",
    "fine": "12345678901234567890.123456789", "tags": ["a", None, "b"], "embedding": [0.25, -1.0, 3.0],
}  # fmt: skip
EXACT: dict[str, Any] = ROW | {
    "blob": b"\x00\xff", "moment": datetime(2020, 3, 1, 10, tzinfo=UTC), "day": date(2020, 2, 29),
    "price": Decimal("12345678901234.56"), "fine": Decimal("12345678901234567890.123456789"),
}  # fmt: skip


class Shop:
    """One row view of every type, keyed by every type of key."""

    def __init__(self, folder: Path, keys: dict[str, Any] | None = None) -> None:
        keys = keys or {"user": int}
        source = fb.PushSource("things", schema=keys | TYPES | {"at": datetime}, event_time="at")
        features = [fb.Feature(name, dtype) for name, dtype in TYPES.items()]
        self.view: ViewSpec = fb.FeatureView(
            "v", entity=fb.Entity("e", keys=keys), source=source, features=features
        ).spec
        self.store = LMDBStore(folder / "online")
        self.log = FileIngestLog(folder / "log")
        clock = ManualClock(datetime.fromtimestamp(AT / 1e6, UTC))
        self.ingest = Ingest(self.store, self.log, [self.view], clock=clock, root=folder)
        self.engine = DuckDBEngine(folder, FileIngestLog(folder / "log"))

    def push(self, *rows: dict[str, Any]) -> None:
        self.ingest.push("things", [{"at": AT} | row for row in rows], AT)

    def online(self, *rows: dict[str, Any]) -> Vectors:
        return lookup(self.store, rows, [self.view], None, AT + HOUR)

    def close(self) -> None:
        self.ingest.close()
        self.store.close()


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_every_type_is_looked_up_exactly(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.push({"user": 1} | ROW, {"user": 2} | dict.fromkeys(TYPES))
    found = shop.online({"user": 1}, {"user": 2}, {"user": 3})
    full, empty, absent = found.to_dicts()
    assert {n: plain(v) for n, v in full.items()} == EXACT
    assert {n: type(v) for n, v in full.items() if n != "embedding"} == {
        n: type(v) for n, v in EXACT.items() if n != "embedding"
    }
    assert full["embedding"].dtype == np.float32  # type: ignore[union-attr]
    assert set(empty.values()) == set(absent.values()) == {None}
    assert [set(s.values()) for s in found.status()] == [{Status.PRESENT}, {Status.NULL}, {Status.MISSING}]
    matrix = found.matrix
    assert matrix.shape == (3, len(TYPES) + 2)
    np.testing.assert_array_equal(matrix[0, -3:], [0.25, -1.0, 3.0])
    assert matrix[0, 8] == float(EXACT["price"])
    shop.close()


def test_history_says_the_same_of_every_type(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.push({"user": 1} | ROW, {"user": 2} | dict.fromkeys(TYPES))
    requests = pa.table({"user": [1, 2, 3], "T": pa.array([AT + HOUR] * 3).cast(pa.timestamp("us", "UTC"))})
    table = history(shop.engine, requests, [shop.view], None, at="T")
    found = shop.online({"user": 1}, {"user": 2}, {"user": 3})
    rows = table.to_arrow().select(list(table.names)).to_pylist()
    assert [{n: plain(v) for n, v in row.items()} for row in found.to_dicts()] == rows
    assert {n: table.status(n).tolist() for n in table.names} == dict(
        zip(found.names, found.codes.T.tolist(), strict=True)
    )
    shop.close()


KEYS: dict[str, tuple[Any, Any, Any]] = {  # type, as pushed in JSON, as asked in Python
    "flag": (bool, True, True), "blob": (bytes, "AP8=", b"\x00\xff"), "day": (date, "2020-02-29", date(2020, 2, 29)),
    "moment": (datetime, "2020-03-01T12:00:00+02:00", datetime(2020, 3, 1, 10, tzinfo=UTC)), "word": (str, "a\0b", "a\0b"),
    "whole": (int, -(2**63), -(2**63)),
}  # fmt: skip


@pytest.mark.parametrize("names", [("flag",), ("blob",), ("day",), ("moment",), ("word", "whole"), tuple(KEYS)])
def test_keys_of_every_type_find_their_row(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = fb.PushSource(
        "s", schema={f"k_{n}": KEYS[n][0] for n in names} | {"v": int, "at": datetime}, event_time="at"
    )
    entity = fb.Entity("e", keys={f"k_{n}": KEYS[n][0] for n in names})
    view = fb.FeatureView("v", entity=entity, source=source, features=[fb.Feature("v", int)]).spec
    store, log = LMDBStore(tmp_path / "online"), FileIngestLog(tmp_path / "log")
    ingest = Ingest(store, log, [view], clock=ManualClock(datetime(2020, 1, 1, tzinfo=UTC)), root=tmp_path)
    ingest.push("s", [{f"k_{n}": KEYS[n][1] for n in names} | {"v": 7, "at": AT}], AT)
    asked = {f"k_{n}": KEYS[n][2] for n in names}
    assert lookup(store, [asked], [view], None, AT).to_dicts() == [{"v": 7}]
    requests = pa.table({**{n: [v] for n, v in asked.items()}, "T": pa.array([AT]).cast(pa.timestamp("us", "UTC"))})
    engine = DuckDBEngine(tmp_path, FileIngestLog(tmp_path / "log"))
    assert history(engine, requests, [view], None, at="T").to_arrow()["v"].to_pylist() == [7]
    ingest.close()
    store.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("embedding", [1.0]), ("embedding", "x"), ("price", "1.234"), ("whole", 2**63), ("day", "2020-13-01"), ("blob", "?"),
     ("tags", "a"), ("flag", 1)],
)  # fmt: skip
def test_a_pushed_value_that_does_not_fit_is_refused_and_nothing_taken(tmp_path: Path, name: str, value: Any) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(InputError, match=name):
        shop.push({"user": 1} | ROW, {"user": 1} | ROW | {name: value})
    assert shop.log.last() == 0
    shop.close()


def test_wrong_requests_say_what_is_needed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for rows, says in (
        ([{"user": "1"}], "declared as an integer"),
        ([{}], "misses 'user'"),
        ([{"user": True}], "integer"),
    ):
        with pytest.raises(BadRequest, match=says):
            shop.online(*rows)
    assert shop.online({"user": None}).status()[0]["word"] == Status.MISSING
    assert len(shop.online()) == 0
    shop.close()
