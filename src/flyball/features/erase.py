"""Erase a subject from what flyball keeps of features: the rows that are its, and the keys under which it is stored.

The surprise: a subject is key values by name, {"user": 42}, and concerns every view whose entity has all these keys,
whatever other keys it has beside them; so one person's carts in every shop go with the person. Types count: "42" is
another subject than 42. Keys go before rows: a key too long to be stored as it is can only be told from its rows, so an
erasure that was killed must find them still.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from flyball.errors import InputError, UnknownName
from flyball.features.keys import entity_key
from flyball.features.packing import namespace
from flyball.features.ports import OnlineStore
from flyball.features.pushes import id_key
from flyball.features.spec import EntitySpec, SourceSpec, ViewSpec
from flyball.features.values import exact, to_plain

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnType

__all__ = [
    "RewritableLog", "Stored", "Subject", "concerns", "erase_stored", "is_value", "long_keys", "mask",
    "matching_keys", "raw_mask", "subject_of",
]  # fmt: skip

Subject = dict[str, Any]
Mask = npt.NDArray[np.bool_]
_FIXED = {"i": 8, "b": 1, "d": 4, "t": 8}  # bytes of a key part after its tag; others carry their length
_AT_ONCE = 5_000


def subject_of(given: Mapping[str, Any], views: Iterable[ViewSpec]) -> Subject:
    """Return the subject with values of the declared types.

    Args:
        given: Key name -> value, plain or as text.
        views: Whose entities declare the keys.

    Raises:
        UnknownName: no entity has a key of that name, or none has all of them.
        InputError: nothing is given, a value is null, or of another type than its key.
    """
    if not given:
        raise InputError("there is nobody to erase; name the subject by its keys, such as user=42")
    entities = {view.entity for view in views}
    kinds = {key.name: key.type for entity in entities for key in entity.keys}
    for name in given:
        if name not in kinds:
            raise UnknownName.of("entity key", name, kinds)
    if not any(given.keys() <= {k.name for k in entity.keys} for entity in entities):
        raise UnknownName(f"no entity has the keys {', '.join(given)} together; erase them one by one")
    found = {name: exact(kinds[name], _from_text(kinds[name], value), f"key {name!r}") for name, value in given.items()}
    for name, value in found.items():
        if value is None:
            raise InputError(f"key {name!r} is null, which matches nobody; give its value")
    return found


def concerns(entity: EntitySpec, subject: Subject) -> bool:
    """Whether an entity has all the subject's keys."""
    return subject.keys() <= {k.name for k in entity.keys}


def mask(table: pa.Table, subject: Subject, timezone: str = "UTC") -> Mask:
    """Return which rows of a table are the subject's, raw or typed; none when a key has no column.

    Args:
        table: Rows; a key may lie in them as it was sent: a date or time as ISO text, bytes as base64 text.
        subject: Typed values by key name.
        timezone: What a time without an offset is in.
    """
    if not subject.keys() <= set(table.column_names):
        return np.zeros(table.num_rows, dtype=bool)
    found = np.ones(table.num_rows, dtype=bool)
    for name, value in subject.items():
        found &= _equal(table.column(name), value, timezone)
    return found


def raw_mask(source: SourceSpec, raw: pa.Table, subject: Subject) -> Mask:
    """Return which raw rows of a source are the subject's, where a key may be a column that the source derives."""
    found = mask(raw, subject, source.timezone)
    derived = {name for name, _ in source.derive}
    if not derived & subject.keys():
        return found
    import pyarrow as pa

    from flyball.features.reading import accept

    numbered = raw.append_column("__sequence", pa.array(np.arange(raw.num_rows), pa.int64()))
    whole = replace(source, where=None, checks=())  # rows that are left out lie there too
    accepted, _ = accept(whole, numbered, _kinds(source))
    found[accepted.column("__sequence").to_numpy()[mask(accepted, subject)]] = True
    return found


def _kinds(source: SourceSpec) -> dict[str, ColumnType] | None:
    """Return the raw column types of a source that only its schema tells, None for others."""
    if source.kind not in {"push", "stream"} or not source.schema:
        return None
    times = [name for name in (source.event_time, source.created_time) if name]
    return {column.name: column.type for column in source.schema} | dict.fromkeys(times, "timestamp")


