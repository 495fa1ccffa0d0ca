"""Keep, per rollout, what was folded when: byte ranges of the prediction log, the bins they gave, the decisions taken.

The surprise: frames carry a running number and the writer's fence. A controller that lost its lease may still append;
its frames lose to those of the newer fence with the same number, so a reader always sees one history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import IntegrityError
from flyball.records.segment import SegmentWriter, salvage_frames
from flyball.rollout.evidence.bins import Allocation, Bin
from flyball.rollout.types import Measured

__all__ = ["Decided", "EvidenceGone", "EvidenceLog", "Folded", "Frame", "Split", "gaps", "load"]


class EvidenceGone(IntegrityError):
    """The file that is written to was removed: what was folded is in memory only, and no later controller has it."""


class Split(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A new allocation came into force."""

    n: int
    fence: int
    allocation: Allocation


class Folded(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """Byte ranges that were read at `now` (µs), in order, and the bins that this closed."""

    n: int
    fence: int
    now: int
    ranges: list[tuple[str, int, int]]
    bins: list[Bin]


class Decided(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """A decision other than waiting: the status before it, what came from outside the log, and the decision."""

    n: int
    fence: int
    now: int
    status: dict[str, Any]
    vetoed: str
    decision: dict[str, Any]
    measured: dict[str, Measured] = {}


Frame = Split | Folded | Decided
_decoder = msgspec.msgpack.Decoder(Frame)


class EvidenceLog:
    """Append to one rollout's evidence; the folder is made with the first frame."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SegmentWriter | None = None

    def append(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            OSError: the disk is full or gone.
            EvidenceGone: somebody removed the file.
        """
        if self._writer is None:
            self._writer = SegmentWriter(self._folder)
        if self._writer.path is not None and not self._writer.path.exists():
            raise EvidenceGone(f"the evidence log of rollout {self._folder.name} was removed while it was written to")
        self._writer.append(msgspec.msgpack.encode(frame))

    def sync(self) -> None:
        """Wait for the disk; called before a decision is acted on."""
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        """Close the segment."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def load(folder: Path) -> list[Frame]:
    """Return a rollout's frames in force, in order of their number."""
    frames = [_decoder.decode(f.payload) for path in sorted(folder.glob("*.seg")) for f in salvage_frames(path)]
    best: dict[int, Frame] = {}
    for frame in frames:
        if frame.n not in best or frame.fence > best[frame.n].fence:
            best[frame.n] = frame
    kept: list[Frame] = []
    fence = 0
    for number in sorted(best):
        if best[number].fence < fence:
            continue
        fence = best[number].fence
        kept.append(best[number])
    return kept


def gaps(frames: list[Frame]) -> int:
    """Return how many frames are missing before the last one: lost, or damaged on the disk."""
    return frames[-1].n + 1 - len(frames) if frames else 0
