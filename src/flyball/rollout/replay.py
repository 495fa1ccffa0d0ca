"""Replay a rollout's verdicts from the prediction log.

Only what the log cannot know is taken from the record: when the controller looked, and people's orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flyball.rollout.evidence.journal import Decided, gaps, load
from flyball.rollout.evidence.ledger import snapshot
from flyball.rollout.evidence.live import Live
from flyball.rollout.judging.decide import decide
from flyball.rollout.types import Decision, Outside, RolloutSpec, RolloutStatus
from flyball.units import from_micros

__all__ = ["Replay", "Verdict", "replay", "walk"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A recorded decision, and what the same rules say now about the same log."""

    recorded: Decision
    again: Decision
    evidence: dict[str, Any]

    @property
    def same(self) -> bool:
        """Whether action, step, share and guardrail agree."""
        return _core(self.recorded) == _core(self.again)


@dataclass(frozen=True, slots=True)
class Replay:
    """All verdicts of a rollout, replayed; `bins_same` tells whether every bin is there and came out bit for bit."""

    verdicts: tuple[Verdict, ...]
    bins: int
    bins_same: bool

    @property
    def same(self) -> bool:
        """Whether bins and verdicts all agree."""
        return self.bins_same and all(verdict.same for verdict in self.verdicts)


def replay(spec: RolloutSpec, log_root: Path, evidence_root: Path, rollout: str) -> dict[str, Any]:
    """Return `walk` as plain data: same, bins, bins_same, and per verdict what was recorded and what it gives again."""
    data: dict[str, Any] = msgspec.to_builtins(found := walk(spec, log_root, evidence_root, rollout))
    verdicts = [{**v, "same": w.same} for v, w in zip(data["verdicts"], found.verdicts, strict=True)]
    return {**data, "same": found.same, "verdicts": verdicts}


def walk(spec: RolloutSpec, log_root: Path, evidence_root: Path, rollout: str) -> Replay:
    """Fold the prediction log again as recorded, and decide again wherever a decision was taken.

    Args:
        spec: The rollout's spec.
        log_root: The prediction log (`Layout.log`).
        evidence_root: The evidence of all rollouts (`Layout.evidence`).
        rollout: The rollout's id.

    Returns:
        The verdicts, in order; none when nothing was decided yet.
    """
    frames = load(evidence_root / rollout)
    statuses = [msgspec.convert(f.status, RolloutStatus) for f in frames if isinstance(f, Decided)]
    if not statuses:
        return Replay((), 0, bins_same=True)
    live = Live(spec, statuses[0], log_root=log_root, folder=evidence_root / rollout, fence=0)
    verdicts: list[Verdict] = []
    same = not gaps(frames)
    for frame in frames:
        same &= live.redo(frame)
        if isinstance(frame, Decided):
            verdicts.append(_again(spec, live, frame))
    live.close()
    return Replay(tuple(verdicts), live.ledger.bins, same)


def _again(spec: RolloutSpec, live: Live, frame: Decided) -> Verdict:
    status = msgspec.convert(frame.status, RolloutStatus)
    now = from_micros(frame.now)
    recorded = msgspec.convert(frame.decision, Decision)
    evidence = live.evidence(status, now, outside=Outside(frame.vetoed, frame.measured))
    again = recorded if recorded.guardrail == "table" else decide(spec, status, evidence, now)
    return Verdict(recorded, again, snapshot(evidence))


def _core(decision: Decision) -> tuple[str, str, int, float, str]:
    return decision.action, decision.reason, decision.step, decision.share, decision.guardrail
