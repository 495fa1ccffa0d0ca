"""What a feature flag is for a unit: the router's hash, the router's conditions.

Pure. The surprise: nothing is stored, so a flag costs a hash wherever it is asked, and every process of every machine
gives a unit the same answer as long as it has the same table.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_64_intdigest as hash_of

from flyball.errors import UnknownName
from flyball.rollout.routing import BUCKETS, Flag, RoutingTable, Scalar
from flyball.serving.routing.conditions import Test, compile_where

__all__ = ["CompiledFlag", "Decided", "Flags", "described"]

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Decided:
    """A flag's value for a unit, which of its values that is ("default" or its JSON text), and why.

    `experiment` names the running experiment for which chance chose the value: then this is an exposure.
    """

    value: Scalar
    variant: str
    why: str
    experiment: str = ""


class CompiledFlag:
    """One flag, ready to be asked."""

    __slots__ = ("_answers", "_cuts", "_default", "_on", "_rules", "_salt", "flag")

    def __init__(self, flag: Flag) -> None:
        """Compile the segments and the answers."""
        self.flag = flag
        self._on, self._salt = flag.on, flag.salt
        self._default = Decided(flag.default, "default", "share" if flag.on else "off")
        self._cuts = flag.cuts
        drawn = [Decided(value, json.dumps(value), "share", flag.experiment) for value in flag.values]
        self._answers = [*drawn, self._default]
        self._rules: list[tuple[int, Test, Decided]] = [
            (s.cut, compile_where(s.where), Decided(json.loads(s.to), s.to, f"segment {s.name}")) for s in flag.segments
        ]

    def decide(self, unit: str, attributes: Mapping[str, Any] | None = None) -> Decided:
        """Return the value of a unit."""
        if not self._on:
            return self._default
        cell = hash_of((self._salt + unit).encode()) % BUCKETS
        for cut, holds, decided in self._rules:
            if cell < cut and holds(attributes or _NOTHING):
                return decided
        return self._answers[bisect_right(self._cuts, cell)]


class Flags:
    """All flags of a table."""

    def __init__(self, table: RoutingTable) -> None:
        """Compile them; a table is immutable, so once is enough."""
        self.version = table.version
        self._flags = {name: CompiledFlag(flag) for name, flag in table.flags.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._flags)

    def decide(self, name: str, unit: str, attributes: Mapping[str, Any] | None = None) -> Decided:
        """Return what a flag is for a unit; raises UnknownName with near names."""
        found = self._flags.get(name)
        if found is None:
            raise UnknownName.of("flag", name, self._flags)
        return found.decide(unit, attributes)

    def all(self, unit: str, attributes: Mapping[str, Any] | None = None) -> dict[str, Decided]:
        """Return all flags for a unit, by name."""
        return {name: flag.decide(unit, attributes) for name, flag in self._flags.items()}


def described(flag: Flag) -> dict[str, Any]:
    """Return a flag as people read it: its values with their shares in [0, 1]."""
    before, shares = 0, {}
    for value, cut in zip(flag.values, flag.cuts, strict=True):
        shares[json.dumps(value)] = (cut - before) / BUCKETS
        before = cut
    return {
        "name": flag.name, "on": flag.on, "default": flag.default, "shares": shares,
        "segments": [s.name for s in flag.segments], "revision": flag.revision, "experiment": flag.experiment,
    }  # fmt: skip
