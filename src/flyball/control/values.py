"""Values become JSON text and back; the surprise is that NaN and infinity are refused instead of becoming null."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

from flyball.errors import InputError, IntegrityError

__all__ = ["pack", "unpack"]

T = TypeVar("T")


def pack(value: Any) -> str:
    """Return the canonical JSON text of a value.

    Raises:
        InputError: it holds NaN or an infinity, which JSON would silently turn into null.
    """
    text = msgspec.json.encode(value, order="deterministic").decode()
    if "null" in text:
        _refuse_nan(msgspec.to_builtins(value), type(value).__name__)
    return text


def unpack(text: str, kind: type[T]) -> T:
    """Return the value of a JSON text.

    Raises:
        IntegrityError: the text is not a value of that type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise IntegrityError(
            f"the control database holds a broken {kind!r}: {error}; restore it from a backup"
        ) from None


def _refuse_nan(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path} is {value}, which the control database cannot keep; use None or leave it out")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_nan(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_nan(item, f"{path}[{index}]")
