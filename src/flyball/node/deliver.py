"""Deliver the outbox to the tracker, then end: `python -m flyball.node.deliver --project P`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flyball.adapters.local.process import die_with_parent, failed, log

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 3 when the tracker could not be told, which is tried again with the next message."""
    parser = argparse.ArgumentParser(prog="flyball.node.deliver")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    given = parser.parse_args(arguments)
    die_with_parent("deliver")
    from flyball.project import Project
    from flyball.project.mirror import deliver

    try:
        with Project.open(given.project, environment=given.environment) as project:
            log("delivered", messages=deliver(project))
    except Exception as error:
        failed("not delivered", error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
