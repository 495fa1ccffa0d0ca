"""Feature flags: `fb.flag("name", unit)`, and `project.flags` to list and switch them.

The surprise: asking a flag opens no project and no database. It reads the routing table that the node's workers serve,
and looks only every quarter of a second whether there is another. While an experiment owns the flag, the process that
asks writes a log of its own beside the workers', with one record for each unit it exposed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.errors import ConfigError, FlyballError, InputError, Refused, UnknownName
from flyball.serving.routing.flags import Decided, Flags, described

if TYPE_CHECKING:
    from flyball.layout import Layout
    from flyball.project.flag_log import FlagLog
    from flyball.project.root import Project
    from flyball.rollout.routing import Flag, RoutingTable, Scalar

__all__ = ["FlagHandle", "flag"]

_LOOK_EVERY = 0.25  # seconds


class FlagHandle:
    """A project's flags: what they are, and their switches."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def list(self) -> list[dict[str, Any]]:
        """Return the flags in force: name, on, default, shares by value, segments, revision."""
        return [described(flag) for _, flag in sorted(self._table.flags.items())]

    def decide(self, name: str, unit: str, attributes: Mapping[str, Any] | None = None) -> Decided:
        """Return what a flag is for a unit, and why; raises UnknownName."""
        return Flags(self._table).decide(name, unit, attributes)

    def set(
        self,
        name: str,
        *,
        on: bool | None = None,
        shares: Mapping[Scalar, str | float] | None = None,
        reason: str = "",
        actor: str = "cli",
    ) -> dict[str, Any]:
        """Switch a flag, or change its values' shares; in force on all workers when this returns, and audited.

        Args:
            name: Which flag.
            on: Whether it is on; off, everybody gets the default.
            shares: New shares of some of its values; those not named keep theirs.
            reason: Why, for the audit.
            actor: Who.

        Raises:
            UnknownName: there is no such flag, or it has no such value.
            DefinitionError: the shares are more than all units.
            Refused: an experiment owns its shares.
        """
        from flyball.project.releases import exclusive
        from flyball.units import to_micros

        project, now = self._project, self._project.clock.now()
        with exclusive(project) as (routes, fence):
            table = routes.current()
            if name not in table.flags:
                raise UnknownName.of("flag", name, table.flags)
            old = table.flags[name]
            if old.experiment and shares:
                raise Refused(
                    f"experiment {old.experiment} has the shares of flag {name} until it ends; switch the flag off, or "
                    f"end it first with: flyball exp stop {old.experiment}"
                )
            made = _changed(old, on=on, shares=shares or {})
            if made != old:
                made = replace(made, revision=old.revision + 1)
                flags = {**table.flags, name: made}
                new = table.following(fence=fence, now=to_micros(now), cause="flag", flags=flags)
                routes.commit(new, expected=table.version, fence=fence)
            details = {"before": described(old), "after": described(made), "reason": reason}
            project.database.audit.record(now, actor, "flag set", name, details)
        return described(made)

    @property
    def _table(self) -> RoutingTable:
        return self._project.database.routing.current()


def _changed(flag: Flag, *, on: bool | None, shares: Mapping[Scalar, str | float]) -> Flag:
    from flyball import units
    from flyball.rollout.routing import BUCKETS
    from flyball.serving.definitions import flag_cuts

    for value in shares:
        if not any(value == known and type(value) is type(known) for known in flag.values):
            raise UnknownName.of(f"value of flag {flag.name}", str(value), map(str, flag.values))
    before = [0, *flag.cuts]
    sizes = [
        units.share(shares[value]) if value in shares else (flag.cuts[k] - before[k]) / BUCKETS
        for k, value in enumerate(flag.values)
    ]
    return replace(flag, on=flag.on if on is None else on, cuts=flag_cuts(flag.name, sizes))


def flag(
    name: str,
    unit: str | int,
    attributes: Mapping[str, Any] | None = None,
    *,
    project: str | Path | Project | None = None,
) -> Scalar:
    """Return what a feature flag is for a unit, in microseconds and without asking any server.

    Args:
        name: The flag's name.
        unit: Whose request it is, such as a user's id.
        attributes: What the flag's segments look at.
        project: A project, its flyball.toml or folder; the nearest flyball.toml upwards from here when left out.

    Raises:
        UnknownName: there is no such flag in force.
        ConfigError: no project is found.

    Example:
        >>> fb.flag("new_map", "user-7")                                            # doctest: +SKIP
        False
    """
    reader, asked = _reader(project), unit if isinstance(unit, str) else str(unit)
    decided = reader.flags.decide(name, asked, attributes)
    if decided.experiment:
        reader.expose(name, asked, decided)
    return decided.value


class _Reader:
    """Follow the table in force of one project: the shared map's while a node runs, else the newest file."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._flags: Flags | None = None
        self._table: RoutingTable | None = None
        self._next = 0.0
        self._lock = threading.Lock()
        self._log: FlagLog | None = None

    @property
    def flags(self) -> Flags:
        """The flags in force."""
        if time.monotonic() >= self._next:
            with self._lock:
                self._look()
        if self._flags is None:
            raise InputError(
                f"no definitions of the project in {self._layout.root.name!r} are applied, so it has no flags yet; "
                "run: flyball apply"
            )
        return self._flags

    def expose(self, name: str, unit: str, decided: Decided) -> None:
        """Log that a unit was exposed to the experiment that owns a flag."""
        from flyball.project.flag_log import FlagLog

        with self._lock:
            if self._log is None or self._log.pid != os.getpid():  # a forked child writes segments of its own
                self._log = FlagLog(self._layout)
            if self._table is not None:
                self._log.expose(self._table, name, unit, decided)

    def _look(self) -> None:
        from flyball.adapters.local.tables import newest_table, read_table

        version = _wanted(self._layout) or newest_table(self._layout)
        if version and (self._flags is None or self._flags.version != version):
            with suppress(FlyballError):  # what was known stays until the next look
                self._table = read_table(self._layout, version)
                self._flags = Flags(self._table)
        self._next = time.monotonic() + _LOOK_EVERY


def _wanted(layout: Layout) -> int:
    """Return the version that the node's workers serve, 0 when no node ever ran here."""
    from flyball.serving.shared.slots import SharedMap

    try:
        shared = SharedMap.open(layout.map)
    except FlyballError:
        return 0
    try:
        return shared.table_version
    finally:
        shared.close()


_readers: dict[str, _Reader] = {}
_found: dict[str, str] = {}  # folder asked from -> key of its reader


def _reader(project: str | Path | Project | None) -> _Reader:
    from flyball.project.root import Project

    if isinstance(project, Project):
        key = str(project.layout.state)
        return _readers.get(key) or _readers.setdefault(key, _Reader(project.layout))
    asked = os.fspath(project) if project is not None else os.getcwd()
    key = _found.get(asked, "")
    if key in _readers:
        return _readers[key]
    from flyball.config import load

    config = load(_file(Path(asked), explicit=project is not None))
    key = _found[asked] = str(config.layout.state)
    return _readers.setdefault(key, _Reader(config.layout))


def _file(asked: Path, *, explicit: bool) -> Path:
    if asked.is_file():
        return asked
    places = [asked, *([] if explicit else asked.resolve().parents)]
    for place in places:
        if (place / "flyball.toml").is_file():
            return place / "flyball.toml"
    where = "there" if explicit else "in this folder or above it"
    raise ConfigError(f"fb.flag found no flyball.toml {where}; name the project: fb.flag(..., project='path/to/it')")
