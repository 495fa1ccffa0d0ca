"""Model versions: names reserved per run, one champion per model."""

from __future__ import annotations

import builtins
import dataclasses
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import version_names, versions
from flyball.control.values import pack, unpack
from flyball.errors import ConflictError, UnknownName
from flyball.registry.types import Lifecycle, ModelVersion, Version
from flyball.units import to_micros

__all__ = ["Versions"]


class Versions:
    """registry.ports.VersionStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def reserve(self, model: str, run: str) -> ModelVersion:
        """Return the version name of a run, the same on every call for one run."""
        of_model = version_names.c.model == model
        with self._gate.write() as db:
            number = db.scalar(select(version_names.c.number).where(of_model, version_names.c.run == run))
            if number is None:
                number = (db.scalar(select(func.max(version_names.c.number)).where(of_model)) or 0) + 1
                db.execute(insert(version_names).values(model=model, run=run, number=number))
        return ModelVersion(f"v{number}")

    def add(self, version: Version) -> None:
        """Record a version once; the same content again changes nothing, other content raises ConflictError."""
        body = _body(version)
        with self._gate.write() as db:
            known = db.scalar(select(versions.c.body).where(*_is(version.model, version.version)))
            if known is None:
                row = {"model": version.model, "version": version.version, "lifecycle": version.lifecycle.value}
                at = to_micros(version.created)
                db.execute(insert(versions).values(**row, changed=at, gate=version.gate, body=body))
            elif known != body:
                raise ConflictError(
                    f"{version.model} {version.version} is registered with other content; versions never change, "
                    "register a new one"
                )

    def get(self, model: str, version: str) -> Version:
        """Return a version; raises UnknownName with near names."""
        with self._gate.read() as db:
            row = db.execute(select(versions).where(*_is(model, version))).first()
            if row is None:
                raise _unknown(db, model, version)
        return _version(row)

    def list(self, model: str) -> builtins.list[Version]:
        """Return all versions of a model, oldest first."""
        with self._gate.read() as db:
            rows = db.execute(select(versions).where(versions.c.model == model).order_by(versions.c.seq)).all()
        return [_version(row) for row in rows]

    def models(self) -> builtins.list[str]:
        """Return the names of all models that have versions."""
        with self._gate.read() as db:
            return [str(m) for m in db.scalars(select(versions.c.model).distinct().order_by(versions.c.model))]

    def champion(self, model: str) -> Version | None:
        """Return the champion, if there is one."""
        champion = versions.c.lifecycle == Lifecycle.CHAMPION.value
        with self._gate.read() as db:
            row = db.execute(select(versions).where(versions.c.model == model, champion)).first()
        return _version(row) if row is not None else None

    def set_lifecycle(self, model: str, version: str, to: Lifecycle, *, now: datetime) -> None:
        """Move a version; making one champion retires the present champion in the same transaction."""
        changed = to_micros(now)
        champion = versions.c.lifecycle == Lifecycle.CHAMPION.value
        with self._gate.write() as db:
            if db.execute(select(versions.c.seq).where(*_is(model, version))).first() is None:
                raise _unknown(db, model, version)
            if to is Lifecycle.CHAMPION:
                others = (versions.c.model == model, versions.c.version != version, champion)
                db.execute(update(versions).where(*others).values(lifecycle=Lifecycle.RETIRED.value, changed=changed))
            db.execute(update(versions).where(*_is(model, version)).values(lifecycle=to.value, changed=changed))

    def set_gate(self, model: str, version: str, verdict: str) -> None:
        """Record the gate's verdict."""
        with self._gate.write() as db:
            if db.execute(update(versions).where(*_is(model, version)).values(gate=verdict)).rowcount == 0:
                raise _unknown(db, model, version)


def _is(model: str, version: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return versions.c.model == model, versions.c.version == version


def _body(version: Version) -> str:
    """Return what never changes; lifecycle and gate live in columns."""
    return pack(dataclasses.replace(version, lifecycle=Lifecycle.CANDIDATE, gate=""))


def _version(row: Row[tuple[object, ...]]) -> Version:
    fixed = unpack(row.body, Version)
    return dataclasses.replace(fixed, lifecycle=Lifecycle(row.lifecycle), gate=row.gate)


def _unknown(db: Connection, model: str, version: str) -> UnknownName:
    known = db.scalars(select(versions.c.version).where(versions.c.model == model).order_by(versions.c.seq)).all()
    return UnknownName.of(f"version of {model}", version, known)
