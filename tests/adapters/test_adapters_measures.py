from __future__ import annotations

import os
from pathlib import Path

import pytest

from flyball.adapters.local.measures import Measures, read_measures
from flyball.features.metered import MeteredStore


def test_numbers_come_out_as_prometheus_text(tmp_path: Path) -> None:
    measures = Measures(tmp_path / "ingest.prom")
    measures.count("x_total", 2, "Things.", source='a"b')
    measures.count("x_total", 1, source='a"b')
    measures.set("lag_seconds", 1.5, "Lag.")
    for seconds in (5e-6, 3e-5, 99.0):
        measures.observe("w_seconds", seconds, "Writes.", store="redis")
    lines = measures.render().splitlines()
    assert "# HELP x_total Things." in lines and "# TYPE x_total counter" in lines
    assert 'x_total{source="a\\"b"} 3' in lines
    assert "lag_seconds 1.5" in lines
    assert 'w_seconds_bucket{store="redis",le="1e-05"} 1' in lines
    assert 'w_seconds_bucket{store="redis",le="4e-05"} 2' in lines
    assert 'w_seconds_bucket{store="redis",le="+Inf"} 3' in lines
    assert 'w_seconds_count{store="redis"} 3' in lines


def test_a_file_is_read_with_its_age_and_an_absent_one_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ingest.prom"
    assert read_measures(path) == b""
    measures = Measures(path)
    measures.set("a", 1)
    measures.write()
    os.utime(path, (1, 1))
    text = read_measures(path).decode()
    assert "a 1\n" in text
    age = float(next(line for line in text.splitlines() if line.startswith("flyball_ingest_measured_age")).split()[1])
    assert age > 1_000_000


class Broken:
    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [None for _ in keys]

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        return []

    def write(self, **given: object) -> int:
        if given["puts"]:
            raise OSError("full")
        return 7


def test_writes_are_timed_also_when_they_fail() -> None:
    seen: list[tuple[str, bool]] = []
    store = MeteredStore(Broken(), lambda operation, seconds, failed: seen.append((operation, failed)))
    assert store.write(newer=[]) == 7
    with pytest.raises(OSError, match="full"):
        store.write(puts=[(b"a", b"b")])
    assert store.get_many([b"x"]) == [None]
    assert seen == [("write", False), ("write", True)]
