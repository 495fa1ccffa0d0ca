"""Who explains a version: one link to a process for each version asked about, closed once it is served no more.

The surprise: a worker never explains anything itself. An explanation may cost a thousand predictions, so it runs in a
process that shares nothing with the one that answers callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from flyball.errors import FlyballError, IntegrityError, Unavailable
from flyball.rollout.routing import VersionRef
from flyball.serving.contributions.types import Explained

__all__ = ["ExplainHost", "Explanations"]


class ExplainHost(Protocol):
    """What explains one version, usually in another process (node.remote.ExplainHost)."""

    async def explain(self, matrix: np.ndarray, deadline: float, /) -> Explained:
        """Return contributions to the answers of a matrix before `deadline` (monotonic seconds)."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class Explanations:
    """Keep what explains by version.

    Args:
        connect: Returns what explains a version; None when nothing does.
    """

    def __init__(self, connect: Callable[[VersionRef], ExplainHost] | None = None) -> None:
        self._connect = connect
        self._hosts: dict[str, ExplainHost] = {}

    async def explain(self, ref: VersionRef, matrix: np.ndarray, deadline: float) -> Explained:
        """Return the contributions of a version's answers to a matrix (n, k) before `deadline` (monotonic seconds).

        Raises:
            Unavailable: nothing explains here, or the process is gone.
            DeadlineExceeded: no explanation in time.
            IntegrityError: what came back does not fit the question.
            FlyballError: the model failed.
        """
        if self._connect is None:
            raise Unavailable("this gateway has no process that explains; start the node with: flyball up")
        host = self._hosts.get(ref.digest)
        if host is None:
            host = self._hosts[ref.digest] = self._connect(ref)
        try:
            found = await host.explain(matrix, deadline)
        except FlyballError:
            raise
        except Exception as error:
            raise FlyballError(f"the answer of {ref.version} cannot be explained: {error}") from error
        n, k, c = found.values.shape
        if (n, k) != matrix.shape or found.base.shape != (c,):
            raise IntegrityError(f"the explanation has shape {(n, k)} for {matrix.shape} rows and columns")
        return found

    def retain(self, digests: Iterable[str]) -> None:
        """Hang up on every version that is not among `digests`."""
        keep = set(digests)
        for digest in [d for d in self._hosts if d not in keep]:
            self._hosts.pop(digest).close()

    def close(self) -> None:
        """Hang up on all."""
        self.retain(())
