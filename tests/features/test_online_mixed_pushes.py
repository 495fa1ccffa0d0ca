"""A pushed row means the same whatever types the rows before, beside and after it were sent with."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import ManualClock
from flyball.errors import BadRequest, InputError
from flyball.features import definitions as fb
from flyball.features.ingest import Ingest
from flyball.features.lookup import lookup
from flyball.features.offline import history

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
MICROS = int(NOW.timestamp()) * 1_000_000
WAYS: dict[str, list[Any]] = {
    "at": [MICROS, NOW.isoformat(), NOW, "2024-06-01T14:00:00", datetime(2024, 6, 1, 14)],
    "when": [MICROS, "2024-06-01T12:00:00Z", "2024-06-01T14:00", -1, None],
    "x": [1, 1.5, 2**53 + 1, None],
    "raw": [b"\x01\xff", "Af8=", None],
    "money": [1, 1.25, "1.25", Decimal("9007199254740993"), 9007199254740993, None],
    "day": ["2024-06-01", date(2024, 6, 1), None],
    "parts": [[1], [1.5, None], [], None],
    "place": [[1, 2], [0.5, 1], None],
}


def world(folder: Path, *, strict: bool = False) -> tuple[Ingest, LMDBStore, list[Any], DuckDBEngine]:
    source = fb.PushSource(
        "events", event_time="at", timezone="Europe/Berlin", strict=strict,
        schema={"k": int, "x": float, "raw": bytes, "money": fb.Decimal(18, 2), "day": date, "when": datetime,
                "parts": fb.List(float), "place": fb.Vector(2)},
    )  # fmt: skip
    thing = fb.Entity("thing", keys={"k": int})
    columns = {c.name: c.type for c in source.spec.schema if c.name not in {"k", "at"}}
    newest = fb.FeatureView(
        "newest", entity=thing, source=source, features=[fb.Feature(n, k) for n, k in columns.items()]
    )
    window = fb.FeatureView("window", entity=thing, source=source,
                            features=[fb.count("n", window="1h"), fb.sum("total", of="x", window="1h")])  # fmt: skip
    views = [newest.spec, window.spec]
    store, log = LMDBStore(folder / "online", 1_000_000), FileIngestLog(folder / "log", rotate_bytes=600)
    ingest = Ingest(store, log, views, clock=ManualClock(NOW), root=folder)
    return ingest, store, views, DuckDBEngine(folder, FileIngestLog(folder / "log"))


def both(store: LMDBStore, views: list[Any], engine: DuckDBEngine, keys: int) -> tuple[str, str]:
    online = lookup(store, [{"k": k} for k in range(keys)], views, None, MICROS)
    asked = pa.table({"k": list(range(keys)), "T": pa.array([MICROS] * keys).cast(pa.timestamp("us", "UTC"))})
    table = history(engine, asked, views, None, at="T").to_arrow().select(list(online.names))
    return plain(online.to_dicts()), plain(table.to_pylist())


def plain(rows: list[dict[str, Any]]) -> str:
    """The rows as text, arrays as lists and times in UTC."""
    shown = [
        {n: v.tolist() if hasattr(v, "tolist") else v.astimezone(UTC).isoformat() if isinstance(v, datetime) else v
         for n, v in row.items()} for row in rows
    ]  # fmt: skip
    return "\n".join(map(str, shown))


def rows_of_all_types() -> list[dict[str, Any]]:
    """Rows in which each column takes its values in every type."""
    longest = max(map(len, WAYS.values()))
    filled = {name: list(itertools.islice(itertools.cycle(values), longest)) for name, values in WAYS.items()}
    return [{"k": k, **{name: values[k] for name, values in filled.items()}} for k in range(longest)]


@pytest.mark.parametrize("together", [True, False], ids=["in one push", "in one push each"])
def test_rows_sent_with_other_types_are_all_taken_and_read_the_same(tmp_path: Path, together: bool) -> None:
    ingest, store, views, engine = world(tmp_path)
    rows = rows_of_all_types()
    for some in [rows] if together else [[row] for row in rows]:
        result = ingest.push("events", some)
        assert (result.accepted, result.rejected) == (len(some), 0)
    online, offline = both(store, views, engine, len(rows))
    assert online == offline
    assert online.count("'n': 1") == len(rows)
    ingest.compact()
    ingest.push("events", [{**rows[1], "k": 99}])
    assert both(store, views, DuckDBEngine(tmp_path, FileIngestLog(tmp_path / "log")), len(rows))[1] == online
    ingest.close()
    store.close()
    again, other, *_ = world(tmp_path / ".." / tmp_path.name)
    assert both(other, views, engine, len(rows))[0] == online
    again.close()
    other.close()


def test_a_row_alone_and_among_others_is_the_same(tmp_path: Path) -> None:
    rows = rows_of_all_types()
    found = []
    for name, pushes in {"one": [rows], "each": [[row] for row in rows]}.items():
        ingest, store, views, engine = world(tmp_path / name)
        for some in pushes:
            ingest.push("events", some)
        found.append(both(store, views, engine, len(rows)))
        ingest.close()
        store.close()
    assert found[0] == found[1]
    assert "Decimal('9007199254740993.00')" in found[0][0]
    assert "b'\\x01\\xff'" in found[0][0]


def test_a_strict_source_takes_ints_beside_texts_with_an_offset(tmp_path: Path) -> None:
    ingest, store, views, engine = world(tmp_path, strict=True)
    for k, at in enumerate([MICROS, NOW.isoformat(), NOW]):
        row = {"k": k, "x": 1.0, "raw": None, "money": 1, "day": None, "when": at, "parts": None, "place": None}
        ingest.push("events", [{**row, "at": at}])
    online, offline = both(store, views, engine, 3)
    assert online == offline
    assert online.count("'n': 1") == 3
    ingest.close()
    store.close()


def test_a_column_whose_name_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    ingest, store, *_ = world(tmp_path)
    with pytest.raises((BadRequest, InputError), match="has no column"):
        ingest.push("events", [{1: 2, "k": 1}])  # type: ignore[dict-item]
    ingest.close()
    store.close()
