"""Values made whole at once are the bytes that merging into nothing gives."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from flyball.features import definitions as fb
from flyball.features.bulk import key_order
from flyball.features.cells import WindowLayout, merge_windows
from flyball.features.cells.whole import whole_values
from flyball.features.packing import Rows, read_rows

HOUR = 3_600_000_000
SOURCE = fb.PushSource(
    "s", event_time="at", schema={"user": int, "at": datetime, "x": float, "i": int, "t": str}
)  # fmt: skip
MAKERS = [
    lambda: [fb.count("n", window="1h"), fb.sum("s", of="x", window="2h"), fb.mean("m", of="x", window="1d")],
    lambda: [fb.sum("s", of="i", window="1h", dtype=int), fb.max("hi", of="i", window="6h", dtype=int)],
    lambda: [fb.first("f", of="x", window="3h"), fb.last("l", of="i", window="3h", dtype=int)],
    lambda: [fb.std("d", of="x", window="5h"), fb.distinct("u", of="t", window="6h"), fb.count("c", of="x", window="5h")],
    lambda: [fb.count("n", window="1h", where="x > 0"), fb.quantile("q", of="x", q=0.5, window="6h")],
]  # fmt: skip


def world(rng: np.random.Generator, n: int, users: int, spread: int) -> pa.Table:
    """Rows by event time; some known late, some after now."""
    event = np.sort(rng.integers(0, spread, n)) + 10**15
    known = event + rng.choice([0, 0, HOUR, spread], n)
    x = rng.normal(size=n) * 10.0 ** rng.integers(-3, 12, n)
    return pa.table(
        {
            "user": rng.integers(0, users, n), "x": pa.array(x, mask=rng.random(n) < 0.2),
            "i": pa.array(rng.integers(-(2**60), 2**60, n), mask=rng.random(n) < 0.2),
            "t": [f"t{v}" for v in rng.integers(0, 9, n)], "__event": event, "__created": event,
            "__known": known, "__sequence": rng.permutation(n) + 1,
        }
    )  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(6))
def test_whole_values_are_the_bytes_that_merging_gives(make: object, seed: int) -> None:
    rng = np.random.default_rng(seed)
    user = fb.Entity("user", keys={"user": int})
    view = fb.FeatureView("v", entity=user, source=SOURCE, features=make()).spec  # type: ignore[operator]
    n, spread = int(rng.integers(1, 700)), int(rng.choice([10**5, 20 * HOUR, 90 * HOUR]))
    table = world(rng, n, int(rng.choice([1, 7, 400])), spread)
    layout, floor = WindowLayout(view), 10**15 + int(rng.integers(0, 2 * spread))
    rows = read_rows(view, table)
    order = np.lexsort((rows.sequence, rows.created, rows.event, rows.owner))
    rows = rows.take(order)
    packed = layout.pack(rows, floor)
    assert whole_values(layout, rows, floor) == merge_windows([(None, value) for _, value in packed])
    assert [rows.keys[o] for o in dict.fromkeys(rows.owner.tolist())] == [key for key, _ in packed]


def test_no_rows_are_no_values() -> None:
    user = fb.Entity("user", keys={"user": int})
    view = fb.FeatureView("v", entity=user, source=SOURCE, features=[fb.count("n", window="1h")]).spec
    empty = np.empty(0, np.int64)
    assert whole_values(WindowLayout(view), Rows([], empty, empty, empty, empty, empty), 5) == []


def test_keys_are_ordered_as_bytes_are() -> None:
    rng = np.random.default_rng(1)
    ints = [b"i" + int(v).to_bytes(8, "big") for v in rng.integers(0, 2**63, 200)]
    texts = [b"s" + len(t).to_bytes(4, "big") + t for t in {bytes(rng.integers(0, 256, rng.integers(0, 12)).tolist())
                                                         for _ in range(300)}]  # fmt: skip
    long = [*texts, b"s" + (90).to_bytes(4, "big") + bytes(90)]
    for keys in (ints, texts, long, [b"b\0"], []):
        assert [keys[i] for i in key_order(keys).tolist()] == sorted(keys)
