"""The command line: parse, call one project method, print. It decides nothing.

The surprise: groups and verbs are named in one table with their one-line help, and a verb's module is imported only
when that verb runs, so `flyball --help` imports nothing else.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 refused, 2 wrong use, 3 an outside system failed."""
    from flyball.cli.app import run

    sys.exit(run(arguments))
