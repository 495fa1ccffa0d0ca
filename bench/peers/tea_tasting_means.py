"""The peer of analyze.py: tea-tasting over the same Parquet file; run by its own Python.

Called as `python tea_tasting_means.py FILE REPEATS`; by Ibis on DuckDB, which is its own way of reading a file without
holding it, with its default of Welch's t for each mean. Prints one JSON object: seconds of every run (on the wall,
and of both cores), peak GiB, and each metric's effect, to be compared with ours.
"""

from __future__ import annotations

import json
import resource
import sys
from time import perf_counter, process_time

REQUIRES = ("tea-tasting==1.14.*", "ibis-framework[duckdb]", "numpy", "pandas", "pyarrow")
METRICS = ("converted", "orders", "revenue", "minutes", "sessions")


def main(file: str, repeats: int) -> None:
    import ibis
    import tea_tasting as tt

    connection = ibis.duckdb.connect()
    connection.raw_sql("SET threads = 2")
    table = connection.read_parquet(file)
    experiment = tt.Experiment({name: tt.Mean(name) for name in METRICS}, variant="arm")
    runs, spent = [], []
    for _ in range(repeats):
        started, worked = perf_counter(), process_time()
        result = experiment.analyze(table, control="champion")
        runs.append(perf_counter() - started)
        spent.append(process_time() - worked)
    found = {name: [result[name].effect_size, result[name].pvalue] for name in METRICS}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"runs": runs, "cpu": spent, "peak_gib": peak, "found": found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
