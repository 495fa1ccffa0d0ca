"""The worker's side of a host: predict over its socket, with a deadline.

The surprise: it never waits for a host to appear. A missing host is an error at once, so that a request falls back to
the champion within its deadline; who warms a version asks again until the host is there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flyball.adapters.local.ipc import Client, pack_matrix, unpack_matrix
from flyball.adapters.local.tables import host_name
from flyball.errors import DeadlineExceeded

if TYPE_CHECKING:
    import numpy as np

    from flyball.layout import Layout
    from flyball.rollout.routing import VersionRef

__all__ = ["RemoteHost"]


class RemoteHost:
    """Answer predictions of one version by asking its host."""

    def __init__(self, layout: Layout, ref: VersionRef) -> None:
        self._client = Client(layout.socket(host_name(ref.digest)), name=f"the host of {ref.version}")

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._client.connected

    async def predict(self, matrix: np.ndarray, deadline: float, /) -> np.ndarray:
        """Return the model's answer.

        Args:
            matrix: float64, shape (n, k).
            deadline: When the answer is of no use any more, in this machine's monotonic seconds.

        Raises:
            DeadlineExceeded: no answer in time.
            PeerGone: the host is not there (an Unavailable).
            FlyballError: what the host said went wrong.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the candidate's deadline passed before its host was asked")
        return unpack_matrix(await self._client.call("predict", [*pack_matrix(matrix), deadline], timeout=left))

    def close(self) -> None:
        """Hang up."""
        self._client.close()
