"""The applied feature views as one file, so that ingest starts without user code and without the control database."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flyball.disk import write_atomically
from flyball.errors import IntegrityError
from flyball.features.spec import ViewSpec
from flyball.layout import Layout

__all__ = ["read_views", "write_views"]


def read_views(layout: Layout) -> tuple[ViewSpec, ...]:
    """Return the views that were applied last, none before the first apply.

    Raises:
        IntegrityError: the file was changed or cut short after it was written.
    """
    path = layout.state / "views.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[ViewSpec, ...])
    except FileNotFoundError:
        return ()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{path} is no list of feature views ({error}); delete it, then run flyball up or flyball apply"
        ) from error


def write_views(layout: Layout, views: Sequence[ViewSpec]) -> None:
    """Record the applied views, atomically and durably."""
    write_atomically(layout.state / "views.json", msgspec.json.encode(list(views), order="deterministic"), durable=True)
