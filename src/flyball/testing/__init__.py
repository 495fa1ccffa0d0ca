"""What users test their projects with; loads on first use.

The surprise: `flyball.testing.client` is the function, `client(project)`; its module is `flyball.testing.in_process`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "GatewayClient": "flyball.testing.in_process",
    "ManualClock": "flyball.clock",
    "MemoryRollouts": "flyball.testing.rollouts",
    "MemoryRoutes": "flyball.testing.rollouts",
    "OfflineEngineLaws": "flyball.testing.laws_offline",
    "OnlineStoreLaws": "flyball.testing.laws_online",
    "async_client": "flyball.testing.in_process",
    "client": "flyball.testing.in_process",
    "scenario": "flyball.testing.scenarios",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'flyball.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from flyball.clock import ManualClock as ManualClock
    from flyball.testing.in_process import GatewayClient as GatewayClient
    from flyball.testing.in_process import async_client as async_client
    from flyball.testing.in_process import client as client
    from flyball.testing.laws_offline import OfflineEngineLaws as OfflineEngineLaws
    from flyball.testing.laws_online import OnlineStoreLaws as OnlineStoreLaws
    from flyball.testing.rollouts import MemoryRollouts as MemoryRollouts
    from flyball.testing.rollouts import MemoryRoutes as MemoryRoutes
    from flyball.testing.scenarios import scenario as scenario
