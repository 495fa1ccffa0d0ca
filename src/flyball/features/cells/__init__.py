"""The value of a window view for one entity: cells of partials per hop, and the raw head.

The surprise: a write carries only raw events (a head). Merging folds those whose known time has passed the floor, the
earliest T that may still be asked, into their cells, and leaves the rest raw, so that a read at T can leave out what
was not known at T. A value describes its own layout, so a store merges without knowing the view. Merging is done for
many values at once; every number goes through the kernel.

Redelivery changes nothing: `applied` is the highest log sequence inside a value, and an event that is not above it is
skipped. One number per value is enough, it need not be one per cell or source partition: all rows of all sources get
their sequence from one counter of the ingest log, which one writer appends to and applies in that order (Kafka's and
Redis' partitions meet in that log, before any cell), so whatever is at or below `applied` is inside, however late its
event time is. Rows of files have sequences below 0 and come through materialization alone, which keeps its own
account of them. A corrected event is a fact of its own here: windows count rows, as the oracle does, and each row
counts once; a source that declares `event_id` drops redelivered events before they reach the log.
"""

from __future__ import annotations

from flyball.features.cells.layout import WindowLayout
from flyball.features.cells.merging import HEAD_LIMIT, merge_windows
from flyball.features.cells.reading import answer, answer_columns, answer_one

__all__ = ["HEAD_LIMIT", "WindowLayout", "answer", "answer_columns", "answer_one", "merge_windows"]
