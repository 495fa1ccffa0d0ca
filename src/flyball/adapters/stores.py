"""Open the online store that the settings name; the one place that knows which stores there are.

The surprise: a writer of LMDB makes the folder, a reader of Redis or PostgreSQL connects only when it reads. So a
worker starts without its remote store, and answers by the policy until the store is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from flyball.errors import ConfigError

if TYPE_CHECKING:
    from flyball.features.ports import OnlineStore
    from flyball.layout import Layout
    from flyball.settings import OnlineSettings, Settings

__all__ = ["guarded", "namespace_of", "open_store"]

_READ = 5.0  # seconds that a read may take where nobody waits for an answer within milliseconds


def open_store(
    settings: Settings,
    layout: Layout,
    *,
    readonly: bool,
    secret: Callable[[str], str],
    read_timeout: float = _READ,
) -> OnlineStore:
    """Open the project's online store.

    Args:
        settings: All settings; `online` says which store and where.
        layout: The project's paths.
        readonly: Only read; ingest is the writer.
        secret: Resolves references (`Config.secret`).
        read_timeout: Seconds that one read of a remote store may wait.

    Raises:
        ConfigError: a remote store without an address.
        MissingExtra: the store's client is not installed.
        Unavailable: it cannot be opened.
    """
    online = settings.online
    match online.store:
        case "lmdb":
            from flyball.adapters.lmdb import LMDBStore

            return LMDBStore(layout.online, online.map_size, readonly=readonly)
        case "redis":
            from flyball.adapters.redis import RedisStore

            url, name = _address(online, secret), namespace_of(settings)
            return RedisStore(url, namespace=name, readonly=readonly, timeout=read_timeout)
        case "postgres":
            from flyball.adapters.postgres import PostgresStore

            url, name = _address(online, secret), namespace_of(settings)
            return PostgresStore(url, namespace=name, readonly=readonly, timeout=read_timeout)


def guarded(settings: Settings, layout: Layout, *, secret: Callable[[str], str]) -> OnlineStore:
    """Open the store for serving: to read, a remote one with budget, breaker and policy."""
    from flyball.features.guarded import Guard, GuardedStore

    online = settings.online
    budget = online.budget.total_seconds()
    store = open_store(settings, layout, readonly=True, secret=secret, read_timeout=budget)
    if online.store == "lmdb":
        return store
    guard = Guard(
        budget, online.failures, online.pause.total_seconds(), online.on_failure, online.stale_limit.total_seconds()
    )
    return GuardedStore(store, guard)


def namespace_of(settings: Settings) -> str:
    """Return what this project's keys begin with.

    Raises:
        ConfigError: it holds what would not end where it should.
    """
    name = settings.online.namespace or settings.project.name
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ConfigError(
            f"online.namespace is {name!r}; write up to 64 letters, digits, dots, dashes or underscores"
            " (without one, project.name is taken)"
        )
    return name


def _address(online: OnlineSettings, secret: Callable[[str], str]) -> str:
    url = secret(online.url) if online.url.startswith(("env:", "file:")) else online.url
    if not url:
        example = "redis://127.0.0.1:6379/0" if online.store == "redis" else "postgresql://127.0.0.1/NAME"
        raise ConfigError(
            f'online.store is "{online.store}", which needs online.url; write {example} or a reference such as '
            "env:FLYBALL_ONLINE_URL"
        )
    return url
