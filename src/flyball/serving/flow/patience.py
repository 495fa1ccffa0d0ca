"""What a request does whose champion runs in a host that has just died: nobody stands behind the champion.

The former champion answers if it is loaded; else the host is asked again until it is back or the deadline near. The
surprise: a row that was with the host when it died is asked once more and no oftener, because it may be the reason.
"""

from __future__ import annotations

import asyncio
import time

from flyball.errors import Unavailable
from flyball.serving.models.batcher import Batcher, Item
from flyball.serving.models.outputs import Matrix
from flyball.serving.routing.plan import Arm, ModelPlan

__all__ = ["ask_again", "gone_error", "successor"]

_PAUSE = 0.02  # seconds between two questions to a host that is away
_GONE = ("PeerGone:", "Unavailable:")


def successor(plan: ModelPlan) -> Arm | None:
    """Return the newest former champion that is kept warm in this process, None when there is none."""
    for ref in plan.route.warm:
        arm = plan.pinned.get(ref.version)
        if arm is not None and arm.loaded.host is None:
            return arm
    return None


async def ask_again(batcher: Batcher, matrix: Matrix, deadline: float, item: Item) -> Item:
    """Ask a champion's host again, which was gone for `item`, until it answers or `deadline` (monotonic) has come.

    Returns:
        The last item; still `gone` when the host did not come back, or died of these rows twice.
    """
    deaths = int(not item.absent)
    while time.monotonic() + 2 * _PAUSE < deadline:
        await asyncio.sleep(_PAUSE)
        item = await batcher.submit(matrix, deadline)
        if not item.gone:
            break
        deaths += not item.absent
        if deaths > 1:
            break
    return item


def gone_error(cause: str) -> Unavailable | None:
    """Return what a caller is told when `cause` says that the champion's process was away; None for other causes."""
    if not cause.startswith(_GONE):
        return None
    error = Unavailable("the model's process ended and is being started again; send the request again in a moment")
    error.retry_after = 1.0
    return error
