"""Functions that custom guardrails call: a spec keeps only their name, so that it survives as JSON.

The surprise: two code snapshots of a project define functions of the same name, and both may be loaded in the control
process. So a function is found by its name and the file it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.types import RolloutStatus

__all__ = ["Call", "found", "remember"]

Call = Callable[[RolloutStatus], float]
_CALLS: dict[str, dict[str, Call]] = {}  # by name, then by file


def remember(guardrail: str, call: Call) -> str:
    """Keep a function and return the name under which a spec knows it.

    Raises:
        DefinitionError: it has no name of its own: a lambda, or a function within a function.
    """
    code = getattr(call, "__code__", None)
    name = getattr(call, "__qualname__", "")
    if code is None or not name or "<" in name:
        raise DefinitionError(
            f'guard.custom("{guardrail}") is given {name or type(call).__name__}; it needs a function that is defined '
            "with def at the top of a module, because a rollout must find it again after a restart"
        )
    key = f"{call.__module__}:{name}"
    _CALLS.setdefault(key, {})[code.co_filename] = call
    return key


def found(name: str, *, below: Path | None = None) -> Call:
    """Return the function of that name, the one from a file below `below` when there are several.

    Raises:
        UnknownName: no definitions that name it were loaded.
    """
    by_file = _CALLS.get(name, {})
    mine = [call for file, call in by_file.items() if below is not None and Path(file).is_relative_to(below)]
    if mine:
        return mine[-1]
    if not by_file:
        raise UnknownName.of("guardrail function", name, _CALLS)
    return next(reversed(by_file.values()))
