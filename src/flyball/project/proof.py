"""The proof of an erasure: what was searched, what went, what remains.

The surprise: it names the subject by a keyed hash only; a list of everyone who was erased would undo the erasing.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Erasure", "Place", "added", "keyed_hash", "same"]


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was searched.

    `removed` counts rows, records or keys that were found and taken out (in a dry run: that would be), `left` those
    that a second search found afterwards. `was` and `now` are digests where content has one.
    """

    kind: str
    name: str
    removed: int
    left: int = 0
    was: str = ""
    now: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The proof: what was searched, how much was removed where, and what remains for somebody else to do.

    `subject` is a keyed hash (HMAC-SHA256 with the project's own key).
    """

    subject: str
    started: datetime
    finished: datetime
    dry_run: bool
    places: tuple[Place, ...]
    remaining: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()

    @property
    def removed(self) -> int:
        """Everything that was taken out."""
        return sum(place.removed for place in self.places)

    @property
    def clean(self) -> bool:
        """Whether the search afterwards found nothing in what flyball keeps."""
        return all(place.left == 0 for place in self.places)


def keyed_hash(path: Path, plain: Mapping[str, Any]) -> str:
    """Return the HMAC-SHA256 of a subject, hex, by the project's own key, which is made the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # another erasure was first
            pass
        else:
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(32))
    text = msgspec.json.encode(dict(plain), order="deterministic")
    return hmac.new(path.read_bytes(), text, sha256).hexdigest()


def added(before: Sequence[Place], now: Sequence[Place]) -> list[Place]:
    """Add what an erasure that was killed had removed from the same places."""
    return [
        replace(place, removed=place.removed + sum(p.removed for p in before if same(p, place))) for place in now
    ] + [p for p in before if p.kind in {q.kind for q in now} and not any(same(p, q) for q in now)]


def same(one: Place, other: Place) -> bool:
    """Whether two entries are of one place with one content."""
    return (one.kind, one.name, one.was) == (other.kind, other.name, other.was)
