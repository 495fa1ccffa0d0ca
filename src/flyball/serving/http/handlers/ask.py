"""A request as its handler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyball.serving.http.asgi import Receive, Scope

if TYPE_CHECKING:
    from flyball.rollout.routing import ModelRoute
    from flyball.serving.gateway import Gateway

__all__ = ["Ask", "routes_of"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `names` are the names in its path, `started` is `perf_counter_ns` at admission."""

    scope: Scope
    receive: Receive
    started: int
    names: dict[str, str]


def routes_of(gateway: Gateway) -> dict[str, ModelRoute]:
    """Return the routes of the table in force, by model."""
    return gateway.table.models if gateway.table is not None else {}
