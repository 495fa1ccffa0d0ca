"""Deliver the outbox to webhooks and the tracker, then end: `python -m flyball.node.deliver --project P`.

The surprise: webhooks go first and cannot fail the tracker, nor the tracker them; importing a tracker takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.adapters.local.process import die_with_parent, failed, log

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 3 when somebody could not be told, who is told again later."""
    parser = argparse.ArgumentParser(prog="flyball.node.deliver")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    given = parser.parse_args(arguments)
    die_with_parent("deliver")
    from flyball.project import Project

    try:
        with Project.open(given.project, environment=given.environment) as project:
            told = [_webhooks(project), _tracker(project)]
    except Exception as error:
        failed("not delivered", error)
        return 3
    return 0 if all(told) else 3


def _webhooks(project: Project) -> bool:
    from flyball.project.webhooks import deliver_webhooks

    try:
        done, waiting = deliver_webhooks(project)
    except Exception as error:
        failed("webhooks not told", error)
        return False
    log("webhooks told", messages=done, waiting=waiting)
    return waiting == 0


def _tracker(project: Project) -> bool:
    from flyball.project.mirror import deliver

    try:
        log("delivered", messages=deliver(project))
    except Exception as error:
        failed("not delivered", error)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
