"""Manifests of training sets, by content digest, and stretches not to be trained on."""

from __future__ import annotations

import builtins
from dataclasses import replace
from datetime import datetime

from sqlalchemy import insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import datasets, poisoned
from flyball.control.values import pack, unpack
from flyball.datasets.types import DatasetManifest
from flyball.errors import InputError, UnknownName
from flyball.units import from_micros, to_micros

__all__ = ["Datasets"]


class Datasets:
    """datasets.ports.DatasetStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def add(self, manifest: DatasetManifest) -> None:
        """Record a manifest once, by digest."""
        with self._gate.write() as db:
            if db.scalar(select(datasets.c.seq).where(datasets.c.digest == manifest.digest)) is None:
                db.execute(insert(datasets).values(digest=manifest.digest, model=manifest.model, body=pack(manifest)))

    def supersede(self, old: str, new: DatasetManifest) -> None:
        """Record that `new` took the place of the set `old`, and of all that `old` had taken the place of."""
        with self._gate.write() as db:
            if db.scalar(select(datasets.c.seq).where(datasets.c.digest == new.digest)) is None:
                db.execute(insert(datasets).values(digest=new.digest, model=new.model, body=pack(new)))
            for row in db.execute(select(datasets).where(datasets.c.model == new.model)).all():
                known = unpack(row.body, DatasetManifest)
                if old in {known.digest, known.superseded_by} and known.digest != new.digest:
                    body = pack(replace(known, superseded_by=new.digest))
                    db.execute(update(datasets).where(datasets.c.seq == row.seq).values(body=body))

    def get(self, digest: str) -> DatasetManifest:
        """Return a manifest by digest or unique prefix; raises UnknownName."""
        with self._gate.read() as db:
            found = db.execute(
                select(datasets).where(datasets.c.digest.startswith(digest, autoescape=True)).limit(2)
            ).all()
            if not found or not digest:
                raise UnknownName.of("training set", digest, db.scalars(select(datasets.c.digest)).all())
        exact = [row for row in found if row.digest == digest]
        if len(found) > 1 and not exact:
            raise UnknownName(f"more than one training set begins with {digest!r}; give more digits")
        return unpack((exact or found)[0].body, DatasetManifest)

    def list(self, model: str) -> builtins.list[DatasetManifest]:
        """Return a model's manifests, oldest first."""
        query = select(datasets.c.body).where(datasets.c.model == model).order_by(datasets.c.seq)
        with self._gate.read() as db:
            return [unpack(body, DatasetManifest) for body in db.scalars(query)]

    def poisoned(self, model: str) -> builtins.list[tuple[datetime, datetime]]:
        """Return the stretches marked as not to be trained on."""
        query = select(poisoned.c.starts, poisoned.c.ends).where(poisoned.c.model == model).order_by(poisoned.c.starts)
        with self._gate.read() as db:
            return [(from_micros(start), from_micros(end)) for start, end in db.execute(query)]

    def poison(self, model: str, start: datetime, end: datetime, *, reason: str) -> None:
        """Mark a stretch."""
        if end <= start:
            raise InputError(f"a poisoned window from {start} to {end} is empty; give an end after its start")
        row = {"model": model, "starts": to_micros(start), "ends": to_micros(end), "reason": reason}
        with self._gate.write() as db:
            db.execute(insert(poisoned).values(**row))
