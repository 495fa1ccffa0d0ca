"""As-of answers of a row view: for each request, the newest row known at T, unless it is too old.

The surprise: newest is by event, not by when a row became known, so a late row never replaces a newer one, and a
search by known time alone would be wrong; `Timeline.newest` keeps a running maximum for that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flyball.features.kernel.partials import Ints
from flyball.features.kernel.timeline import Timeline
from flyball.features.spec import Status

__all__ = ["newest_rows"]


def newest_rows(
    rows: Timeline, event: Ints, codes: Ints, at: Ints, *, ttl: int | None
) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Return each request's row and its status.

    Args:
        rows: The view's rows.
        event: Event time of the rows in the timeline's input order, µs.
        codes: Entity code of each request, -1 where its key is null or unknown.
        at: T of each request, µs.
        ttl: Greatest age at T in µs that still counts (age equal to it counts), None for no limit.

    Returns:
        (position of the row in the timeline's input, -1 where there is none or it expired; PRESENT, EXPIRED or
        MISSING). A PRESENT row's own nulls are the caller's to see.
    """
    found = rows.newest(codes, at)
    status = np.where(found < 0, Status.MISSING, Status.PRESENT).astype(np.uint8)
    if ttl is not None and len(event):
        old = (found >= 0) & (at - event[np.maximum(found, 0)] > ttl)
        status[old] = Status.EXPIRED
        found = np.where(old, -1, found)
    return found, status
