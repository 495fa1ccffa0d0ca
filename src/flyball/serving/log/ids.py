"""Prediction ids: 18 characters that sort by time and say which worker's log holds them.

Twelve characters of wall-clock µs (strictly growing within a process), two of the worker's slot, four that differ from
process to process. The surprise: a request with an Idempotency-Key has an id that begins with `x` and says nothing of
time or worker. Every worker makes the same of the same request, so a retry that meets another one is known by its id.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from flyball.records.repeats import REPEATABLE

__all__ = ["IdMaker", "keyed_id", "parts_of"]

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_LENGTH = 18


class IdMaker:
    """Make ids for one worker."""

    def __init__(self, slot: int, nonce: int, *, micros: Callable[[], int] | None = None) -> None:
        """Make ids for `slot` in [0, 1023]; `nonce` (20 bits are used) tells processes of one slot apart."""
        self._suffix = _PAIRS[slot & 1023] + _PAIRS[(nonce >> 10) & 1023] + _PAIRS[nonce & 1023]
        self._micros = micros or (lambda: time.time_ns() // 1000)
        self._last = 0

    def next(self) -> str:
        """Return the next id."""
        at = self._micros()
        if at <= self._last:
            at = self._last + 1
        self._last = at
        p = _PAIRS
        return (
            p[at >> 50 & 1023]
            + p[at >> 40 & 1023]
            + p[at >> 30 & 1023]
            + p[at >> 20 & 1023]
            + p[at >> 10 & 1023]
            + p[at & 1023]
            + self._suffix
        )


def keyed_id(*parts: bytes) -> str:
    """Return the id of what these parts say, the same in every worker: `x` and 85 bits of a BLAKE2b hash.

    Example:
        >>> keyed_id(b"/predict", b"key-1") == keyed_id(b"/predict", b"key-1") != keyed_id(b"/predict", b"key-2")
        True
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    bits = int.from_bytes(hashed.digest(), "little")
    return REPEATABLE + "".join(_ALPHABET[bits >> 5 * k & 31] for k in range(_LENGTH - 1))


def parts_of(prediction: str) -> tuple[int, int] | None:
    """Return (wall-clock µs, slot) of an id, None when the text is no id."""
    text = prediction.partition("#")[0]
    if len(text) != _LENGTH or any(c not in _ALPHABET for c in text):
        return None
    return int(text[:12], 32), int(text[12:14], 32)
