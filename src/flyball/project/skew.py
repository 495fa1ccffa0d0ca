"""`project.features.skew`: compute served vectors again from history, as known at their T, and compare.

Every prediction's vector is in the log; a sample is taken by a hash of its entity, so that the same entities are looked
at each time. The surprise: a version is held to the views it was trained with, old digests included, because that is
what served it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from flyball.adapters.local.tables import read_table
from flyball.errors import FlyballError, InputError, UnknownName
from flyball.features.skew import ColumnSkew, compare
from flyball.project.readers import service_of
from flyball.records.types import Prediction
from flyball.units import from_micros, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import FeatureService
    from flyball.project.root import Project

__all__ = ["SkewReport", "VersionSkew", "skew"]

_BUCKETS = 1 << 32


@dataclass(frozen=True, slots=True)
class VersionSkew:
    """One version's served vectors against history; `skipped` says why it could not be compared, if so."""

    model: str
    version: str
    predictions: int
    columns: tuple[ColumnSkew, ...]
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class SkewReport:
    """Skew of all versions that served; `broken` names exact columns with a difference, of which there must be none."""

    since: datetime | None
    sample: float
    versions: tuple[VersionSkew, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Columns that had to be exact and were not."""
        return tuple(
            f"{v.model} {v.version} {c.name}" for v in self.versions for c in v.columns if c.exact and c.skewed
        )

    @property
    def skewed(self) -> int:
        """Values that are not what they should have been."""
        return sum(c.skewed for v in self.versions for c in v.columns)


def skew(
    project: Project,
    *,
    view: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    sample: float = 1.0,
) -> SkewReport:
    """Compare served vectors with history.

    Args:
        project: The project.
        view: Only this view's features.
        model: Only this model's versions.
        since: Only predictions from here on.
        sample: Share of the entities, in (0, 1], by a hash of their keys.

    Raises:
        UnknownName: there is no such view or model.
        InputError: the share is outside of (0, 1].
    """
    if not 0 < sample <= 1:
        raise InputError(f"sample is {sample}; it is a share above 0 and at most 1")
    if model is not None and model not in (known := project.database.versions.models()):
        raise UnknownName.of("model with versions", model, known)
    groups: dict[tuple[str, str], list[Prediction]] = {}
    keys: dict[tuple[str, str], frozenset[str]] = {}
    for record in _served(project, model, None if since is None else to_micros(since)):
        if _drawn(project, record, sample, keys):
            groups.setdefault((record.model, assigned_version(project, record)), []).append(record)
    found = [_version(project, name, version, records, view) for (name, version), records in sorted(groups.items())]
    if view is not None and not any(v.columns or v.skipped for v in found):
        project.applied.view(view)
    return SkewReport(since, sample, tuple(v for v in found if v.columns or v.skipped))


def _served(project: Project, model: str | None, since: int | None) -> Iterator[Prediction]:
    for record in project.log.records(since=None if since is None else from_micros(since)):
        if isinstance(record, Prediction) and model in {None, record.model} and (since is None or record.at >= since):
            yield record


def _drawn(project: Project, record: Prediction, sample: float, keys: dict[tuple[str, str], frozenset[str]]) -> bool:
    """Whether a record's entities are in the sample: all of their requests are, or none."""
    if sample == 1:
        return True
    version = record.model, record.version
    if version not in keys:
        keys[version] = _keys_of(project, *version)
    text = repr(sorted((n, v) for n, v in record.inputs.items() if n in keys[version] or not keys[version]))
    return xxhash.xxh3_64_intdigest(text.encode()) >> 32 < sample * _BUCKETS


def _keys_of(project: Project, model: str, version: str) -> frozenset[str]:
    try:
        service = service_of(project, project.database.versions.get(model, version))
    except UnknownName:
        service = None
    views = () if service is None else service.views
    return frozenset(key.name for view in views for key in view.entity.keys)


def assigned_version(project: Project, record: Prediction) -> str:
    """Return the version whose features were read, which is not the one that answered when the champion stepped in."""
    if not record.fallback:
        return record.version
    if record.arm not in {"candidate", "champion"}:
        return record.arm  # a variant is called by its version
    try:
        route = read_table(project.layout, record.table).models.get(record.model)
    except FlyballError:
        return record.version
    asked = None if route is None else route.champion if record.arm == "champion" else route.candidate
    return record.version if asked is None else asked.version  # a champion's host was away, and a former one answered


def _version(project: Project, model: str, version: str, records: list[Prediction], view: str | None) -> VersionSkew:
    try:
        service = service_of(project, project.database.versions.get(model, version))
    except UnknownName:
        service = None
    if service is None:
        return VersionSkew(model, version, len(records), (), "its artifact is gone")
    if view is not None and view not in {v.name for v in service.views}:
        return VersionSkew(model, version, len(records), ())
    whole = [r for r in records if len(r.features) == len(service.names) and _is_read(r)]
    if not whole:
        return VersionSkew(model, version, 0, (), "no vector of it is in the log")
    needed = {spec.name for spec in service.inputs}
    hidden = {name for r in whole if r.protected for name in r.protected.split(",") if name in needed}
    if hidden:
        whole = [r for r in whole if not (r.protected and needed & set(r.protected.split(",")))]
    if not whole:
        names = ", ".join(sorted(hidden))
        return VersionSkew(
            model, version, 0, (), f"{names} is kept protected in the log (personal), so history cannot be asked for it"
        )
    try:
        recomputed = _recomputed(project, service, whole)
    except FlyballError as error:
        return VersionSkew(model, version, len(whole), (), str(error))
    served = np.array([r.features for r in whole], dtype=np.float64).reshape(len(whole), -1)
    columns = compare([r.id for r in whole], served, recomputed, service)
    return VersionSkew(model, version, len(whole), tuple(c for c in columns if view in {None, c.view}))


def _is_read(record: Prediction) -> bool:
    """Whether the features were read at all; a candidate whose features failed logs NaN and MISSING throughout."""
    if record.read:  # the store was away: a stale or a default value is no evidence
        return False
    return not (record.fallback and all(value != value for value in record.features))  # noqa: PLR0124 NaN


def _recomputed(project: Project, service: FeatureService, records: list[Prediction]) -> np.ndarray:
    from flyball.features.matrix import to_matrix
    from flyball.features.offline import service_history

    at = np.array([r.at for r in records], dtype=np.int64)
    table = service_history(project.engine, _requests(service, records), service, at)
    return to_matrix(table, service.names)


def _requests(service: FeatureService, records: list[Prediction]) -> pa.Table:
    """Return the logged inputs as typed columns."""
    import pyarrow as pa

    from flyball.features.types import to_arrow
    from flyball.features.values import exact

    def value(spec_type: str, given: Any, name: str) -> Any:
        given = given[0] if isinstance(given, list) and len(given) == 1 and not spec_type.startswith("list") else given
        return exact(spec_type, given, f"input {name!r}")

    columns = {
        spec.name: [value(spec.type, record.inputs.get(spec.name), spec.name) for record in records]
        for spec in service.inputs
    }
    return pa.table({spec.name: pa.array(columns[spec.name], to_arrow(spec.type)) for spec in service.inputs})
