"""The routing table: immutable, versioned, the same bytes for every worker.

A unit's bucket is xxh3_64(salt + unit) mod BUCKETS; arms are bucket ranges, so a growing share only adds units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, cast

import msgspec

from flyball.errors import ConflictError, DefinitionError

__all__ = ["BUCKETS", "CHAMPION_ARMS", "MAX_VARIANTS", "Cause", "Condition", "Flag", "ModelRoute", "Protection",
           "RoutingTable", "Scalar", "Segment", "ServingSpec", "Variant", "VersionRef", "check_route",
           "conditions", "cut"]  # fmt: skip

BUCKETS = 1_000_000
MAX_VARIANTS = 6  # the shared map counts eight arms: champion, candidate and these
CHAMPION_ARMS = frozenset({"champion", "candidate", "pinned"})  # names that no variant may take
Protection = Literal["mask", "hash", "encrypt"]
Scalar = str | int | float | bool
Cause = Literal["apply", "promote", "rollout", "rollback", "retire", "flag", "repository", "split", "switch",
                "experiment"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class VersionRef:
    """Where a worker finds a version: the artifact folder and the SHA-256 of its manifest."""

    version: str
    path: str
    digest: str
    trusted: bool  # True: loaded in the worker; False: served by a host process
    hosted: bool = False  # stays in a host process whatever becomes of it


@dataclass(frozen=True, slots=True)
class Condition:
    """What an attribute of a request must be: it holds when `op` is true of it and any of `values`.

    "not in" and "!=" hold when it is true of none; an absent attribute holds for neither of the others.
    """

    attribute: str
    op: Literal["in", "not in", "==", "!=", "<", "<=", ">", ">=", "starts with"]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Requests of which all of `where` hold go to arm `to` with units of bucket < `cut`; the first that fits decides.

    `to` is "champion", "candidate" or a variant's name. Units of the segment above `cut` fall through to the next rule.
    """

    name: str
    where: tuple[Condition, ...]
    to: str
    cut: int = BUCKETS


@dataclass(frozen=True, slots=True)
class Variant:
    """A further arm of an A/B/n comparison: units in buckets [`start`, `end`) of the route's salt."""

    name: str
    version: VersionRef
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Flag:
    """A feature flag: the first segment that fits decides, else the value whose cut lies above the unit's bucket.

    `values[k]` is given to units with bucket < `cuts[k]` and not below the cut before; above the last, `default`.
    A segment's `to` is the JSON text of one of the values.
    """

    name: str
    salt: str
    default: Scalar = False
    values: tuple[Scalar, ...] = ()
    cuts: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()
    on: bool = True
    revision: int = 0
    defined: str = ""  # digest of the definition it came from; an apply of the same one leaves it as it was set since
    experiment: str = ""  # the experiment that owns its values and salt until it ends
    personal: Protection | None = None  # how the log keeps the units that an experiment on it exposes


@dataclass(frozen=True, slots=True)
class ServingSpec:
    """How a model is served, whatever its version: what `fb.Serving` says, with times in seconds.

    `personal` names request fields, the unit ("unit") and attributes that the log keeps masked, hashed or encrypted.
    `segments`, `holdout` and `testers` go into the route itself; a route's `serving` leaves them at their defaults.
    """

    deadline: float | None = None  # None: the server's
    cache: float = 0.0  # seconds an answer may be used again, 0 for never
    cache_in_experiments: bool = False
    hosted: bool = False  # in a host process, as champion too
    personal: dict[str, Protection] = field(default_factory=dict)
    retention: float = 0.0  # seconds that predictions are kept, 0 for ever
    max_rows: int = 0  # rows of one request, 0 for the server's limit
    segments: tuple[Segment, ...] = ()
    holdout: int = 0
    testers: bool = False


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
    variants: tuple[Variant, ...] = ()
    segments: tuple[Segment, ...] = ()
    holdout: int = 0  # units with bucket >= BUCKETS - holdout always get the champion and no shadow
    testers: bool = False  # whether the header x-flyball-arm may choose an arm
    serving: ServingSpec = field(default_factory=ServingSpec)
    control_hosted: bool = False  # the control cohort asks a champion copy in a host, so that both arms pay the hop
    unloaded: bool = False  # taken out of service by the repository API; requests get 503
    within: tuple[Condition, ...] = ()  # candidate and control cohort draw only from requests of which all of it holds
    draw: str = ""  # salt by which variants draw their units; empty: `salt`
    experiment: str = ""  # the experiment that owns the variants until it ends


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes of a project at one version; `fence` is the writer's."""

    version: int
    fence: int
    written: int  # domain time, µs
    models: dict[str, ModelRoute] = field(default_factory=dict)
    cause: Cause = "apply"
    flags: dict[str, Flag] = field(default_factory=dict)

    def following(
        self,
        *routes: ModelRoute,
        fence: int,
        now: int,
        cause: Cause,
        flags: dict[str, Flag] | None = None,
    ) -> RoutingTable:
        """Return the next table: this one with some routes replaced or added, and other flags when they are given."""
        models = {**self.models, **{route.model: route for route in routes}}
        return replace(
            self, version=self.version + 1, fence=fence, written=now, models=models, cause=cause,
            flags=self.flags if flags is None else flags,
        )  # fmt: skip

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


