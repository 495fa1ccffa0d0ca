"""The worker's side of a host: predict over its socket, with a deadline.

The surprise: waiting for a host to appear is allowed only while a version is warmed. Once it served, a missing host
is an error at once, so that the request falls back to the champion within its deadline.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flyball.errors import DeadlineExceeded
from flyball.node.ipc import Client, pack_matrix, unpack_matrix
from flyball.node.tables import host_name

if TYPE_CHECKING:
    import numpy as np

    from flyball.layout import Layout
    from flyball.rollout.routing import VersionRef

__all__ = ["RemoteHost"]

_APPEAR = 30.0


class RemoteHost:
    """Answer predictions of one version by asking its host."""

    def __init__(self, layout: Layout, ref: VersionRef) -> None:
        self._client = Client(layout.socket(host_name(ref.digest)), name=f"the host of {ref.version}")
        self._seen = False

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._client.connected

    async def predict(self, matrix: np.ndarray, deadline: float) -> np.ndarray:
        """Return the model's answer.

        Args:
            matrix: float64, shape (n, k).
            deadline: When the answer is of no use any more, in this machine's monotonic seconds.

        Raises:
            DeadlineExceeded: no answer in time.
            PeerGone: the host is not there.
            FlyballError: what the host said went wrong.
        """
        if not self._seen:
            deadline = max(deadline, time.monotonic() + _APPEAR)
            await self._client.connect(wait=_APPEAR)
            self._seen = True
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the candidate's deadline passed before its host was asked")
        answer = await self._client.call("predict", [*pack_matrix(matrix), deadline], timeout=left)
        return unpack_matrix(answer)

    def close(self) -> None:
        """Hang up."""
        self._client.close()
