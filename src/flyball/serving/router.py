"""Which arm answers a unit: a hash, integer cut points, nothing stored.

Pure. A unit's bucket never changes within a rollout (one salt), so a growing share only adds units, and every replica
and every restart gives the same answer. A veto or the kill switch turns candidate units into champion units and leaves
the control cohort alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from flyball.rollout.routing import BUCKETS, ModelRoute

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "CONTROL",
    "KILLED",
    "PINNED",
    "VETOED",
    "Assignment",
    "assign",
    "bucket",
    "mirrored",
]

_hash = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of a unit, why, and whether it lies in the control cohort."""

    arm: str
    why: str
    control: bool = False


CHAMPION = Assignment("champion", "champion")
CONTROL = Assignment("champion", "control", control=True)
CANDIDATE = Assignment("candidate", "share")
VETOED = Assignment("champion", "veto")
KILLED = Assignment("champion", "kill switch")
PINNED = Assignment("pinned", "version")


def bucket(salt: str, unit: str) -> int:
    """Return a unit's bucket in [0, BUCKETS)."""
    return int(_hash((salt + unit).encode())) % BUCKETS


def assign(route: ModelRoute, unit: str, *, veto: bool = False, kill: bool = False) -> Assignment:
    """Return the arm of `unit`; `veto` and `kill` take candidate units to the champion."""
    if route.candidate is None:
        return CHAMPION
    cell = _hash((route.salt + unit).encode()) % BUCKETS
    if cell < route.candidate_cut:
        if kill:
            return KILLED
        return VETOED if veto else CANDIDATE
    return CONTROL if route.control_from <= cell < route.control_to else CHAMPION


def mirrored(route: ModelRoute, unit: str) -> bool:
    """Return whether a champion unit's row is also sent to the candidate as shadow."""
    if route.candidate is None or route.shadow <= 0.0:
        return False
    return route.shadow >= 1.0 or bucket(route.salt + "shadow:", unit) < route.shadow * BUCKETS
