"""The routing table: immutable, versioned, the same bytes for every worker.

A unit's bucket is xxh3_64(salt + unit) mod BUCKETS; arms are bucket ranges, so a growing share only adds units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

__all__ = ["BUCKETS", "ModelRoute", "RoutingTable", "VersionRef", "cut"]

BUCKETS = 1_000_000


@dataclass(frozen=True, slots=True)
class VersionRef:
    """Where a worker finds a version: the artifact folder and the SHA-256 of its manifest."""

    version: str
    path: str
    digest: str
    trusted: bool  # True: loaded in the worker; False: served by a host process


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """How one model's requests are split.

    Units with bucket < `candidate_cut` go to the candidate; buckets in [`control_from`, `control_to`) are the control
    cohort of the champion. `shadow` mirrors champion traffic to the candidate (share in [0, 1]); `pair` asks the
    champion too when the candidate answered.
    """

    model: str
    salt: str
    champion: VersionRef
    candidate: VersionRef | None = None
    candidate_cut: int = 0
    control_from: int = 0
    control_to: int = 0
    shadow: float = 0.0
    pair: bool = True
    rollout: str | None = None
    deadline: float = 1.0  # seconds for a whole request
    warm: tuple[VersionRef, ...] = ()  # kept loaded for an instant return


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes of a project at one version; `fence` is the writer's."""

    version: int
    fence: int
    written: int  # domain time, µs
    models: dict[str, ModelRoute] = field(default_factory=dict)
    cause: Literal["apply", "promote", "rollout", "rollback", "retire"] = "apply"

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes) -> RoutingTable:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(data, type=cls)


def cut(share: float) -> int:
    """Return the integer cut point of a share in [0, 1]."""
    return round(share * BUCKETS)
