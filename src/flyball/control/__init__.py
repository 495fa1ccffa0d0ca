"""The control database: what flyball knows and decided, on SQLite or PostgreSQL.

Names load on first use, so that asking for a type does not import SQLAlchemy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.control.database import Database as Database
    from flyball.control.database import connect as connect
    from flyball.control.types import Applied as Applied
    from flyball.control.types import AuditEntry as AuditEntry
    from flyball.control.types import Lease as Lease
    from flyball.control.types import Message as Message

_HOMES = {
    "Applied": "flyball.control.types",
    "AuditEntry": "flyball.control.types",
    "Database": "flyball.control.database",
    "Lease": "flyball.control.types",
    "Message": "flyball.control.types",
    "connect": "flyball.control.database",
}

__all__ = ["Applied", "AuditEntry", "Database", "Lease", "Message", "connect"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flyball.control' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
