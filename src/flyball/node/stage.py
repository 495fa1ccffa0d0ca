"""Run the stages of one training run in this process: `python -m flyball.node.stage --project P --run ID`.

The surprise: it dies with whoever started it. A run survives that; its journal says where to go on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flyball.adapters.local.children import limit_memory
from flyball.adapters.local.process import die_with_parent, failed
from flyball.errors import FlyballError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the exit code is the error's, 0 when all stages are done."""
    parser = argparse.ArgumentParser(prog="flyball.node.stage")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--run", required=True)
    parser.add_argument("--stage")
    parser.add_argument("--memory", type=int, default=0)
    given = parser.parse_args(arguments)
    die_with_parent(f"run-{given.run}")
    limit_memory(given.memory)
    try:
        _run(given.project, given.environment, given.run, given.stage)
    except FlyballError as error:
        failed("stages failed", error)
        sys.stderr.write(f"flyball: {error}\n")
        return error.exit_code
    except Exception as error:
        failed("stages failed", error)
        sys.stderr.write(f"flyball: run {given.run} failed: {type(error).__name__}: {error}\n")
        return 3
    return 0


def _run(path: Path, environment: str | None, run: str, stage: str | None) -> None:
    from flyball.project import Project

    Project.open(path, environment=environment).run_stages_here(run, stage)


if __name__ == "__main__":
    sys.exit(main())
