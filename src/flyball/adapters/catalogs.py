"""Open the shared catalog that `[catalog] url` names; the one place that knows which kinds there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from flyball.errors import ConfigError
from flyball.features.shared import CatalogStore

__all__ = ["open_catalog"]


def open_catalog(url: str, root: Path, secret: Callable[[str], str]) -> CatalogStore | None:
    """Return the catalog, None when none is set.

    Args:
        url: postgresql://..., a folder (relative to `root`), an address fsspec knows (file:///..., s3://...), or a
            reference (env:NAME, file:PATH) to one of these.
        root: The project's root.
        secret: Resolves references (`Config.secret`).

    Raises:
        ConfigError: the address is not one of these.
        MissingExtra: the client is not installed.
    """
    if re.match(r"(env:|file:(?!//))", url):
        url = secret(url)
    if not url:
        return None
    if url.startswith(("postgresql://", "postgres://")):
        from flyball.adapters.catalog_postgres import PostgresCatalog

        return PostgresCatalog(url)
    if re.match(r"(sqlite|redis|rediss|mysql|http|https)://", url):
        raise ConfigError(
            f"catalog.url begins with {url.partition('://')[0]}://; write postgresql://HOST/NAME, a folder, or an "
            "address of files such as s3://BUCKET/FOLDER"
        )
    from flyball.adapters.catalog_files import FilesCatalog

    return FilesCatalog(url if "://" in url else str(root / Path(url).expanduser()))
