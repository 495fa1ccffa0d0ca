"""Open the offline engine that the settings name; the one place that knows which engines there are.

The surprise: Spark's engine has DuckDB's inside. One machine knows files, types and pushed rows better; Spark moves.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.upkeep import FolderUpkeep

if TYPE_CHECKING:
    from flyball.adapters.spark import SparkEngine
    from flyball.layout import Layout
    from flyball.settings import Settings

__all__ = ["open_engine"]


def open_engine(settings: Settings, root: Path, layout: Layout) -> DuckDBEngine | SparkEngine:
    """Open the project's offline engine; Spark itself starts when it is first asked for rows.

    Args:
        settings: All settings; `offline` says which engine, `spark` where it runs.
        root: The project's root.
        layout: The project's paths.

    Raises:
        ConfigError: spark.options cannot be read.
    """
    state = layout.state
    published = FolderUpkeep(state).published
    local = DuckDBEngine(root, FileIngestLog(layout.ingest), state=state, published=published)
    if settings.offline.engine == "duckdb":
        return local
    from flyball.adapters.local.snapshots import find_in_snapshots
    from flyball.adapters.spark import SparkEngine
    from flyball.adapters.spark_session import parse_options

    return SparkEngine(
        root, local, reader=partial(DuckDBEngine, root, state=state), master=settings.spark.master,
        options=parse_options(settings.spark.options), state=state, published=published,
        prepare=partial(find_in_snapshots, layout),
    )  # fmt: skip
