"""Leases (who may act), what is applied, the audit trail and the outbox, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flyball.features.spec import ViewSpec

__all__ = ["Applied", "AuditEntry", "Lease", "Message"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease; `fence` grows with each new owner. `expires` is wall-clock epoch seconds."""

    name: str
    owner: str
    fence: int
    expires: float


@dataclass(frozen=True, slots=True)
class Applied:
    """The definitions in force: the digest of the code snapshot, of the definitions, and the compiled views."""

    revision: int
    code: str
    at: datetime
    definitions: str
    views: tuple[ViewSpec, ...] = ()
    actor: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, and when."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """Something to hand to the outside at least once; `key` makes putting it twice harmless."""

    id: int
    topic: str
    key: str
    at: datetime
    body: dict[str, Any] = field(default_factory=dict)
