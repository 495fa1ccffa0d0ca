"""Which segments of the prediction log are to be shipped, and which may go: pure decisions.

A segment is shipped whole, once nobody appends to it any more. The surprise: shipping needs no transaction. The names
of the files follow from the segment alone, so a shipment that was killed is simply done again, over what it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from flyball.errors import InputError

__all__ = ["Part", "Segment", "Shipped", "due", "expired", "file_name", "model_of", "over_budget", "removable"]

_OF_NO_MODEL = ("outcomes/", "exposures/")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file: its path below the log's folder, bytes, when it was last written (µs), whether it is closed."""

    name: str
    size: int
    written: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file: where it lies below the shipment's root, its rows and bytes, newest record (µs)."""

    path: str
    rows: int
    size: int
    until: int


@dataclass(frozen=True, slots=True)
class Shipped:
    """What was shipped, by segment: its files, and the bytes at its end that were no complete frame."""

    segments: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    torn: dict[str, int] = field(default_factory=dict)

    def with_segment(self, name: str, parts: Sequence[Part], torn: int) -> Shipped:
        """Return the same with one segment more."""
        grown = {**self.segments, name: tuple(parts)}
        return replace(self, segments=grown, torn={**self.torn, name: torn} if torn else self.torn)

    def without(self, paths: Iterable[str]) -> Shipped:
        """Return the same without some files; their segments stay known as shipped."""
        gone = frozenset(paths)
        return replace(
            self, segments={name: tuple(p for p in ps if p.path not in gone) for name, ps in self.segments.items()}
        )


def due(segments: Iterable[Segment], shipped: Shipped) -> list[Segment]:
    """Return the closed segments that were not shipped yet, oldest first."""
    return sorted((s for s in segments if s.closed and s.name not in shipped.segments), key=_age)


def removable(
    segments: Iterable[Segment], shipped: Shipped, *, now: int, keep: timedelta, needed: int
) -> list[Segment]:
    """Return the segments that may be deleted, oldest first.

    Args:
        segments: What is there.
        shipped: What was shipped; nothing else ever goes.
        now: µs.
        keep: How long a segment stays after it was last written.
        needed: Readers (rollouts under way, open windows of monitors) still need what was written from here on, µs.
    """
    until = min(now - keep // timedelta(microseconds=1), needed)
    return sorted((s for s in segments if s.closed and s.name in shipped.segments and s.written < until), key=_age)


def over_budget(
    segments: Sequence[Segment], shipped: Shipped, *, budget: int, needed: int, local_parts: bool
) -> tuple[list[Segment], list[Part], int]:
    """Return (segments, files) to delete, oldest first, so that the rest fits, and the bytes that still do not.

    Shipped segments go before their Parquet, which says the same in less room; what was not shipped, and what readers
    need, never goes.

    Args:
        segments: What is there.
        shipped: What was shipped.
        budget: Bytes, 0 for no limit.
        needed: As in `removable`.
        local_parts: Whether the Parquet files take room of the same disk.
    """
    parts = [part for ps in shipped.segments.values() for part in ps] if local_parts else []
    excess = sum(s.size for s in segments) + sum(p.size for p in parts) - budget
    if not budget or excess <= 0:
        return [], [], 0
    gone: list[Segment] = []
    for segment in sorted(segments, key=_age):
        if excess > 0 and segment.closed and segment.name in shipped.segments and segment.written < needed:
            gone.append(segment)
            excess -= segment.size
    files: list[Part] = []
    for part in sorted(parts, key=lambda p: p.until):
        if excess > 0 and part.until < needed:
            files.append(part)
            excess -= part.size
    return gone, files, max(excess, 0)


def expired(shipped: Shipped, retention: Mapping[str, timedelta], *, now: int) -> list[Part]:
    """Return the files whose every record is older than its model's retention; zero means for ever.

    The model of a file is the `model=NAME` part of its path; outcomes and exposures carry no model and follow the
    longest retention.
    """
    longest = max(retention.values(), default=timedelta(0))
    if any(not span for span in retention.values()):
        longest = timedelta(0)
    found = []
    for parts in shipped.segments.values():
        for part in parts:
            span = retention.get(model_of(part.path), longest if part.path.startswith(_OF_NO_MODEL) else timedelta(0))
            if span and part.until < now - span // timedelta(microseconds=1):
                found.append(part)
    return found


def model_of(path: str) -> str:
    """Return the model in a file's path, empty when there is none."""
    return next((p.removeprefix("model=") for p in path.split("/") if p.startswith("model=")), "")


def file_name(kind: str, model: str, date: str, segment: str) -> str:
    """Return the path of the Parquet file of one kind, model and day (YYYY-MM-DD) of a segment.

    Raises:
        InputError: a name would lead out of the folder.
    """
    stem = segment.removesuffix(".seg").replace("/", "-")
    parts = [kind, *([f"model={model}"] if model else []), f"date={date}", f"{stem}.parquet"]
    if any(p.endswith(("=.", "=..")) or "/" in p or "\\" in p for p in parts):
        raise InputError(f"{model!r} or {segment!r} cannot be part of a path; use letters, digits and underscores")
    return "/".join(parts)


def _age(segment: Segment) -> tuple[int, str]:
    return segment.written, segment.name