def check_route(route: ModelRoute) -> None:
    """Raise ConflictError when two arms of a route claim the same buckets, or there are more than can be counted."""
    holdout = 0 if route.draw else route.holdout  # another salt draws from all units that are not held out
    top = BUCKETS - holdout
    ranges = [("the candidate", 0, min(route.candidate_cut, top))]
    ranges.append(("the control cohort", route.control_from, min(route.control_to, top)))
    ranges += [(f"variant {v.name}", v.start, v.end) for v in route.variants]
    if holdout:
        ranges.append(("the holdout", top, BUCKETS))
    taken = sorted((start, end, name) for name, start, end in ranges if end > start)
    for (_, end, one), (start, _, other) in pairwise(taken):
        if start < end:
            raise ConflictError(
                f"{route.model}: {one} and {other} both claim the units of {_percent(start)} to {_percent(end)}; "
                "give them less, or end the split with: flyball model split --stop"
            )
    if len(route.variants) > MAX_VARIANTS:
        raise ConflictError(f"{route.model} has {len(route.variants)} variants; {MAX_VARIANTS} are the most")


def _percent(at: int) -> str:
    return f"{at / BUCKETS * 100:g} %"


_OPS = ("!=", "<=", ">=", "==", "<", ">", "not in ", "in ", "starts with ")
Op = Literal["in", "not in", "==", "!=", "<", "<=", ">", ">=", "starts with"]


def conditions(what: str, where: Mapping[str, object]) -> tuple[Condition, ...]:
    """Return the conditions that a mapping from attribute to wanted value means; `what` names it in errors.

    Example:
        >>> [c.op for c in conditions("segment 'adults'", {"age": ">= 18", "country": ["DE", "AT"]})]
        ['>=', 'in']
    """
    return tuple(c for attribute, wanted in where.items() for c in _about(what, attribute, wanted))


def _about(segment: str, attribute: str, wanted: object) -> list[Condition]:
    if isinstance(wanted, str):
        return [_parsed(segment, attribute, part.strip()) for part in wanted.split(" and ")]
    if isinstance(wanted, list | tuple | set | frozenset):
        values = tuple(_scalar(segment, attribute, value) for value in wanted)
        if not values:
            raise DefinitionError(f"{segment}: {attribute!r} is to be one of nothing; list a value")
        return [Condition(attribute, "in", values)]
    return [Condition(attribute, "==", (_scalar(segment, attribute, wanted),))]


def _parsed(segment: str, attribute: str, text: str) -> Condition:
    op = next((op for op in _OPS if text.startswith(op)), None)
    if op is None:
        return Condition(attribute, "==", (text,))
    rest = text[len(op) :].strip()
    op = op.strip()
    parts = [p.strip() for p in rest.split(",")] if op in {"in", "not in"} else [rest]
    values = tuple(p if op == "starts with" else _number(p) for p in parts)
    if "" in values:
        raise DefinitionError(f"{segment}: {attribute!r} has {text!r}, which compares with nothing")
    return Condition(attribute, cast("Op", op), values)


def _scalar(segment: str, attribute: str, value: Any) -> Scalar:
    if not isinstance(value, str | int | float):
        raise DefinitionError(
            f"{segment}: {attribute!r} is compared with {value!r}; write a text, a number or true and false"
        )
    return value


def _number(text: str) -> Scalar:
    """Return the number a text says, else the text; quotes keep "18" a text."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
