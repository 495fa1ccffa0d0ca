"""A version's last examination before it may take traffic in this worker: warm rows, parity, latency.

The rows are the newest that were served here, read from the tail of this worker's own log; features the new version
shares with the logged ones keep their values, the others are taken from the artifact's sample. The surprise: finding
the first frame in the middle of a segment needs no index, because a frame proves itself by its checksum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xxhash

from flyball.errors import FlyballError, IntegrityError
from flyball.records.segment import HEADER
from flyball.records.types import Prediction, decode
from flyball.serving.models.loading import Loaded

__all__ = ["ROWS", "TooSlow", "Unlike", "check_parity", "examine", "logged_rows", "matrix_of", "newest_rows"]

ROWS = 256  # rows a version is warmed with
_TAIL = 1 << 20  # bytes of a segment that are looked at
_TOLERANCE = 1e-5  # difference between an answer and the registered one, relative above 1
_PATIENCE = 30.0  # seconds that warming may take, whatever the rows
_TIMED = 5  # one-row calls; the best of them counts, for a busy machine says nothing about the version


class TooSlow(FlyballError):
    """Say that one row takes a version longer than a whole request may."""


class Unlike(IntegrityError):
    """Say that a version does not answer its sample as it did when it was registered."""


async def examine(loaded: Loaded, rows: np.ndarray | None, *, deadline: float) -> None:
    """Have a version answer its sample and `rows` (float64 (n, k)), and compare what is known of both.

    Raises:
        Unlike: it answers its own sample otherwise than when it was registered.
        TooSlow: one row takes it longer than a whole request may (`deadline` seconds).
        FlyballError: it cannot answer.
    """
    answers = await _answers(loaded, loaded.sample)
    if loaded.expected is not None:
        check_parity(loaded.ref.version, answers, loaded.expected[: len(answers)])
    if rows is not None and len(rows):
        await _answers(loaded, rows, forgiving=True)
    best = math.inf
    for _ in range(_TIMED):
        start = time.perf_counter()
        await _answers(loaded, loaded.sample[:1])
        best = min(best, time.perf_counter() - start)
        if best < deadline:
            return
    raise TooSlow(
        f"version {loaded.ref.version} needs {best:.3g} s for one row, and a whole request may take {deadline:g} s; "
        "make it faster or raise the deadline: fb.Serving(deadline=...)"
    )


async def _answers(loaded: Loaded, rows: np.ndarray, *, forgiving: bool = False) -> list[object]:
    """Return the answers; a logged row may be bad for any version, so those are not held against it."""
    item = await loaded.batcher.submit(rows, time.monotonic() + _PATIENCE)
    if item.errors is not None and not forgiving:
        cause = next(iter(item.errors.values()))
        raise FlyballError(f"version {loaded.ref.version} cannot answer its own sample row: {cause}")
    return list(item.values)


def check_parity(version: str, answers: Iterable[object], expected: np.ndarray) -> None:
    """Raise Unlike unless the answers to a sample are those that were registered, to 1e-5."""
    got = np.asarray(list(answers), dtype=np.float64)
    wanted = np.asarray(expected, dtype=np.float64)
    if got.shape != wanted.shape:
        raise Unlike(
            f"version {version} answers its sample in shape {got.shape}, registered was {wanted.shape}; "
            "register the model again"
        )
    apart = np.abs(got - wanted) / np.maximum(1.0, np.abs(wanted))
    worst = float(np.nan_to_num(apart).max(initial=0.0))
    if worst > _TOLERANCE or (np.isnan(got) != np.isnan(wanted)).any():
        raise Unlike(
            f"version {version} answers its own sample {worst:.3g} away from what was registered (at most "
            f"{_TOLERANCE:g}); the libraries here are other ones than those it was made with: register it again"
        )


def newest_rows(folder: Path, model: str, *, limit: int = ROWS) -> list[Prediction]:
    """Return a model's newest logged predictions in the segments of one worker, newest last; none when there is none.

    Only the end of the newest segment is read; what cannot be read is left out, for these rows are a convenience.
    """
    try:
        newest = max(folder.glob("*.seg"), default=None)
        if newest is None:
            return []
        with newest.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except OSError:
        return []
    found: list[Prediction] = []
    for payload in _frames(data):
        found += [r for r in decode(payload) if isinstance(r, Prediction) and r.model == model and r.features]
    return found[-limit:]


def _frames(data: bytes) -> Iterable[bytes]:
    """Yield the whole frames of a cutting of a segment, wherever the first begins."""
    at = 0
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        payload = data[at + HEADER.size : end] if length and end <= len(data) else b""
        if payload and xxhash.xxh3_64_intdigest(payload) == checksum:
            yield payload
            at = end
        else:
            at += 1


def logged_rows(folder: Path, model: str, names: Mapping[str, tuple[str, ...]], loaded: Loaded) -> np.ndarray | None:
    """Return up to `ROWS` rows for a version to warm with, float64 (n, k); None when nothing was logged.

    Args:
        folder: This worker's segments.
        model: Whose predictions.
        names: Columns of the versions that were served, by version.
        loaded: Who is to be warmed.
    """
    records = [r for r in newest_rows(folder, model) if len(names.get(r.version, ())) == len(r.features)]
    if not records:
        return None
    return matrix_of(records, names, loaded.service.names, loaded.sample)


def matrix_of(
    records: list[Prediction], names: Mapping[str, tuple[str, ...]], wanted: tuple[str, ...], sample: np.ndarray
) -> np.ndarray:
    """Return the records' features in the columns `wanted`; columns they lack are filled from the sample's rows."""
    matrix = np.ascontiguousarray(np.resize(sample, (len(records), len(wanted))), dtype=np.float64)
    for row, record in enumerate(records):
        known = dict(zip(names[record.version], record.features, strict=True))
        for column, name in enumerate(wanted):
            if name in known:
                matrix[row, column] = known[name]
    return matrix
