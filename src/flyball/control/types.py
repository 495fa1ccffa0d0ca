"""Leases: who may act."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Lease"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease; `fence` grows with each new owner. `expires` is wall-clock epoch seconds."""

    name: str
    owner: str
    fence: int
    expires: float
