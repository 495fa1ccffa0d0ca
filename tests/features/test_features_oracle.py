"""The specification itself: conditions on nulls, distinct times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from flyball.features import definitions as fb
from flyball.testing.oracle import Row, answer

ROWS: list[dict[str, Any]] = [
    {"x": None, "t": None, "ts": datetime(2024, 1, 1, tzinfo=UTC)}, {"x": 1.0, "t": "a", "ts": None},
    {"x": None, "t": "a", "ts": datetime(2024, 1, 1, tzinfo=UTC)},
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "count"),
    [("x is null", 2), ("x is null and t = 'a'", 1), ("not (x > 5)", 1), ("t = 'a' or x is null", 3)],
)
def test_conditions_may_ask_for_null(where: str, count: int) -> None:
    view = fb.FeatureView(
        "v", entity=fb.Entity("e", keys={"k": int}), source=fb.ParquetSource("s", "*.parquet", event_time="at"),
        features=[fb.count("n", window="1h", where=where), fb.distinct("d", of="ts", window="1h")],
    ).spec  # fmt: skip
    rows = [Row((1,), k, k, k, k, values) for k, values in enumerate(ROWS, 1)]
    assert [answer(rows, view, f, (1,), 10)[0] for f in view.features] == [count, 1]
