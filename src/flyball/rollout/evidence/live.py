"""One rollout's evidence in memory: what the prediction log said so far, and how to get it back after a crash.

The surprise: taking over and replaying are the same walk over the evidence log. A takeover trusts the stored bins
where the prediction log no longer gives them; a replay reports the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from flyball.records.log import Batch, follow, read_range
from flyball.rollout.evidence.bins import Allocation, Bin, Binner
from flyball.rollout.evidence.journal import Decided, EvidenceLog, Folded, Frame, Split, gaps, load
from flyball.rollout.evidence.ledger import Ledger
from flyball.rollout.evidence.unit_store import UnitStore, sweep
from flyball.rollout.routing import BUCKETS, ModelRoute
from flyball.rollout.types import Decision, Evidence, Outside, Phase, RolloutSpec, RolloutStatus
from flyball.units import to_micros

__all__ = ["Live", "split_of"]

NOTHING = Outside()


class Live:
    """Binner, ledger, cursor and evidence log of one rollout under one fence."""

    def __init__(self, spec: RolloutSpec, status: RolloutStatus, *, log_root: Path, folder: Path, fence: int) -> None:
        self.fence = fence
        self.cursor: dict[str, int] = {}
        self._stores = UnitStore(folder), UnitStore(folder)
        self.binner = Binner(spec, model=status.model, candidate=status.candidate, units=self._stores[0])
        self.ledger = Ledger(spec, self._stores[1])
        self._log_root = log_root
        self._log = EvidenceLog(folder)
        self._n = 0
        self.rebuilt = False
        self.lost = ""  # what of the evidence is gone, in words

    @classmethod
    def open(cls, spec: RolloutSpec, status: RolloutStatus, *, log_root: Path, folder: Path, fence: int) -> Live:
        """Return the state as the evidence log left it; a rollout without one begins at the present end of the log.

        One whose evidence log is gone begins where the status says that it was folded up to.
        """
        sweep(folder)
        live = cls(spec, status, log_root=log_root, folder=folder, fence=fence)
        frames = load(folder)
        for frame in frames:
            live.redo(frame)
        missing = gaps(frames)
        if missing:
            live.lost = f"{missing} of {frames[-1].n + 1} frames of the evidence log are lost or damaged"
        if frames:
            live.rebuilt = True
        elif status.bins:
            live.lost = f"the evidence log is gone; what its {status.bins} bins told counts no longer"
            live.cursor, live.rebuilt = dict(status.cursor), True
        else:
            live.cursor = {p.relative_to(log_root).as_posix(): p.stat().st_size for p in log_root.glob("*/*.seg")}
        return live

    def redo(self, frame: Frame) -> bool:
        """Apply a frame again; return False when the prediction log does not give the recorded bins."""
        self._n = frame.n + 1
        match frame:
            case Split():
                self._allocate(frame.allocation)
                return True
            case Decided():
                return True
            case Folded():
                return self._refold(frame)

    def _refold(self, frame: Folded) -> bool:
        bins = self.binner.fold(self._reread(frame), frame.now)
        for closed in frame.bins:
            self.ledger.fold(closed)
        for segment, _, end in frame.ranges:
            self.cursor[segment] = end
        return msgspec.msgpack.encode(bins) == msgspec.msgpack.encode(frame.bins)

    def _reread(self, frame: Folded) -> Iterable[Batch]:
        for segment, start, end in frame.ranges:
            if (self._log_root / segment).exists():
                yield from read_range(self._log_root, segment, start, end)

    def ensure_split(self, route: ModelRoute, table: int, rollout: str) -> None:
        """Record the allocation in force once."""
        split = split_of(route, table, rollout)
        known = self.binner.allocations
        last = known[-1] if known else Allocation(0, "off")
        if msgspec.structs.replace(split, table=last.table) == last:
            return
        self._log.append(Split(self._take(), self.fence, split))
        self._allocate(split)

    def _allocate(self, split: Allocation) -> None:
        self.binner.allocate(split)
        self.ledger.allocate(split)

    def fold(self, batches: list[Batch], now: datetime) -> None:
        """Fold what is new in `batches` and record it; what was folded before is skipped, gaps are read again.

        The order is that of node, segment and offset, whatever order the batches came in.
        """
        new = sorted(self._select(sorted(batches, key=_place)), key=_place)
        moment = to_micros(now)
        bins = self.binner.fold(new, moment)
        self._account(bins)
        if new or bins:
            self._log.append(Folded(self._take(), self.fence, moment, _ranges(new), bins))

    def _account(self, bins: list[Bin]) -> None:
        for closed in bins:
            self.ledger.fold(closed)

    def _select(self, batches: list[Batch]) -> list[Batch]:
        chosen: list[Batch] = []
        if self.rebuilt:  # what was logged between the last fold and the takeover
            self.rebuilt = False
            chosen += follow(self._log_root, self.cursor) if self._log_root.exists() else []
        for batch in batches:
            read = self.cursor.get(batch.segment, 0)
            if batch.start < read:
                continue
            if batch.start > read and (self._log_root / batch.segment).exists():
                chosen += read_range(self._log_root, batch.segment, read, batch.start)
            chosen.append(batch)
            self.cursor[batch.segment] = batch.end
        return chosen

    def evidence(self, status: RolloutStatus, now: datetime, *, outside: Outside = NOTHING) -> Evidence:
        """Return the evidence for the phase (or the paused phase) that a rollout is in."""
        phase = (status.resume or Phase.PENDING) if status.phase is Phase.PAUSED else status.phase
        since = status.began or status.entered or status.created
        return self.ledger.evidence(phase, status.share, now, outside=outside, since=since, step=status.step)

    def decided(self, status: RolloutStatus, decision: Decision, now: datetime, outside: Outside) -> None:
        """Record a decision before it is acted on, and wait for the disk."""
        plain = msgspec.to_builtins(replace(status, state={}, cursor={}))
        chosen = msgspec.to_builtins(decision)
        frame = Decided(self._take(), self.fence, to_micros(now), plain, outside.vetoed, chosen, outside.measured)
        self._log.append(frame)
        self._log.sync()

    def close(self) -> None:
        """Close the evidence log, and remove what was kept of units."""
        self._log.close()
        for store in self._stores:
            store.close()

    def _take(self) -> int:
        self._n += 1
        return self._n - 1


def split_of(route: ModelRoute, table: int, rollout: str) -> Allocation:
    """Return the allocation that a route means for a rollout."""
    if route.rollout != rollout or route.candidate is None:
        return Allocation(table, "off")
    if route.candidate_cut > 0:
        compared = BUCKETS - sum(v.end - v.start for v in route.variants)
        drawn = min(route.candidate_cut, BUCKETS - route.holdout) / compared
        share = route.candidate_cut / BUCKETS
        within = msgspec.json.encode(route.within).decode() if route.within else ""
        return Allocation(table, "step", share, route.pair, drawn if drawn != share else 0.0, within)
    return Allocation(table, "shadow", route.shadow, pair=True)


def _place(batch: Batch) -> tuple[str, int]:
    """Return where a batch lies: its segment's path begins with the node's folder."""
    return batch.segment, batch.start


def _ranges(batches: list[Batch]) -> list[tuple[str, int, int]]:
    ranges: list[tuple[str, int, int]] = []
    for batch in batches:
        if ranges and ranges[-1][0] == batch.segment and ranges[-1][2] == batch.start:
            ranges[-1] = (batch.segment, ranges[-1][1], batch.end)
        else:
            ranges.append((batch.segment, batch.start, batch.end))
    return ranges
