"""One closed second of evidence as plain data: what a node tells, what the evidence log keeps, what a ledger folds.

The surprise: nothing in a bin was judged. It holds counts, hashes of failing units, and rows; so bins of several nodes
merge by adding and concatenating in a fixed order, and every verdict follows from them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from flyball.records.types import Shadow

__all__ = [
    "CANDIDATE", "CONTROL", "SCORES", "Allocation", "Answer", "Bin", "Compared", "Counts", "Failure", "Row",
    "merge_bins", "plus",
]  # fmt: skip

CANDIDATE, CONTROL = 0, 1
SCORES = -1  # the group of rows that need no outcome


class Allocation(msgspec.Struct, frozen=True, array_like=True):
    """How traffic is split from routing table `table` on, until the next allocation."""

    table: int
    kind: str  # "shadow", "step" or "off"
    share: float = 0.0  # of the candidate; in a shadow phase the mirrored share
    pair: bool = False
    drawn: float = 0.0  # candidate's share of the units compared, where a split or a holdout makes it another; else 0
    within: str = ""  # the segment whose requests are compared, as JSON of its conditions; "" for all requests

    @property
    def odds(self) -> float:
        """Candidate answers per control answer, by design; inf when there is no control."""
        if self.kind == "shadow":
            return self.share
        share = self.drawn or self.share
        return share / (1.0 - share) if share < 1.0 else float("inf")


class Counts(msgspec.Struct, array_like=True):
    """Counts of one allocation within one bin, per arm as (candidate, control); cohort is the control cohort."""

    requests: list[int]
    errors: list[int]
    exposures: list[int]  # a unit counts once per episode
    fresh: list[int]  # units not seen before in this allocation
    timed: list[int]  # answers whose latency counts: (candidate, cohort)
    first: dict[int, list[int]] = {}  # exposures whose first answer fails, by guardrail
    judged: dict[int, list[int]] = {}  # answers that a guardrail whose limit follows the control judged
    unusable: list[int] = []  # answers or outcomes that are no finite number; empty when there are none
    due: dict[int, list[int]] = {}  # predictions that are old enough for their outcome, by group of delay
    crowded: list[int] = []  # predictions let go unjudged because too many waited for their outcome; empty for none

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both."""
        return Counts(
            plus(self.requests, other.requests), plus(self.errors, other.errors),
            plus(self.exposures, other.exposures), plus(self.fresh, other.fresh), plus(self.timed, other.timed),
            _join(self.first, other.first), _join(self.judged, other.judged),
            plus(self.unusable or [0, 0], other.unusable) if other.unusable else self.unusable,
            _join(self.due, other.due),
            plus(self.crowded or [0, 0], other.crowded) if other.crowded else self.crowded,
        )  # fmt: skip


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A failing or slow row of a unit (hash 0: the request is the unit) at time `at`.

    `rail` indexes the guardrails; -1 - index tells of the absolute limit of a latency guardrail.
    """

    allocation: int
    rail: int
    arm: int
    unit: int
    at: int


Answer = float | list[float]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An outcome with the answers it judges; None where an arm gave none.

    `group` indexes `delays_of`; rows of group `SCORES` came without an outcome, and their truth is 0. `cohort` tells
    that the control's answer belongs to the equal-size cohort. `named` are the columns of `columns_of`. `served` is the
    arm whose answer the caller got, -1 where a record does not tell.
    """

    allocation: int
    unit: int
    truth: float
    candidate: Answer | None
    control: Answer | None
    group: int = 0
    cohort: bool = False
    named: list[float | None] = []
    served: int = -1


class Compared(msgspec.Struct, array_like=True):
    """Rows that both arms answered: how many agreed, and what mean and deviation of their shift follow from.

    The shift is the candidate's score less the champion's; `micros` is what the discarded answers took in all.
    """

    rows: int = 0
    agreed: int = 0
    shifts: int = 0
    total: float = 0.0
    squares: float = 0.0
    micros: int = 0

    def add(self, s: Shadow) -> None:
        """Take one discarded answer."""
        self.rows += 1
        self.agreed += bool(s.agreed)
        self.micros += s.total
        if s.shift is not None:
            self.shifts += 1
            self.total += s.shift
            self.squares += s.shift * s.shift

    def merge(self, other: Compared) -> None:
        """Take all of another's rows."""
        self.rows += other.rows
        self.agreed += other.agreed
        self.shifts += other.shifts
        self.total += other.total
        self.squares += other.squares
        self.micros += other.micros


class Bin(msgspec.Struct, array_like=True):
    """One closed second of evidence, in the order it was folded."""

    second: int
    counts: dict[int, Counts]
    failures: list[Failure]
    rows: list[Row]
    newest: int = 0
    veto: str = ""
    compared: Compared | None = None


def merge_bins(nodes: Mapping[str, Sequence[Bin]]) -> list[Bin]:
    """Return the bins of several nodes as one sequence, whatever the order they arrived in.

    Bins of one second become one; within it, the nodes' failures and rows follow one another in order of their names.
    Indices of allocations must mean the same on all nodes, which they do when the lease holder tells the splits.

    Args:
        nodes: Closed bins by node, each in order of its seconds.
    """
    merged: dict[int, Bin] = {}
    for node in sorted(nodes):
        for closed in nodes[node]:
            there = merged.get(closed.second)
            if there is None:
                there = merged[closed.second] = Bin(closed.second, {}, [], [])
            _add(there, closed)
    return [merged[second] for second in sorted(merged)]


def _add(into: Bin, closed: Bin) -> None:
    for index, new in sorted(closed.counts.items()):
        old = into.counts.get(index) or Counts([0, 0], [0, 0], [0, 0], [0, 0], [0, 0])
        into.counts[index] = old.plus(new)
    into.failures += closed.failures
    into.rows += closed.rows
    into.newest = max(into.newest, closed.newest)
    into.veto = into.veto or closed.veto
    if closed.compared is not None:
        into.compared = into.compared or Compared()
        into.compared.merge(closed.compared)


def plus(one: list[int], other: list[int]) -> list[int]:
    """Return the sums of two lists of counts."""
    return [a + b for a, b in zip(one, other, strict=True)]


def _join(one: dict[int, list[int]], other: dict[int, list[int]]) -> dict[int, list[int]]:
    return {k: plus(one.get(k, [0, 0]), other.get(k, [0, 0])) for k in sorted({*one, *other})}
