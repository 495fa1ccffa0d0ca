"""Leave an erased subject's examples out of a training set: a new one takes the old one's place, by digest.

A training set keeps no entity keys, so its rows are known by the source rows they came from: event and sequence; those
of the prediction log by a hash of the prediction's id. The surprise: when the source's files were changed since,
sequences are others; a row whose event is the subject's and whose sequence belongs to nobody else any more is then
taken for the subject's. Rather one row too many than one too few.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flyball.datasets.files import content_digest, open_dataset, write_dataset
from flyball.datasets.types import DatasetManifest
from flyball.layout import Layout

__all__ = ["ExampleRefs", "erased_copy", "subject_rows"]

Pairs = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ExampleRefs:
    """Rows of an examples' source as (event, sequence): the subject's, and others' with one of the subject's events.

    `units` are the subject's values where the examples' unit is one of its keys, as text. `requests` are the subject's
    rows of a set that was made of the prediction log, by their sequence alone.
    """

    mine: Pairs
    others: Pairs
    units: frozenset[str] = frozenset()
    requests: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        event: npt.NDArray[np.int64],
        sequence: npt.NDArray[np.int64],
        mine: npt.NDArray[np.bool_],
        units: Iterable[str] = (),
    ) -> ExampleRefs:
        """Collect from aligned arrays of a source's rows."""
        near = np.isin(event, event[mine]) & ~mine
        return cls(_pairs(event[mine], sequence[mine]), _pairs(event[near], sequence[near]), frozenset(units))


def subject_rows(
    event: npt.NDArray[np.int64], sequence: npt.NDArray[np.int64], unit: Iterable[str | None], refs: ExampleRefs
) -> npt.NDArray[np.bool_]:
    """Return which rows of a training set are the subject's."""
    events = {e for e, _ in refs.mine}
    found = [
        (pair := (int(e), int(s))) in refs.mine
        or (pair[0] in events and pair not in refs.others)
        or u in refs.units
        or pair[1] in refs.requests
        for e, s, u in zip(event, sequence, unit, strict=True)
    ]
    return np.array(found, dtype=bool)


def erased_copy(
    manifest: DatasetManifest, layout: Layout, refs: ExampleRefs, *, write: bool = True
) -> tuple[int, DatasetManifest]:
    """Write a training set without the subject's rows and return how many went, and its manifest.

    With `write` False only count. The old file stays; who records that it is superseded removes it.

    Raises:
        Unavailable: the file is gone.
        IntegrityError: its content is not what was written.
    """
    import pyarrow as pa

    table = open_dataset(manifest, layout).table
    event, sequence = (table.column(n).to_numpy() for n in ("__event", "__sequence"))
    gone = subject_rows(event, sequence, table.column("__unit").to_pylist(), refs)
    if not gone.any() or not write:
        return int(gone.sum()), manifest
    kept = table.filter(pa.array(~gone)).combine_chunks().replace_schema_metadata(None)
    digest = content_digest(kept)
    path = write_dataset(kept, digest, layout)
    part = kept.column("__part").to_numpy()
    new = replace(
        manifest, digest=digest, rows=kept.num_rows, train_rows=int((part == 0).sum()),
        holdout_rows=int((part == 1).sum()), path=path.relative_to(layout.state).as_posix(), supersedes=manifest.digest,
    )  # fmt: skip
    return int(gone.sum()), new


def _pairs(event: npt.NDArray[np.int64], sequence: npt.NDArray[np.int64]) -> Pairs:
    return set(zip(event.tolist(), sequence.tolist(), strict=True))
