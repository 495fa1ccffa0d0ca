"""How much memory versions take, and which to let go when there is not enough.

The surprise: a version's memory is told from its files, not measured. What one load adds to a process drowns in what
the library it imports takes, and in pages the allocator kept; the factors were measured over ten loads of one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flyball.registry.formats.types import FILE_NAMES
from flyball.registry.types import Manifest

__all__ = ["Held", "available", "estimate", "victims"]

_EACH = 128 * 1024  # bytes of a version whatever its model: plan, batcher, queue, sample
_HOSTED = 64 * 1024  # of one whose model is in a host process
_FACTORS: dict[str, float] = {  # resident bytes per byte of the file, measured, rounded up
    "onnx": 10.0, "xgboost": 1.5, "lightgbm": 3.0, "catboost": 1.0, "safetensors": 1.2, "keras": 1.2,
    "torch_export": 1.2, "skops": 4.0, "pickle": 1.5, "pyfunc": 1.5, "linear": 2.0,
}  # fmt: skip
Key = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Held:
    """A loaded version: its bytes, when it was last asked (any clock), whether it must stay."""

    key: Key
    memory: int
    used: int
    stays: bool


def estimate(folder: Path, manifest: Manifest, *, trusted: bool) -> int:
    """Return the bytes that a version takes in a worker; of a lowered one only the kernel counts."""
    if not trusted:
        return _HOSTED
    low = manifest.lowered
    kind, name = (low.kind, low.file) if low is not None else (manifest.format, FILE_NAMES.get(manifest.format, ""))
    try:
        size = (folder / name).stat().st_size
    except OSError:
        size = 0
    return _EACH + int(size * _FACTORS.get(kind, 2.0))


def victims(needed: int, limit: int, held: Iterable[Held]) -> list[Key] | None:
    """Return the versions to let go so that `needed` bytes fit under `limit`, least recently asked first.

    None says that even letting go of all that may go is not enough; [] that there is room.
    """
    ranked = sorted(held, key=lambda each: each.used)
    over = sum(each.memory for each in ranked) + needed - limit
    chosen: list[Key] = []
    for each in ranked:
        if over <= 0:
            break
        if not each.stays:
            chosen.append(each.key)
            over -= each.memory
    return chosen if over <= 0 else None


def available(lines: Mapping[str, int] | None = None) -> int | None:
    """Return the bytes that this machine can still give, None where it does not say."""
    found = _meminfo() if lines is None else lines
    return found.get("MemAvailable")


def _meminfo() -> dict[str, int]:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return {}
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3}
