"""The worker's side of a host: predict and explain through shared memory, with a deadline.

The surprise: `RemoteHost` never waits for a host to appear. A missing host is an error at once, so that a request falls
back to the champion within its deadline; who warms a version asks again until the host is there. `ExplainHost` does
wait, because its process is only started when somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from flyball.adapters.local.ring import Kind
from flyball.adapters.local.ring_client import RingClient
from flyball.adapters.local.tables import explain_name, host_name, wanted_file
from flyball.errors import DeadlineExceeded, IntegrityError, Unavailable

if TYPE_CHECKING:
    import numpy as np

    from flyball.layout import Layout
    from flyball.rollout.routing import VersionRef
    from flyball.serving.contributions import Explained

__all__ = ["ExplainHost", "RemoteHost"]

_WANT_EVERY = 10.0  # seconds between two signs that an explaining host is still of use
_LOOK_AGAIN = 0.05


class RemoteHost:
    """Answer predictions of one version by asking its host."""

    def __init__(self, layout: Layout, ref: VersionRef) -> None:
        self._client = RingClient(layout.socket(host_name(ref.digest)), name=f"the host of {ref.version}")

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._client.connected

    def when_lost(self, lost: Callable[[], None]) -> None:
        """Have `lost` called in the event loop when the host goes away, in the moment in which the kernel says so."""
        self._client.when_lost = lost

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
        return cast("np.ndarray", await self._client.ask(Kind.PREDICT, matrix, deadline))

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class ExplainHost:
    """Explain predictions of one version in a process of its own, which the supervisor starts on demand.

    It ends when nobody has asked for five minutes.
    """

    def __init__(self, layout: Layout, ref: VersionRef) -> None:
        name = explain_name(ref.digest)
        self._client = RingClient(layout.socket(name), name=f"what explains {ref.version}")
        self._wanted = wanted_file(layout, name)
        self._said = float("-inf")

    async def explain(self, matrix: np.ndarray, deadline: float, /) -> Explained:
        """Return the contributions to each row's prediction.

        Args:
            matrix: float64, shape (n, k).
            deadline: Monotonic seconds; the first call waits within it for the process to load the model.

        Raises:
            DeadlineExceeded: no answer in time.
            Unavailable: the process ended before it answered.
            FlyballError: what it said went wrong.
        """
        import msgspec

        from flyball.serving.contributions import Explained

        while True:
            self._want()
            try:
                answer = await self._client.ask(Kind.EXPLAIN, matrix, deadline)
            except Unavailable as error:
                if getattr(error, "sent", True):
                    raise
                if time.monotonic() + _LOOK_AGAIN >= deadline:
                    raise DeadlineExceeded(
                        "what explains this version was not ready before the deadline; ask again in a few seconds"
                    ) from error
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                break
        try:
            return Explained.unpack(msgspec.msgpack.decode(cast("bytes", answer)))
        except (msgspec.DecodeError, TypeError, ValueError, LookupError) as error:
            raise IntegrityError(f"the explanation that came cannot be read: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _want(self) -> None:
        now = time.monotonic()
        if now - self._said > _WANT_EVERY or not self._client.connected:
            self._said = now
            self._wanted.touch(mode=0o600)
