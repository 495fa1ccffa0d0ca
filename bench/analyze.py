"""Analysis of an experiment from Parquet: 10M users, five metrics, Welch for each, in one scan.

The bare limit is DuckDB reading the same columns and summing each by arm, nothing else. A run is a process's own: the
file is warm in the page cache, the first call (which opens DuckDB and imports scipy) is told apart; where others use
the machine too, the processor time of both cores says more than the wall. `--quick` takes a tenth of the users.
`--peer` runs tea-tasting beside it, in an environment of its own, turn by turn (ours, theirs, ours, ...); figures are
medians over all warm runs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import peers
from bench.peers.tea_tasting_means import METRICS, REQUIRES

CHUNK = 1_000_000
TARGETS = {"seconds": 0.5, "peak_gib": 1.0}


def write(file: Path, users: int) -> None:
    """Write one row per user: a rate, two counts, a heavy-tailed sum and a positive number."""
    rng = np.random.default_rng(1)
    writer = None
    for start in range(0, users, CHUNK):
        n = min(CHUNK, users - start)
        new = rng.random(n) < 0.5
        orders = rng.poisson(0.4, n).astype(np.int32)
        table = pa.table({
            "user": np.arange(start, start + n), "arm": pa.array(np.where(new, "v7", "champion")).dictionary_encode(),
            "converted": rng.random(n) < np.where(new, 0.105, 0.1), "orders": orders,
            "revenue": np.round(np.where(orders > 0, rng.lognormal(3, 1, n), 0.0), 2),
            "minutes": rng.gamma(2, 5, n), "sessions": (1 + rng.poisson(3, n)).astype(np.int32),
        })  # fmt: skip
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def ours(file: Path, repeats: int) -> None:
    """Analyse the file; print the figures as JSON. Runs in a process of its own."""
    import flyball as fb
    from flyball.adapters.duckdb_stats import arms_of_files
    from flyball.experiments.design.analysis import analyze

    rate = fb.Metric("converted", kind="proportion", role="primary")
    experiment = fb.Experiment(
        "checkout",
        arms={"champion": 0.5, "v7": 0.5},
        metrics=[rate, *(fb.Metric(name) for name in METRICS[1:])],
        plan=fb.plan.fixed(units=1000),
    )
    runs, spent = [], []
    for _ in range(repeats):
        started, worked = perf_counter(), process_time()
        result = analyze(experiment, arms_of_files(file, experiment, threads=2))
        runs.append(perf_counter() - started)
        spent.append(process_time() - worked)
    estimates = {c.metric: c.estimate for c in result.comparisons}
    found = {name: [e.effect, e.p] for name, e in estimates.items() if e is not None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"runs": runs, "cpu": spent, "peak_gib": peak, "found": found}))


def bare(file: Path, repeats: int) -> float:
    """Return the best time of DuckDB summing the same columns by arm."""
    sums = ", ".join(f"sum({name}::DOUBLE)" for name in METRICS)
    best = float("inf")
    with duckdb.connect(config={"threads": 2}) as connection:
        for _ in range(repeats):
            started = perf_counter()
            connection.sql(f"SELECT arm, {sums} FROM '{file}' GROUP BY arm").fetchall()
            best = min(best, perf_counter() - started)
    return best


def peer() -> list[str]:
    """Return the command that runs tea-tasting in its own environment; [] where it cannot be installed."""
    try:
        return [str(peers.environment("tea-tasting", REQUIRES)), str(peers.HERE / "tea_tasting_means.py")]
    except peers.Unavailable as error:
        print(f"tea-tasting {error}")
        return []


def turn(command: Sequence[str], file: Path, repeats: int) -> dict[str, Any]:
    """Run one side in a process of its own; return what it prints."""
    made = subprocess.run([*command, str(file), str(repeats)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{command[-1]} failed: {(made.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(made.stdout.splitlines()[-1]))


def figures(turns: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the medians of the warm runs of all turns, of the first calls, and the largest memory."""
    return {
        "seconds": median(s for t in turns for s in t["runs"][1:]),
        "cpu_s": median(s for t in turns for s in t["cpu"][1:]),
        "first_s": median(t["runs"][0] for t in turns),
        "peak_gib": max(t["peak_gib"] for t in turns),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--ours", nargs=2, metavar=("FILE", "REPEATS"), help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    if given.ours:
        ours(Path(given.ours[0]), int(given.ours[1]))
        return
    users = 1_000_000 if given.quick else 10_000_000
    commands = {"flyball": [sys.executable, __file__, "--ours"]}
    if given.peer and (command := peer()):
        commands["tea-tasting"] = command
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "users.parquet"
        write(file, users)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for _ in range(given.turns):
            for name, command in commands.items():
                turns[name].append(turn(command, file, given.repeats))
        limit = bare(file, given.repeats)
    report(users, {name: figures(of) for name, of in turns.items()}, limit,
           {name: of[0]["found"] for name, of in turns.items()}, quick=given.quick)  # fmt: skip


def report(
    users: int, sides: Mapping[str, Mapping[str, float]], limit: float, found: Mapping[str, Any], *, quick: bool
) -> None:
    """Print the table, and all figures as one JSON object."""
    load = os.getloadavg()[0]
    print(f"{users:,} users, {len(METRICS)} metrics, 2 threads, Parquet in the page cache, load {load:.1f}; medians")
    print(f"{'':<14}{'seconds':>9}{'cpu':>9}{'first':>9}{'peak GiB':>10}")
    for name, side in sides.items():
        print(f"{name:<14}" + "".join(f"{side[k]:>9.3f}" for k in ("seconds", "cpu_s", "first_s"))
              + f"{side['peak_gib']:>10.2f}")  # fmt: skip
    print(f"{'bare sums':<14}{limit:>9.3f}")
    mine = sides["flyball"]
    line: dict[str, Any] = dict(mine) | {"bare_s": limit, "users": users, "load": load}
    if theirs := sides.get("tea-tasting"):
        worst = max(abs(found["flyball"][m][0] / found["tea-tasting"][m][0] - 1.0) for m in METRICS)
        line |= {f"peer_{name}": value for name, value in theirs.items()}
        line |= {name: theirs[of] / mine[of] for name, of in (("ratio", "seconds"), ("cpu_ratio", "cpu_s"))}
        line["largest_relative_difference"] = worst
        ratios = f"ratio {line['ratio']:.2f}, of processor time {line['cpu_ratio']:.2f}"
        print(f"{ratios}; effects differ by {worst:.1e} at most")
    line["met"] = quick or all(mine[name] <= target for name, target in TARGETS.items())
    print(json.dumps(line))


if __name__ == "__main__":
    main()
