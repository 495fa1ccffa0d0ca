"""The prediction log's part of an erasure: segments in place, shipped Parquet files written anew.

The surprise: predictions go last. Their ids are all that leads to shadow answers and outcomes of the subject, so an
erasure that was killed in between still finds these when it is given again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flyball.errors import Refused
from flyball.project.proof import Place
from flyball.records.types import Outcome, Prediction, Record, Shadow

if TYPE_CHECKING:
    from flyball.adapters.log_files import LogShipper
    from flyball.project.root import Project

__all__ = ["erase_predictions"]

_PATIENCE = 60.0  # seconds to wait for a shipment that runs


def erase_predictions(project: Project, is_mine: Callable[[Record], bool], *, dry_run: bool) -> Iterator[Place]:
    """Take a subject's predictions and exposures out of the log, with what was said of them; yield what was found.

    Args:
        project: The project.
        is_mine: Whether a record is a prediction of the subject, or its exposure to an experiment.
        dry_run: Only count.
    """
    from flyball.records.redact import redact

    root = project.layout.log
    if not root.exists():
        return
    shipper = None if dry_run else _hold(project)  # nothing is shipped meanwhile
    try:
        ids = {r.id for r in _records(project) if isinstance(r, Prediction) and is_mine(r)}

        def belongs(record: Record) -> bool:
            return isinstance(record, Shadow | Outcome) and record.id in ids

        if shipper is None:
            gone = sum(belongs(r) or is_mine(r) for r in _segments(project))
            shipped = sum(belongs(r) or is_mine(r) for r in _shipped(project))
        else:
            gone, shipped = redact(root, belongs).records, shipper.rewrite(belongs)
            gone, shipped = gone + redact(root, is_mine).records, shipped + shipper.rewrite(is_mine)
    finally:
        if shipper is not None:
            shipper.close()
    yield Place("prediction log", "predictions, shadow answers, outcomes, exposures", gone)
    if shipped or _has_shipped(project):
        yield Place("prediction log", "shipped Parquet", shipped)


def _hold(project: Project) -> LogShipper:
    from flyball.adapters.log_files import LogShipper

    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return LogShipper(project.layout.log, project.log.files)
        except Refused:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _records(project: Project) -> Iterator[Record]:
    yield from _segments(project)
    yield from _shipped(project)


def _segments(project: Project) -> Iterator[Record]:
    from flyball.records.redact import scan

    for _, _, _, records in scan(project.layout.log):
        yield from records


def _has_shipped(project: Project) -> bool:
    from flyball.adapters.local.segments import read_shipped

    return any(read_shipped(project.layout.log).segments.values())


def _shipped(project: Project) -> Iterator[Record]:
    from flyball.adapters.local.segments import read_shipped
    from flyball.records.columnar import records_of

    for parts in read_shipped(project.layout.log).segments.values():
        for part in parts:
            kind = part.path.partition("/")[0]
            yield from (each.record for each in records_of(kind, project.log.files.read(part.path)))
