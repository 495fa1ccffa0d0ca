"""Cut the demo's data from the TLC's monthly files: `python -m flyball.demo.cut FOLDER` (see data/README.md).

Kept as they are: dirty rows and local times without a zone. Dropped: columns the demo does not read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = {
    "lpep_pickup_datetime": ("pickup_at", pa.timestamp("us")),
    "lpep_dropoff_datetime": ("dropoff_at", pa.timestamp("us")),
    "PULocationID": ("pickup_zone", pa.int32()),
    "DOLocationID": ("dropoff_zone", pa.int32()),
    "trip_distance": ("distance_miles", pa.float64()),
}
FIRST, LAST = "2020-03-01", "2020-04-21"  # pickups in [FIRST, LAST), New York time


def cut(folder: Path, target: Path) -> int:
    """Write the cut beside this module and return its number of rows."""
    months = [pq.read_table(folder / f"green_tripdata_2020-{m}.parquet", columns=list(COLUMNS)) for m in ("03", "04")]
    table = pa.concat_tables(months)
    picked = table.column("lpep_pickup_datetime")
    inside = pc.and_(pc.greater_equal(picked, _time(FIRST, picked.type)), pc.less(picked, _time(LAST, picked.type)))
    table = table.filter(inside)
    columns = [table.column(old).cast(kind, safe=False) for old, (_, kind) in COLUMNS.items()]
    cut_table = pa.table(columns, names=[new for new, _ in COLUMNS.values()]).sort_by("pickup_at")
    times = dict.fromkeys(("pickup_at", "dropoff_at"), "DELTA_BINARY_PACKED")
    pq.write_table(
        cut_table,
        target,
        compression="zstd",
        compression_level=19,
        use_dictionary=["pickup_zone", "dropoff_zone"],
        column_encoding={**times, "distance_miles": "BYTE_STREAM_SPLIT"},
    )
    return int(cut_table.num_rows)


def _time(day: str, kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(day).cast(pa.timestamp("s")).cast(kind)


if __name__ == "__main__":
    print(cut(Path(sys.argv[1]), Path(__file__).parent / "data" / "green_trips.parquet"))
