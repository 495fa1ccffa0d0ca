"""Publications, quarantine, check reports and claims of materializations, as files of the project's state.

state/published/DIGEST.json, state/checks/DIGEST.json, state/quarantine/SOURCE/VIEW-*.parquet,
state/locks/materialize-DIGEST. The surprise: a claim is the kernel's lock on an open file, so whoever dies lets go of
it at once; what stands in the file only says who has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.disk import replacing, write_atomically
from flyball.errors import ConflictError, IntegrityError
from flyball.features.checks import CheckReport

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from flyball.features.spec import ViewSpec

__all__ = ["FolderUpkeep", "quarantined"]


class FolderUpkeep:
    """Keep all of it below a state folder.

    Args:
        state: The project's state folder.
        when: Tells the machine's time for claims.
    """

    def __init__(self, state: Path, *, when: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = Path(state)
        self._when = when
        self._cache: dict[str, tuple[int, dict[str, int]]] = {}

    @contextlib.contextmanager
    def claim(self, view: ViewSpec) -> Iterator[None]:
        """Hold the view's lock file; raises ConflictError with who holds it and since when."""
        path = self._state / "locks" / f"materialize-{view.digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(file, 500, 0).decode(errors="replace") or "another process"
                raise ConflictError(
                    f"view {view.name!r} is being materialized by {holder}; wait until it is done, or end that process"
                ) from error
            said = f"process {os.getpid()} on {socket.gethostname()} since {self._when():%Y-%m-%d %H:%M:%S} UTC"
            os.ftruncate(file, 0)
            os.pwrite(file, said.encode(), 0)
            yield
        finally:
            os.close(file)

    def published(self, view: ViewSpec) -> Mapping[str, int]:
        """Return file -> µs for this view; read again only when the file changed."""
        path = self._published(view)
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if self._cache.get(view.digest, (0, {}))[0] != stamp:
            self._cache[view.digest] = stamp, self._read(path, dict[str, int])
        return self._cache[view.digest][1]

    def publish(self, view: ViewSpec, files: Mapping[str, int]) -> None:
        """Add publications, durably."""
        if files:
            both = {**self.published(view)}
            for path, at in files.items():
                both[path] = max(at, both.get(path, at))
            self._write(self._published(view), both)

    def report(self, view: ViewSpec, of: str) -> CheckReport | None:
        """Return the last report."""
        return self._reports(view).get(of)

    def record(self, view: ViewSpec, of: str, report: CheckReport) -> None:
        """Replace a report."""
        self._write(self._state / "checks" / f"{view.digest}.json", {**self._reports(view), of: report})

    def quarantine(self, view: ViewSpec, rows: pa.Table, *, whole: bool) -> None:
        """Write rows to a file named by their sequences, so that writing them again changes nothing."""
        import pyarrow.parquet as pq

        folder = self._state / "quarantine" / view.source.name
        name = hashlib.sha256(rows.column("__sequence").to_numpy().tobytes()).hexdigest()[:16] if rows.num_rows else ""
        path = folder / f"{view.digest}-{name}.parquet"
        if rows.num_rows:
            with replacing(path) as draft:
                pq.write_table(rows, draft)
        for other in folder.glob(f"{view.digest}-*.parquet") if whole and folder.exists() else ():
            if other != path:
                other.unlink()

    def spill(self, view: ViewSpec) -> Path:
        """Return the folder for a large run's parts."""
        return self._state / "spill" / view.digest

    def _published(self, view: ViewSpec) -> Path:
        return self._state / "published" / f"{view.digest}.json"

    def _reports(self, view: ViewSpec) -> dict[str, CheckReport]:
        path = self._state / "checks" / f"{view.digest}.json"
        return self._read(path, dict[str, CheckReport]) if path.exists() else {}

    @staticmethod
    def _read(path: Path, kind: Any) -> Any:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            what = f"{path.parent.name}/{path.name}"
            raise IntegrityError(f"{what} cannot be read ({error}); restore or remove it") from error

    @staticmethod
    def _write(path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(value, order="deterministic"), durable=True)


def quarantined(state: Path, source: str, pushed: Sequence[pa.Table] = ()) -> pa.Table | None:
    """Return the rows of a source that are in quarantine, once each, newest first; None when there are none.

    `pushed` are those that no materialization met.

    Beside their columns: `__reason`, `__at` (when they were found, µs), `__event`, `__sequence`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((Path(state) / "quarantine" / source).glob("*.parquet"))
    tables = [*(pq.read_table(path) for path in files), *pushed]
    if not tables:
        return None
    rows = pa.concat_tables(tables, promote_options="permissive")
    keys = np.column_stack([rows.column(n).to_numpy() for n in ("__event", "__sequence")])
    _, first, row_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    rows = pa.table({n: _merged(rows.column(n), first, row_of.reshape(-1)) for n in rows.column_names})
    return rows.sort_by([("__event", "descending"), ("__sequence", "descending")])


def _merged(column: pa.ChunkedArray, first: np.ndarray, row_of: np.ndarray) -> pa.ChunkedArray:
    """Return one value for each row: views read different columns of it, so one's null is filled by another's value."""
    import numpy as np
    import pyarrow as pa

    chosen = first.copy()
    valid = np.flatnonzero(column.is_valid().to_numpy())[::-1]
    chosen[row_of[valid]] = valid  # of several the last assignment stays, which is the first in the files
    return column.take(pa.array(chosen))
