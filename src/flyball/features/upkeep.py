"""What a materialization remembers outside of the store: publications, quarantine, reports, and who is at it.

The surprise: when a file was published is history, not state. The online store can be lost and filled again; that
requests before the publication did not see the file stays true, so this is kept apart from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flyball.features.checks import CheckReport

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ViewSpec

__all__ = ["NoUpkeep", "Upkeep"]


class Upkeep(Protocol):
    """Keep what a materialization leaves behind."""

    def claim(self, view: ViewSpec) -> AbstractContextManager[object]:
        """Be the only one at this view for as long as the context lasts.

        Raises:
            ConflictError: another one is at it; says who and since when.
        """
        ...

    def published(self, view: ViewSpec) -> Mapping[str, int]:
        """Return when files were published to this view, µs, for those that appeared after its first run."""
        ...

    def publish(self, view: ViewSpec, files: Mapping[str, int]) -> None:
        """Record, durably, when these files became readable; a later time replaces an earlier one."""
        ...

    def report(self, view: ViewSpec, of: str) -> CheckReport | None:
        """Return the last report of the view's source ("source") or of itself ("view")."""
        ...

    def record(self, view: ViewSpec, of: str, report: CheckReport) -> None:
        """Replace a report."""
        ...

    def quarantine(self, view: ViewSpec, rows: pa.Table, *, whole: bool) -> None:
        """Keep rows that were left out: their columns and `__reason`, `__at`; `whole` replaces what was kept."""
        ...

    def spill(self, view: ViewSpec) -> Path | None:
        """Return a folder for the parts of a large run, None to keep all in memory."""
        ...


class NoUpkeep:
    """Remember nothing; for stores of tests and benches."""

    def claim(self, view: ViewSpec) -> AbstractContextManager[object]:
        """Let everyone in."""
        return nullcontext()

    def published(self, view: ViewSpec) -> Mapping[str, int]:
        """Return nothing."""
        return {}

    def publish(self, view: ViewSpec, files: Mapping[str, int]) -> None:
        """Forget it."""

    def report(self, view: ViewSpec, of: str) -> CheckReport | None:
        """Return nothing."""
        return None

    def record(self, view: ViewSpec, of: str, report: CheckReport) -> None:
        """Forget it."""

    def quarantine(self, view: ViewSpec, rows: pa.Table, *, whole: bool) -> None:
        """Forget them."""

    def spill(self, view: ViewSpec) -> Path | None:
        """Keep all in memory."""
        return None