def is_value(found: Any, value: Any) -> bool:
    """Whether a value as it was sent (plain or JSON) is this value of a subject, by type too."""
    try:
        return bool(exact(_kind(value), found, "") == value)
    except InputError:
        return False


def matching_keys(store: OnlineStore, view: ViewSpec, subject: Subject, rows: pa.Table | None = None) -> list[bytes]:
    """Return the store's keys of a view that are the subject's.

    Args:
        store: The online store.
        view: Any view, old digests too.
        subject: Whom to look for.
        rows: Rows of the view's source that are the subject's, with all keys; only keys too long to be stored as they
            are need them.
    """
    if not concerns(view.entity, subject):
        return []
    prefix = namespace(view.digest)
    whole = _whole_key(view.entity, subject)
    if whole is not None:
        return [key for key in store.keys(prefix + whole) if key == prefix + whole]
    wanted = {
        place: entity_key(EntitySpec("", (key,)), [subject[key.name]])
        for place, key in enumerate(view.entity.keys)
        if key.name in subject
    }
    known = {prefix + key for key in long_keys(view.entity, rows)}
    return [k for k in store.keys(prefix) if k in known or _is_mine(k[len(prefix) :], wanted)]


class Ids(Protocol):
    """What erasing needs of the index of event ids."""

    def remove(self, keys: Sequence[bytes]) -> int:
        """Forget ids; return how many were known."""
        ...


class RewritableLog(Protocol):
    """What erasing needs of an ingest log."""

    @property
    def event_ids(self) -> Ids:
        """The index of event ids."""
        ...

    def read_batches(self, source: str, *, after: int = 0, rows: int = ...) -> Iterator[pa.Table]:
        """Yield rows of a source in bounded pieces."""
        ...

    def rewrite(
        self, source: str, drop: Callable[[pa.Table], Any], *, dead: Callable[[pa.Table], Any] | None = None
    ) -> Any:
        """Take rows out for good; the answer has `rows` and `dead`, how many went."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What was found (and, unless it was a dry run, removed): rows and event ids by source, keys by view digest."""

    log: dict[str, int] = field(default_factory=dict)
    online: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


def erase_stored(
    store: OnlineStore,
    log: RewritableLog,
    views: Iterable[ViewSpec],
    sources: Iterable[SourceSpec],
    subject: Subject,
    *,
    known: Mapping[str, Sequence[bytes]],
    dry_run: bool = False,
) -> Stored:
    """Take a subject's keys out of the store, then its rows out of the ingest log; the writer's lock must be held.

    Args:
        store: The online store; writable unless `dry_run`.
        log: The ingest log.
        views: Every definition that may have rows, of all digests.
        sources: Every source that may have rows.
        subject: Whom to erase.
        known: By view digest, keys of the subject that do not show their parts.
        dry_run: Only count.
    """
    keys = {}
    for view in views:
        if concerns(view.entity, subject):
            mine = list(
                dict.fromkeys([*matching_keys(store, view, subject), *_there(store, known.get(view.digest, ()))])
            )
            keys[view.digest] = len(mine) if dry_run else _remove_keys(store, mine)
    rows, ids = {}, {}
    for source in sources:
        found = list(_logged(log, source, subject))
        known_ids = [id_key(source.name, v) for table in found for v in _ids(source, table)]
        if source.event_id:  # before the rows, which tell them
            ids[source.name] = len(known_ids) if dry_run else log.event_ids.remove(known_ids)
        rows[source.name] = sum(t.num_rows for t in found) if dry_run else _erase_log(log, source, subject)
    return Stored(rows, keys, ids)


def _logged(log: RewritableLog, source: SourceSpec, subject: Subject) -> Iterator[pa.Table]:
    """Yield the subject's raw rows of the log."""
    import pyarrow as pa

    for raw in log.read_batches(source.name):
        mine = raw_mask(source, raw.drop_columns(["__sequence", "__arrival"]), subject)
        if mine.any():
            yield raw.filter(pa.array(mine))


def _ids(source: SourceSpec, rows: pa.Table) -> list[Any]:
    from flyball.features.raw import MARK

    if source.event_id not in rows.column_names:
        return []
    found = [v for v in rows.column(source.event_id).to_pylist() if v is not None]
    return [v.removeprefix(MARK) if isinstance(v, str) else v for v in found]  # of an id 1 among texts


