"""One stretch of the ingest log: a segment that is appended to, or the folder of Parquet files it became.

The surprise: what is kept in memory of a folder is its index only. Its rows are read in batches when somebody asks,
so a log of any length is followed in bounded memory; of a segment the decoded rows are kept, because it is small.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flyball.disk import replacing, sync, write_atomically
from flyball.errors import IntegrityError, first_line
from flyball.features.raw import concat_raw, raw_table
from flyball.records.segment import read_frames
from flyball.records.types import DeadLetter, Event, Published, decode

__all__ = [
    "DEAD", "MARKS", "Part", "clean", "damaged", "dead_of", "dead_table", "follow", "load", "pack", "read_part",
    "rewrite_part",
]  # fmt: skip

Span = tuple[int, int, int]  # first and last sequence, rows
Keep = Callable[[pa.Table], Any]  # a table -> mask of the rows to drop
MARKS = pa.schema([("__sequence", pa.int64()), ("__arrival", pa.int64())])
DEAD = pa.schema([
    ("source", pa.string()), ("stream", pa.string()), ("partition", pa.string()), ("position", pa.string()),
    ("at", pa.int64()), ("payload", pa.binary()), ("error", pa.string()),
])  # fmt: skip
_DEAD_FILE = "dead.parquet"


@dataclass(slots=True)
class Part:
    """What is known of one stretch: where rows of which source are, where consumers stood, what was corrected."""

    path: Path
    offset: int = 0  # bytes decoded of a segment, -1 for a folder
    last: int = 0
    spans: dict[str, Span] = field(default_factory=dict)
    positions: dict[tuple[str, str], str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    dead: int = 0
    generation: int = 0  # how often a folder was rewritten
    files: dict[str, str] = field(default_factory=dict)  # source -> file, of a folder
    tables: dict[str, list[pa.Table]] = field(default_factory=dict)  # of a segment
    letters: list[DeadLetter] = field(default_factory=list)  # of a segment


def follow(path: Path, known: Part | None) -> Part:
    """Decode what was appended to a segment since `known`."""
    part = known or Part(path)
    if path.stat().st_size <= part.offset:
        return part
    fresh: dict[str, list[Event]] = {}
    for frame in read_frames(path, part.offset):
        for record in decode(frame.payload):
            _take(part, record, fresh)
        part.offset = frame.end
    for source, events in fresh.items():
        mine = part.tables.setdefault(source, [])
        mine.append(_table(events))
        if len(mine) > 16:
            mine[:] = [concat_raw(mine)]
    return part


def _take(part: Part, record: object, fresh: dict[str, list[Event]]) -> None:
    match record:
        case Event():
            for stream, partition, position in record.origin:
                part.positions[(stream, partition)] = position
            if record.rows:
                fresh.setdefault(record.source, []).append(record)
                last = record.sequence + len(record.rows) - 1
                first, _, rows = part.spans.get(record.source, (record.sequence, 0, 0))
                part.spans[record.source] = (first, last, rows + len(record.rows))
                part.last = max(part.last, last)
        case Published():
            part.published.append(record)
        case DeadLetter():
            part.letters.append(record)
            part.dead += 1


def _table(events: Sequence[Event]) -> pa.Table:
    table = raw_table([row for event in events for row in event.rows])
    sequence = [event.sequence + k for event in events for k in range(len(event.rows))]
    arrival = [event.arrival for event in events for _ in event.rows]
    for name, marks in zip(MARKS.names, (sequence, arrival), strict=True):
        table = table.append_column(name, pa.array(marks, pa.int64()))
    return table


def load(folder: Path) -> Part:
    """Read the index of a folder.

    Raises:
        FileNotFoundError: it is gone.
        IntegrityError: its index cannot be read.
    """
    path = folder / "index.json"
    try:
        return _part(folder, json.loads(path.read_text()))
    except FileNotFoundError as error:
        if folder.exists():
            raise damaged(path, "it is gone") from error
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, what: str) -> IntegrityError:
    """Return the error for a file of the log that somebody else changed."""
    return IntegrityError(
        f"{path.parent.name}/{path.name} of the ingest log is damaged ({what}); put it back from a backup. Nothing is "
        "read or written around it, because rows would be missing in silence"
    )


def _part(folder: Path, index: dict[str, Any]) -> Part:
    files = {source: name for name, source in index["files"].items()}
    spans = {source: tuple(span) for source, span in index.get("spans", {}).items()}
    for source in files.keys() - spans.keys():  # written before spans were kept
        sequence = pq.read_table(folder / files[source], columns=["__sequence"]).column(0)
        spans[source] = (sequence[0].as_py(), sequence[-1].as_py(), len(sequence))
    return Part(
        folder, -1, index["last"], spans, {(s, p): at for s, p, at in index.get("positions", ())},
        [Published(*mark) for mark in index.get("published", ())], index.get("dead", 0), index.get("generation", 0),
        files,
    )  # fmt: skip


def pack(part: Part, marks: Callable[[str, pa.Table], pa.Table]) -> Path:
    """Turn a closed segment into a folder, which appears whole; return it. The segment is left to the caller.

    Its files stay in the order of their sequences and `index.json` is their manifest: who reads the log follows it by
    sequence, and corrections name sequences. A manifest by event time (`features.manifest`) would help nobody, because
    a pushed row's event time is raw here, a text perhaps, and counts only once its source has accepted it.
    """
    folder, making = part.path.with_suffix(".parts"), part.path.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    part.files = {source: f"{i}.parquet" for i, source in enumerate(sorted(part.tables))}
    for source, name in part.files.items():
        pq.write_table(marks(source, concat_raw(part.tables[source])), making / name, compression="zstd")
    if part.letters:
        pq.write_table(dead_table(part.letters), making / _DEAD_FILE, compression="zstd")
    _write_index(making, part)
    for path in (*making.iterdir(), making):
        sync(path)
    making.rename(folder)
    sync(folder.parent)
    return folder


def _write_index(folder: Path, part: Part) -> None:
    index = {
        "last": part.last, "files": {name: source for source, name in part.files.items()}, "spans": part.spans,
        "positions": [[s, p, at] for (s, p), at in part.positions.items()],
        "published": [[m.source, m.first, m.last, m.at] for m in part.published],
        "dead": part.dead, "generation": part.generation,
    }  # fmt: skip
    write_atomically(folder / "index.json", json.dumps(index).encode(), durable=True)


def read_part(part: Part, source: str, after: int, rows: int) -> Iterator[pa.Table]:
    """Yield a source's rows with sequence > `after`, at most about `rows` at a time.

    Raises:
        FileNotFoundError: the folder was rewritten since its index was read, before anything was yielded.
    """
    if source not in part.spans or part.spans[source][1] <= after:
        return
    if part.offset >= 0:
        found: Iterator[pa.Table] = iter(list(part.tables.get(source, ())))
    else:
        found = _batches(part.path / part.files[source], rows)
    for table in found:
        sequence = table.column("__sequence")
        if sequence[-1].as_py() <= after:
            continue
        yield table if sequence[0].as_py() > after else table.filter(pc.greater(sequence, after))


def _batches(path: Path, rows: int) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield pa.Table.from_batches([batch])
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, first_line(error)) from error


def dead_table(letters: Sequence[DeadLetter]) -> pa.Table:
    """Return dead letters as a table."""
    return pa.table({name: [getattr(d, name) for d in letters] for name in DEAD.names}, DEAD)


def dead_of(part: Part) -> pa.Table:
    """Return the dead letters of one stretch."""
    if part.offset >= 0:
        return dead_table(part.letters)
    path = part.path / _DEAD_FILE
    return pq.read_table(path, schema=DEAD) if part.dead and path.exists() else DEAD.empty_table()


def rewrite_part(part: Part, source: str, drop: Keep, dead: Keep | None) -> tuple[int, int]:
    """Leave rows (and dead letters) out of a folder; return how many went. The new index makes it so, at once.

    Sequences stay as they are. A kill before the index is renamed leaves files that no index names.
    """
    gone = gone_dead = 0
    generation = part.generation + 1
    if source in part.files:
        kept, gone = _without(part.path / part.files[source], drop, part.path / f"{generation}-{part.files[source]}")
        if gone:
            old = part.files.pop(source)
            first, last, rows = part.spans.pop(source)
            if kept:
                part.files[source] = f"{generation}-{old}"
                part.spans[source] = (first, last, rows - gone)
    if dead is not None and part.dead:
        gone_dead = _without_dead(part, source, dead)
    if gone or gone_dead:
        part.generation = generation
        _write_index(part.path, part)
    return gone, gone_dead  # `clean` removes the old files


def _without(path: Path, drop: Keep, target: Path) -> tuple[int, int]:
    kept = gone = 0
    writer = None
    for table in _batches(path, 65_536):
        mask = pa.array(drop(table.drop_columns(MARKS.names)), pa.bool_())
        rest = table.filter(pc.invert(pc.fill_null(mask, False)))
        gone += table.num_rows - rest.num_rows
        kept += rest.num_rows
        if rest.num_rows:
            writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(rest)
    if writer is not None:
        writer.close()
        sync(target)
    if not gone:
        target.unlink(missing_ok=True)
    return kept, gone


def _without_dead(part: Part, source: str, dead: Keep) -> int:
    """Rewrite the dead letters of a folder; the file is replaced by one rename."""
    table = dead_of(part)
    mine = pc.equal(table.column("source"), source)
    mask = pc.and_(mine, pa.array(dead(table), pa.bool_()))
    rest = table.filter(pc.invert(mask))
    gone = int(table.num_rows - rest.num_rows)
    if gone:
        with replacing(part.path / _DEAD_FILE) as draft:
            pq.write_table(rest, draft, compression="zstd")
        part.dead = rest.num_rows
    return gone


def clean(folder: Path) -> None:
    """Remove what no index names (left by a killed rewrite)."""
    part = load(folder)
    named = {"index.json", _DEAD_FILE, "manifest.json", *part.files.values()}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()
