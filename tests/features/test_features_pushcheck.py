from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from flyball.errors import InputError
from flyball.features import pushcheck
from flyball.features.pushcheck import check_pushed
from flyball.features.reading import check_rows
from flyball.features.spec import SourceSpec

KINDS = {"i": "int64", "f": "float64", "b": "bool", "s": "string", "t": "timestamp", "d": "date"}
VALUES: list[Any] = [
    None, 1, -(2**63), 2**63, 2**63 - 1, 1.5, float("nan"), True, "x", "", "2024-02-30", "2024-03-01", "2024-03-01T01:02:03",
    "2024-03-01T01:02:03Z", "2024-03-01T01:02:03+02:00", "2024-03-01 01:02:03.123456", "20240301", "2024-03-01T25:00:00",
    datetime(2024, 1, 1, tzinfo=UTC), b"x", [1], {"a": 1}, "2024-W01-1", "2024-03-01T01", "2024-03-01T01:02", " 2024-03-01",
]  # fmt: skip


def said(check: Any, spec: SourceSpec, rows: list[Any]) -> str | None:
    try:
        check(spec, rows, KINDS)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("created", [None, "t"])
def test_the_fast_check_says_what_the_slow_one_says(strict: bool, created: str | None) -> None:
    spec = SourceSpec("a", "", "at", created, "UTC", (), None, 0, strict=strict)
    rng = random.Random(1)
    fine = 0
    for _ in range(4000):
        column = rng.choice([*KINDS, "at", "other"])
        pool = rng.choices(VALUES, k=rng.randrange(1, 4))
        base = {"at": 5 if not strict else "2024-03-01T01:02:03Z", **dict.fromkeys(KINDS)}
        rows: list[Any] = [base | {column: rng.choice(pool)} for _ in range(rng.randrange(1, 5))]
        if rng.random() < 0.1:
            rows[-1] = rng.choice([7, [], {}, {"at": 5}, {"i": 1}])
        assert said(check_pushed, spec, rows) == said(check_rows, spec, rows), rows
        fine += pushcheck._surely_right(spec, rows, KINDS)
    assert fine > 500
