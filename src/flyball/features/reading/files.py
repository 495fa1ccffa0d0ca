"""Which files a source has, which columns they hold, and what was pinned of them at apply.

The surprise: a source's types are not those of its first file alone. They are what its definition declares, else what
was pinned when it was applied, else its first file's; every other file is held to them, column by column.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.disk import write_atomically
from flyball.errors import SourceError, first_line
from flyball.features import types
from flyball.features.spec import ColumnType, SourceSpec, digest_of

__all__ = [
    "FIRST_SEQUENCE", "Pin", "Reference", "Shape", "SourceFile", "check_file", "file_types", "open_address",
    "parquet_shape", "read_pin", "reference", "source_files", "stamp", "write_pin",
]  # fmt: skip

FIRST_SEQUENCE = -(2**62)
"""A file row's sequence is this plus (its file's place << 32) plus its row number, in every engine."""
_SUFFIXES = {"parquet": (".parquet", ".pq"), "csv": (".csv", ".csv.gz", ".tsv")}
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its name (relative to the project, or an address), where to open it, its place in order of names."""

    name: str
    place: str
    index: int

    @property
    def is_remote(self) -> bool:
        """Whether fsspec opens it."""
        return "://" in self.place


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file holds: rows (-1: not counted) and its columns' Arrow types."""

    rows: int
    fields: Mapping[str, pa.DataType]


@dataclass(frozen=True, slots=True)
class Pin:
    """A source's column types when it was applied; columns in `optional` some of its files lacked."""

    of: str
    types: dict[str, ColumnType]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """The raw types every file is held to; `required` are the columns that no file may lack."""

    types: dict[str, ColumnType]
    required: frozenset[str]
    said: str  # who said so: "declared", "applied" or the first file's name


def source_files(root: Path, spec: SourceSpec, state: Path | None = None) -> list[SourceFile]:
    """Return a source's files in order of their names; the list may be empty.

    Raises:
        SourceError: an address cannot be listed.
    """
    if spec.kind == "frame":
        frame = _state(root, state) / "frames" / f"{spec.path}.parquet"
        return [SourceFile(f"frame {spec.path[:12]}", str(frame), 0)] if frame.exists() else []
    if spec.kind not in {"parquet", "csv"}:
        return []
    found: dict[str, str] = {}
    for pattern in spec.path.split("\n"):
        found |= _addresses(spec, pattern) if "://" in pattern else _local(root, pattern, _SUFFIXES[spec.kind])
    return [SourceFile(name, found[name], i) for i, name in enumerate(sorted(found))]


def file_types(root: Path, spec: SourceSpec, state: Path | None = None) -> dict[str, ColumnType] | None:
    """Return a source's raw column types, or None when nobody knows them yet.

    They are declared, pinned at apply, or told by files; columns of types that flyball does not read are left out.

    Raises:
        SourceError: a file is no readable Parquet.
    """
    shapes: dict[str, Shape] = {}
    if spec.kind in {"parquet", "frame"}:
        shapes = {f.name: parquet_shape(spec, f) for f in source_files(root, spec, state)}
    found = reference(spec, shapes, read_pin(root, spec, state))
    return found.types or None


def reference(spec: SourceSpec, shapes: Mapping[str, Shape], pin: Pin | None) -> Reference:
    """Return what a source's files are held to; later files may add columns."""
    first = next(iter(shapes), None)
    known = dict(pin.types) if pin is not None else {} if first is None else _readable(shapes[first])
    required = set(known) - set(pin.optional if pin is not None else ())
    declared = {c.name: c.type for c in spec.schema}
    for shape in shapes.values():
        known = _readable(shape) | known
    said = "applied" if pin is not None else "declared" if first is None or spec.schema else first
    return Reference(known | declared, frozenset(required | set(declared)), said)


def check_file(spec: SourceSpec, name: str, shape: Shape, ref: Reference, columns: Iterable[str]) -> None:
    """Hold one file to the reference in these raw columns.

    Raises:
        SourceError: a column is gone or has another type; names file, column, what it was, what it is.
    """
    for column in sorted(columns):
        if column not in ref.types:
            continue
        was = ref.types[column]
        todo = "write the file again with the old type, or run flyball apply to take the new one"
        if column not in shape.fields:
            if column in ref.required:
                raise SourceError(
                    f"source {spec.name!r}: {name} has no column {column!r} any more (was {was}, {ref.said}; is gone); "
                    f"it has {', '.join(sorted(shape.fields))}; {todo.replace('the old type', 'it')}"
                )
            continue
        found = shape.fields[column]
        if spec.kind == "csv":  # sniffed types say little; reading holds every value to the column's type
            continue
        kind = types.from_arrow(found)
        if pa.types.is_null(found) or kind == was or (kind is not None and reads_as(kind, was)):
            continue
        raise SourceError(
            f"source {spec.name!r}: column {column!r} of {name} changed its type (was {was}, {ref.said}; is "
            f"{kind or found}); {todo}"
        )


