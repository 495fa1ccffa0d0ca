"""What a push is, what becomes of it, and the event ids of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from flyball.errors import InputError
from flyball.features.spec import SourceSpec
from flyball.records.types import DeadLetter

__all__ = ["Batch", "PushResult", "id_key", "id_keys"]


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a push.

    Rows taken, rows that the source's `where` dropped, log sequence of the first row (of the first taking, when all
    were duplicates), rows whose event id had been taken before. `published` is the domain time (µs) from which readers
    see the rows; `pending` says that the store is away and gets them as soon as it is back.
    """

    accepted: int
    rejected: int
    sequence: int
    duplicates: int = 0
    published: int = field(default=0, compare=False)
    pending: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one source to be taken together, and where the consumer that brought them stands after them."""

    source: str
    rows: list[dict[str, Any]]
    arrival: int | None = None
    origin: tuple[tuple[str, str, str], ...] = ()
    dead: tuple[DeadLetter, ...] = ()


def id_keys(spec: SourceSpec, rows: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return the digests of the rows' event ids.

    Raises:
        InputError: a row has none.
    """
    name = spec.event_id or ""
    keys = []
    for k, row in enumerate(rows):
        value = row.get(name)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise InputError(
                f"row {k} pushed to {spec.name!r} has {name} = {value!r:.60}; every row needs an event id there, "
                "a text or an integer that no other event has"
            )
        keys.append(id_key(spec.name, value))
    return keys


def id_key(source: str, value: object) -> bytes:
    """Return the digest of an event id; 1 and "1" are one id, because a column of both is kept as text."""
    return xxhash.xxh3_128_digest(f"{source}\0{value}".encode())
