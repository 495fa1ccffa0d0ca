"""Entities: the things that features describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyball.errors import DefinitionError
from flyball.features.definitions.names import checked_name, checked_type
from flyball.features.spec import ColumnSpec, EntitySpec
from flyball.features.types import KEYS

__all__ = ["Entity"]


class Entity:
    """Declare a thing that features describe.

    Args:
        name: The entity's name.
        keys: Key column -> int, str, bool, bytes, date or datetime, in order (a UUID is a str). Values of two types are
            never the same key: 1, "1" and True differ.
    """

    def __init__(self, name: str, *, keys: Mapping[str, Any]) -> None:
        self.name = checked_name("entity", name)
        if not keys:
            raise DefinitionError(f'entity {name!r} has no keys; write keys={{"{name}_id": int}}')
        columns = []
        for key, dtype in keys.items():
            kind = checked_type(f"key {key!r} of entity {name!r}", dtype)
            if kind not in KEYS:
                raise DefinitionError(
                    f"key {key!r} of entity {name!r} is {kind}; a key must be int or str, bool, bytes, date or datetime"
                )
            columns.append(ColumnSpec(checked_name("key", key), kind))
        self.spec = EntitySpec(name, tuple(columns))

    def __repr__(self) -> str:
        return f"Entity({self.name!r}, {', '.join(k.name for k in self.spec.keys)})"