def reads_as(found: ColumnType, want: ColumnType) -> bool:
    """Whether values of one type can be read as another without loss of meaning."""
    if want == "float64":
        return found == "float32"
    if types.is_vector(want):
        element = types.element_of(found)
        return (types.vector_size(found) == types.vector_size(want) and types.is_vector(found)) or element in {
            "float32", "float64"
        }  # fmt: skip
    if (wide := types.decimal_of(want)) is not None:
        narrow = types.decimal_of(found)
        fits = narrow is not None and narrow[1] <= wide[1] and narrow[0] - narrow[1] <= wide[0] - wide[1]
        return fits or found in {"int64", "string"}
    inner = types.element_of(want)
    if inner is not None:
        element = types.element_of(found)
        return element is not None and (element == inner or reads_as(element, inner))
    return (found == "string" and want in {"timestamp", "date", "bytes"}) or (found == "date" and want == "timestamp")


def parquet_shape(spec: SourceSpec, file: SourceFile) -> Shape:
    """Read a Parquet file's footer.

    Raises:
        SourceError: it is no complete Parquet file.
    """
    key = (file.place, *stamp(file))
    if key in _shapes:
        return _shapes[key]
    try:
        if file.is_remote:
            filesystem, path = open_address(spec, file.place)
            with filesystem.open(path, "rb") as opened:
                read = pq.ParquetFile(opened)
                shape = Shape(read.metadata.num_rows, {f.name: f.type for f in read.schema_arrow})
        else:
            read = pq.ParquetFile(file.place)
            shape = Shape(read.metadata.num_rows, {f.name: f.type for f in read.schema_arrow})
            read.close()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(
            f"source {spec.name!r}: {file.name} is no readable Parquet file ({first_line(error)}); write it "
            "again, under another name first and then renamed, or take it away"
        ) from error
    if len(_shapes) > _MOST_SHAPES:
        _shapes.clear()
    _shapes[key] = shape
    return shape


_shapes: dict[tuple[Any, ...], Shape] = {}
_MOST_SHAPES = 20_000


def stamp(file: SourceFile) -> tuple[int, int]:
    """Return a file's size and time of change (ns; 0 where a store tells none)."""
    if not file.is_remote:
        found = os.stat(file.place)
        return found.st_size, found.st_mtime_ns
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(file.place)
    info = filesystem.info(path)
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        at = info.get(name)
        if isinstance(at, int | float):
            return int(info["size"]), int(at * 1e9)
        if at is not None and hasattr(at, "timestamp"):
            return int(info["size"]), int(at.timestamp() * 1e9)
    return int(info["size"]), 0


def open_address(spec: SourceSpec, address: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of an address, and the path in it.

    Raises:
        SourceError: nobody serves such an address here.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        scheme = address.partition("://")[0]
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "az": "azure"}.get(scheme)
        todo = f"pip install 'flyball[{extra}]'" if extra else "check the address"
        raise SourceError(f"source {spec.name!r}: {address} cannot be opened ({first_line(error)}); {todo}") from error
    return filesystem, str(path)


def read_pin(root: Path, spec: SourceSpec, state: Path | None = None) -> Pin | None:
    """Return what was pinned of a source; nothing when another definition of it was."""
    try:
        pin = msgspec.json.decode(_pin_path(root, spec, state).read_bytes(), type=Pin)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError:  # half-written by a hand: as if nothing was pinned
        return None
    return pin if pin.of == _identity(spec) else None


def write_pin(
    root: Path, spec: SourceSpec, kinds: Mapping[str, ColumnType], optional: Sequence[str] = (), *, state: Path | None
) -> None:
    """Pin a source's raw types, replacing what was pinned."""
    pin = Pin(_identity(spec), dict(kinds), tuple(sorted(optional)))
    write_atomically(_pin_path(root, spec, state), msgspec.json.encode(pin))


def _identity(spec: SourceSpec) -> str:
    return digest_of((spec.name, spec.kind, spec.path, spec.database, spec.schema))[:16]


def _pin_path(root: Path, spec: SourceSpec, state: Path | None) -> Path:
    return _state(root, state) / "sources" / f"{spec.name}.json"


def _state(root: Path, state: Path | None) -> Path:
    return root / ".flyball" if state is None else state


def _readable(shape: Shape) -> dict[str, ColumnType]:
    return {name: kind for name, found in shape.fields.items() if (kind := types.from_arrow(found)) is not None}


def _local(root: Path, pattern: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    whole = root / pattern
    if whole.is_dir():
        inside = (p for p in whole.rglob("*") if p.name.endswith(suffixes) and p.is_file())
        paths = [p for p in inside if not any(part[0] in "._" for part in p.relative_to(whole).parts)]
    else:
        paths = [Path(p) for p in glob.glob(str(whole), recursive=True)]
    return {_relative(p, root): str(p) for p in paths}


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def _addresses(spec: SourceSpec, pattern: str) -> dict[str, str]:
    filesystem, path = open_address(spec, pattern)
    suffixes = _SUFFIXES[spec.kind]
    try:
        if _MAGIC & set(path):
            paths = [str(p) for p in filesystem.glob(path) if not filesystem.isdir(p)]
        elif filesystem.isdir(path):
            paths = [str(p) for p in filesystem.find(path) if str(p).endswith(suffixes)]
        else:
            paths = [path] if filesystem.exists(path) else []
    except OSError as error:
        raise SourceError(f"source {spec.name!r}: {pattern} cannot be listed ({first_line(error)})") from error
    return {filesystem.unstrip_protocol(p): filesystem.unstrip_protocol(p) for p in paths}
