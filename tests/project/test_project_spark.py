"""A whole project with Spark: the same history, training set and online rows as with DuckDB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from project_kit import DEFINITIONS, START, TOML, train_here, write_project

from flyball.project import Project

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]
SPARK = TOML + '\n[offline]\nengine = "spark"\n\n[spark]\nmaster = "local[2]"\noptions = "spark.driver.memory=1g"\n'
PYTHON = """

def tripled(minutes):
    return minutes * 3.0


"""
CODE = DEFINITIONS.replace("import flyball as fb\n", "import flyball as fb\n" + PYTHON).replace(
    '"(dropoff_at - pickup_at) / 1m"}', '"(dropoff_at - pickup_at) / 1m",\n            "three": fb.python(tripled, of=["minutes"])}'
).replace('fb.mean("minutes_24h"', 'fb.max("longest", of="three", window="24h"),\n    fb.mean("minutes_24h"')  # fmt: skip


def _everything(folder: Path) -> tuple[pa.Table, str, list[dict[str, object]]]:
    rng = np.random.default_rng(3)
    at = pa.array(int(START.timestamp() * 1e6) + rng.integers(0, 10 * 86_400_000_000, 200)).cast(
        pa.timestamp("us", "UTC")
    )
    asked = pa.table({"zone": rng.integers(1, 9, 200), "T": at})
    with Project.open(folder) as project:
        project.apply()
        pushed = [
            {"zone": 3, "distance": 1.0, "pickup_at": "2020-03-10T10:00:00Z", "dropoff_at": "2020-03-10T10:09:00Z"}
        ]
        project.features.push("trips", pushed)
        table = project.features.history(asked, ["traffic"], at="T").to_arrow()
        digest = project.data.snapshot("eta").manifest.digest
        assert project.models["eta"].gate(train_here(project)).verdict
        online = project.features.online([{"zone": z} for z in range(1, 9)], ["traffic"]).to_dicts()
        assert type(project.engine).__name__ == (
            "SparkEngine" if "spark" in (folder / "flyball.toml").read_text() else "DuckDBEngine"
        )
        return table, digest, online


def test_a_project_on_spark_is_the_project_on_duckdb(tmp_path: Path) -> None:
    on_duckdb = _everything(write_project(tmp_path / "duckdb", definitions=CODE))
    on_spark = _everything(write_project(tmp_path / "spark", definitions=CODE, toml=SPARK))
    assert on_spark[0].equals(on_duckdb[0])
    assert on_spark[0].column("longest").null_count < 100
    assert on_spark[1:] == on_duckdb[1:]
