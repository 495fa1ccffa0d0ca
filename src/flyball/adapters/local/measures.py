"""Counters, gauges and histograms of a process that serves no HTTP, as Prometheus text in a file.

The process writes its file about once a second; every worker's `/metrics` appends it. The surprise: a file that has
not been written for a while is still shown, with its age, because a process that died is the one to look at.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flyball.disk import write_atomically

__all__ = ["Measures", "read_measures"]

_BOUNDS = tuple(1e-5 * 2**k for k in range(21))  # 10 µs to 10 s, one bound per doubling
_Labels = tuple[tuple[str, str], ...]


class Measures:
    """Gather numbers; any thread may.

    Args:
        path: The file they go to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._about: dict[str, tuple[str, str]] = {}  # name -> (kind, help)
        self._values: dict[tuple[str, _Labels], float] = {}
        self._histograms: dict[tuple[str, _Labels], list[float]] = {}  # one count per bound, above all, sum

    def count(self, name: str, by: float = 1, help: str = "", **labels: object) -> None:
        """Add to a counter; its name ends in `_total`."""
        with self._lock:
            key = self._key(name, "counter", help, labels)
            self._values[key] = self._values.get(key, 0) + by

    def set(self, name: str, value: float, help: str = "", **labels: object) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[self._key(name, "gauge", help, labels)] = value

    def observe(self, name: str, seconds: float, help: str = "", **labels: object) -> None:
        """Count a duration in a histogram; its name ends in `_seconds`."""
        with self._lock:
            counts = self._histograms.setdefault(self._key(name, "histogram", help, labels), [0.0] * (len(_BOUNDS) + 2))
            place = next((i for i, bound in enumerate(_BOUNDS) if seconds <= bound), len(_BOUNDS))
            counts[place] += 1
            counts[-1] += seconds

    def render(self) -> str:
        """Return everything in the Prometheus text format."""
        with self._lock:
            lines: list[str] = []
            for name, (kind, about) in self._about.items():
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
                lines += [f"{k[0]}{_braces(k[1])} {v:.12g}" for k, v in self._values.items() if k[0] == name]
                for key, counts in self._histograms.items():
                    if key[0] == name:
                        lines += _histogram(name, key[1], counts)
        return "".join(f"{line}\n" for line in lines)

    def write(self) -> None:
        """Replace the file; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            write_atomically(self._path, self.render().encode())

    def _key(self, name: str, kind: str, help: str, labels: dict[str, object]) -> tuple[str, _Labels]:
        if name not in self._about:
            self._about[name] = kind, help
        return name, tuple((k, str(v)) for k, v in labels.items())


def read_measures(path: Path) -> bytes:
    """Return the file's text and how old it is, nothing when there is none."""
    try:
        text = path.read_bytes()
        age = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return b""
    name = f"flyball_{path.stem}_measured_age_seconds"
    return text + f"# HELP {name} Age of the numbers above.\n# TYPE {name} gauge\n{name} {age:.3f}\n".encode()


def _histogram(name: str, labels: _Labels, counts: list[float]) -> Iterator[str]:
    below = 0.0
    for bound, count in zip(_BOUNDS, counts, strict=False):
        below += count
        yield f"{name}_bucket{_braces((*labels, ('le', f'{bound:g}')))} {below:.12g}"
    below += counts[len(_BOUNDS)]
    yield f"{name}_bucket{_braces((*labels, ('le', '+Inf')))} {below:.12g}"
    yield f"{name}_sum{_braces(labels)} {counts[-1]:.9g}"
    yield f"{name}_count{_braces(labels)} {below:.12g}"


def _braces(labels: _Labels) -> str:
    inside = ",".join(f'{k}="{_escaped(v)}"' for k, v in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
