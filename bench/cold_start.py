"""Measure what a user waits for before anything happens: imports, the command line, a node coming up.

`python bench/cold_start.py [--quick]` prints a table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TARGETS = {"import_s": 0.10, "help_s": 0.15, "status_s": 0.4}
TOML = """[project]
name = "cold"

[server]
port = 0

[control]
port = 0
"""
DEFINITIONS = '"""Nothing yet."""\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under 60 s")
    quick = parser.parse_args().quick
    times = 5 if quick else 21
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "flyball.toml").write_text(TOML)
        (root / "definitions.py").write_text(DEFINITIONS)
        bare = median(times, lambda: command([sys.executable, "-c", "pass"], root))
        figures["python_s"] = bare
        figures["import_s"] = difference(
            median(times, lambda: command([sys.executable, "-c", "import flyball"], root)), bare
        )
        figures["help_s"] = verb(times, ["--help"], root)
        figures["status_s"] = verb(times, ["status"], root)
        figures |= node(root, 1 if quick else 3)
    report(figures)
    return 0


def command(words: list[str], root: Path) -> float | None:
    """Return the seconds of one run, None when it failed."""
    started = time.perf_counter()
    done = subprocess.run(words, cwd=root, capture_output=True, check=False)
    return time.perf_counter() - started if done.returncode == 0 else None


def median(times: int, run: Callable[[], float | None]) -> float | None:
    """Return the median of some runs after one to warm the disk cache."""
    run()
    found = [run() for _ in range(times)]
    return None if None in found else statistics.median(s for s in found if s is not None)


def verb(times: int, words: list[str], root: Path) -> float | None:
    """Time a verb as a user calls it; None while there is no such verb."""
    script = Path(sys.executable).with_name("flyball")
    return median(times, lambda: command([str(script), *words], root)) if script.exists() else None


def difference(whole: float | None, part: float | None) -> float | None:
    """Return what the import adds to a bare interpreter."""
    return None if whole is None or part is None else whole - part


def node(root: Path, times: int) -> dict[str, float | None]:
    """Start and stop a node with one worker: seconds to ready and to stop, PSS of the worker and of all processes."""
    from flyball.adapters.local.running import start, stop
    from flyball.config import load

    layout = load(root / "flyball.toml").layout
    ready, ended, worker, total = [], [], [], []
    for _ in range(times):
        started = time.perf_counter()
        running = start(root / "flyball.toml", layout)
        ready.append(time.perf_counter() - started)
        worker.append(pss(running.children["w0"]))
        total.append(sum(pss(pid) for pid in [running.pid, *running.children.values()]))
        started = time.perf_counter()
        stop(layout)
        ended.append(time.perf_counter() - started)
    return {
        "up_ready_s": statistics.median(ready), "stop_s": statistics.median(ended),
        "worker_pss_mb": statistics.median(worker), "node_pss_mb": statistics.median(total),
    }  # fmt: skip


def pss(pid: int) -> float:
    """Return a process's proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def report(figures: dict[str, float | None]) -> None:
    """Print the table and the last line."""
    met: dict[str, bool | None] = {}
    print(f"{'what':<16}{'figure':>10}{'target':>10}")
    for name, figure in figures.items():
        target = TARGETS.get(name)
        if target is not None:
            met[name] = None if figure is None else figure <= target
        shown = "none yet" if figure is None else f"{figure:.3f}"
        print(f"{name:<16}{shown:>10}{'' if target is None else f'<= {target}':>10}")
    print(json.dumps({"bench": "cold_start", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
