"""Every error that flyball raises on purpose.

FlyballError
├── DefinitionError            what the user wrote does not make sense (also ValueError), exit 2
│   ├── UnknownName            a name nobody defined (also KeyError)
│   ├── DuplicateName          the same name twice
│   ├── ExpressionError        a derive, where or feature expression does not parse or type
│   ├── UnitError              "5 apples" is no duration, share or size
│   └── ConfigError            flyball.toml: unknown, missing or malformed setting
├── InputError                 a value handed to us is wrong (also ValueError), exit 2
│   ├── BadRequest             HTTP 4xx on the gateway
│   └── SourceError            a source misses a column, has a wrong type, is empty, ...
├── Refused                    a gate, guardrail, freeze or policy said no, exit 1
│   └── CheckFailed            data checks of a source or view failed; nothing was changed
├── ConflictError              somebody else was faster
│   ├── RevisionConflict       compare-and-set lost
│   └── FenceLost              the lease passed to another actor
├── IntegrityError             stored bytes are not what was written: digest, torn record
│   └── Untrusted              an artifact that we did not sign or do not allow
├── StageFailed                a stage of a run failed; the run can be resumed, exit 3
├── Unavailable                an outside system failed: port in use, store down, exit 3
│   ├── Busy                   too much work waits; try again a little later
│   └── SchemaTooNew           the control database was written by a newer flyball
├── DeadlineExceeded           no answer in time (also TimeoutError)
└── MissingExtra               an optional dependency is not installed (also ImportError), exit 2

`exit_code` is what the command line returns: 1 refused, 2 wrong use, 3 an outside system failed.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import ClassVar, Self

__all__ = [
    "BadRequest",
    "CheckFailed",
    "Busy",
    "ConfigError",
    "ConflictError",
    "DeadlineExceeded",
    "DefinitionError",
    "DuplicateName",
    "ExpressionError",
    "FenceLost",
    "FlyballError",
    "InputError",
    "IntegrityError",
    "MissingExtra",
    "Refused",
    "RevisionConflict",
    "SchemaTooNew",
    "SourceError",
    "StageFailed",
    "Unavailable",
    "UnitError",
    "UnknownName",
    "Untrusted",
    "nearest",
]
_LONGEST_NAME = 200  # characters of what is compared with known names


class FlyballError(Exception):
    """Be the root of every error raised on purpose.

    `retry_after` are the seconds after which the same call is worth making again, None when nobody knows.
    """

    exit_code: ClassVar[int] = 3
    retry_after: float | None = None

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else ""


class DefinitionError(FlyballError, ValueError):
    """Say that a definition does not make sense."""

    exit_code = 2


class UnknownName(DefinitionError, KeyError):
    """Say that a name is not defined, and which known names are near."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        """Build the message from the unknown name and the known ones."""
        names = sorted(known)
        close = nearest(name, names)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}."
        return cls(f"there is no {kind} named {name!r}; {hint}")


class DuplicateName(DefinitionError):
    """Say that one name was given twice."""


class ExpressionError(DefinitionError):
    """Say where an expression does not parse or type."""


class UnitError(DefinitionError):
    """Say that a text is no duration, share, size or margin."""


class ConfigError(DefinitionError):
    """Say what is wrong in flyball.toml, and where the value came from."""


class InputError(FlyballError, ValueError):
    """Say that a value handed to flyball is wrong."""

    exit_code = 2


class BadRequest(InputError):
    """Say why the gateway refuses a request; `status` is the HTTP status, 400 to 499."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class SourceError(InputError):
    """Say what is wrong with a source: missing column, wrong type, empty, unreadable."""


class Refused(FlyballError):
    """Say that a gate, guardrail, freeze or policy does not allow this."""

    exit_code = 1


class CheckFailed(Refused):
    """Say which data checks failed, with values and limits."""


class ConflictError(FlyballError):
    """Say that another actor was faster."""


class RevisionConflict(ConflictError):
    """Say that the row changed since it was read."""


class FenceLost(ConflictError):
    """Say that a newer lease owner exists; this actor may not write any more."""


class IntegrityError(FlyballError):
    """Say that stored bytes are not the bytes that were written."""


class Untrusted(IntegrityError):
    """Say that an artifact is neither allowed nor signed by this project's registry."""


class StageFailed(FlyballError):
    """Say which stage of which run failed, and how to resume it."""


class Unavailable(FlyballError):
    """Say that something outside of flyball failed: a port, a disk, a store."""


class Busy(Unavailable):
    """Say that too much work waits already; the same call may be made again a little later."""


class SchemaTooNew(Unavailable):
    """Say that a newer flyball wrote the control database."""


class DeadlineExceeded(FlyballError, TimeoutError):
    """Say that no answer came in time."""


class MissingExtra(FlyballError, ImportError):
    """Say which extra to install for an optional part."""

    exit_code = 2

    @classmethod
    def of(cls, part: str, extra: str) -> Self:
        """Build the message that names the extra."""
        return cls(f"{part} needs an optional dependency; install it with: pip install 'flyball[{extra}]'")


def nearest(name: str, known: Iterable[str], *, n: int = 2) -> list[str]:
    """Return up to `n` known names that look like `name`, best first; comparing a very long text takes seconds."""
    if len(name) > _LONGEST_NAME:
        return []
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.6)


def shown(value: object, most: int = 80) -> str:
    """Return how a value is written, at most `most` characters; of a huge one only the beginning is looked at.

    Example:
        >>> shown([1, "a"]), shown("ab" * 1_000_000, 5)
        ("[1, 'a']", "'abab")
    """
    if isinstance(value, str | bytes):
        return repr(value[:most])[:most]
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = most // 3 + 1
    short.maxstring = short.maxlong = short.maxother = most
    return short.repr(value)[:most]


def said(error: BaseException) -> str:
    """Return what an error of foreign code says, in characters that can be written; nothing where it cannot say it."""
    try:
        text = str(error)
    except Exception:
        return ""
    return text if text.isascii() else text.encode(errors="replace").decode()


def first_line(error: object, *, most: int = 300) -> str:
    """Return the first line of what a foreign error says, at most `most` characters; its type's name if nothing.

    Example:
        >>> first_line(ValueError("no such column, see LINE 1"))
        'no such column, see LINE 1'
        >>> first_line(KeyError())
        'KeyError'
    """
    return next((line.strip()[:most] for line in str(error).splitlines() if line.strip()), type(error).__name__)