def _erase_log(log: RewritableLog, source: SourceSpec, subject: Subject) -> int:
    words = [
        re.compile(rb"(?<!\w)(?:" + b"|".join(map(re.escape, _spellings(v))) + rb")(?!\w)") for v in subject.values()
    ]

    def dead(table: pa.Table) -> Mask:  # messages that were no rows: whatever holds all values as whole words
        found = [all(w.search(_bytes(p)) for w in words) for p in table.column("payload").to_pylist()]
        return np.array(found, dtype=bool)

    gone = log.rewrite(source.name, lambda raw: raw_mask(source, raw, subject), dead=dead)
    return int(gone.rows) + int(gone.dead)


def _spellings(value: Any) -> list[bytes]:
    """Return how a value may be written in a message; a time in other offsets than UTC is not among them."""
    plain = str(to_plain(_kind(value), value)).encode()
    if isinstance(value, bytes):
        return [value, plain]
    if isinstance(value, datetime):
        iso = value.isoformat()
        texts = [iso, iso.replace("+00:00", "Z"), iso.replace("+00:00", ""), str(value)]
        return [plain, *(text.encode() for text in texts)]
    return [str(value).encode(), plain, json.dumps(value, default=str).strip('"').encode()]


def _bytes(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else str(payload).encode()


def _there(store: OnlineStore, keys: Sequence[bytes]) -> list[bytes]:
    return [k for k, v in zip(keys, store.get_many(list(keys)), strict=True) if v is not None] if keys else []


def _remove_keys(store: OnlineStore, keys: Sequence[bytes]) -> int:
    for begin in range(0, len(keys), _AT_ONCE):
        store.write(puts=[(key, None) for key in keys[begin : begin + _AT_ONCE]])
    return len(keys)


def _from_text(kind: str, value: Any) -> Any:
    if not isinstance(value, str) or kind == "string":
        return value
    if kind == "int64":
        try:
            return int(value)
        except ValueError:
            return value
    return {"true": True, "false": False}.get(value.lower(), value) if kind == "bool" else value


def _equal(column: pa.ChunkedArray, value: Any, timezone: str) -> Mask:
    """Compare with the column typed as reading types it; whole numbers and truths in a file of texts by their JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from flyball.features.reading import typed

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        read = typed(column, _kind(value), timezone)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a column of which no value is of this type
        return np.zeros(len(column), dtype=bool)
    same = pc.fill_null(pc.equal(read, pa.scalar(value, type=read.type)), False)
    if isinstance(value, int) and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        same = pc.or_(same, pc.fill_null(pc.equal(column, pa.scalar(json.dumps(value), type=column.type)), False))
    return np.asarray(same.to_numpy(zero_copy_only=False) if isinstance(same, pa.Array) else same.to_numpy(), bool)


def _kind(value: Any) -> ColumnType:
    """Return the column type of a subject's value, which is exact."""
    kinds = {bool: "bool", int: "int64", str: "string", bytes: "bytes", datetime: "timestamp", date: "date"}
    return kinds[type(value)]


def _whole_key(entity: EntitySpec, subject: Subject) -> bytes | None:
    names = [k.name for k in entity.keys]
    return entity_key(entity, [subject[n] for n in names]) if subject.keys() == set(names) else None


def long_keys(entity: EntitySpec, rows: pa.Table | None) -> set[bytes]:
    """Return the keys of rows that are stored as a digest, and so do not show their parts."""
    from flyball.features.keys import entity_keys

    if rows is None or not {k.name for k in entity.keys} <= set(rows.column_names):
        return set()
    return {key for key in entity_keys(entity, rows) if key is not None and key[:1] == b"h"}


def _is_mine(key: bytes, wanted: Mapping[int, bytes | None]) -> bool:
    parts = _parts(key)
    return parts is not None and all(parts[place] == part for place, part in wanted.items())


def _parts(key: bytes) -> list[bytes] | None:
    """Cut a key into its parts, None for one that is a digest."""
    if key[:1] == b"h":
        return None
    parts, at = [], 0
    while at < len(key):
        tag = chr(key[at])
        size = _FIXED[tag] if tag in _FIXED else 4 + int.from_bytes(key[at + 1 : at + 5], "big")
        parts.append(key[at : at + 1 + size])
        at += 1 + size
    return parts
