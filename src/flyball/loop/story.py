"""Tell what the loop did and why: window that fired -> run -> gate -> rollout -> verdict.

The surprise: the story is written from records alone, one chapter a trigger, so it reads the same years later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flyball.errors import UnknownName
from flyball.loop.policy import STARTED
from flyball.loop.ports import LoopStore
from flyball.loop.types import LoopEvent, Trigger
from flyball.rollout.ports import RolloutStore
from flyball.training.ports import RunStore
from flyball.training.types import Run

__all__ = ["lines", "why"]


def why(
    model: str, *, store: LoopStore, runs: RunStore | None = None, rollouts: RolloutStore | None = None
) -> list[dict[str, Any]]:
    """Return one chapter per trigger, oldest first, as plain JSON data.

    Keys: trigger, kind, at, evidence, state, reason, facts [{at, kind, text}], and where there were any
    run {id, state, version, error, gate} and rollout {id, candidate, champion, phase, reason, events}.
    """
    story = store.story(model)
    return [_chapter(t, story, runs, rollouts) for t in store.triggers(model)]


def lines(chapters: Sequence[dict[str, Any]]) -> list[str]:
    """Return the chapters as lines for a terminal."""
    told: list[str] = []
    for chapter in chapters:
        told.append(
            f"{_minute(chapter['at'])}  {chapter['kind']}: {chapter['evidence'].get('text', chapter['trigger'])}"
        )
        for fact in chapter["facts"]:
            if fact["kind"] != "TriggerFired":
                told.append(f"  {_minute(fact['at'])}  {fact['text']}")
        for check in chapter.get("run", {}).get("gate", {}).get("checks", []):
            told.append(f"    gate: {check.get('text') or check.get('name')} [{check.get('verdict')}]")
        for event in chapter.get("rollout", {}).get("events", []):
            told.append(f"    {_minute(event['at'])}  {event['kind']}: {event['reason']}")
        if chapter["state"] in ("open", "running") and chapter["reason"]:
            told.append(f"  now: {chapter['reason']}")
    return told or ["nothing has fired yet"]


def _chapter(
    trigger: Trigger, story: list[LoopEvent], runs: RunStore | None, rollouts: RolloutStore | None
) -> dict[str, Any]:
    facts = [e for e in story if e.ids.get("trigger") == trigger.id]
    chapter: dict[str, Any] = {
        "trigger": trigger.id,
        "kind": trigger.kind,
        "at": trigger.at.isoformat(),
        "evidence": {k: v for k, v in trigger.evidence.items() if k != STARTED},
        "state": trigger.state,
        "reason": trigger.reason,
        "facts": [{"at": e.at.isoformat(), "kind": e.kind, "text": e.text} for e in facts],
    }
    if trigger.run:
        chapter["run"] = _run(trigger.run, runs)
    if trigger.rollout:
        chapter["rollout"] = _rollout(trigger.rollout, rollouts)
    return chapter


def _run(name: str, runs: RunStore | None) -> dict[str, Any]:
    if runs is None:
        return {"id": name}
    try:
        run = runs.get(name)
    except UnknownName:
        return {"id": name}
    return {"id": name, "state": str(run.state), "version": run.version, "error": run.error, "gate": _gate(run)}


def _gate(run: Run) -> dict[str, Any]:
    return next((dict(s.outputs) for s in run.stages if s.stage == "gate"), {})


def _rollout(name: str, rollouts: RolloutStore | None) -> dict[str, Any]:
    if rollouts is None:
        return {"id": name}
    _, status = rollouts.get(name)
    events = [{"at": e.at.isoformat(), "kind": e.kind, "reason": e.reason} for e in rollouts.events(name)]
    return {
        "id": name,
        "candidate": status.candidate,
        "champion": status.champion,
        "phase": str(status.phase),
        "reason": status.reason,
        "events": events,
    }


def _minute(iso: str) -> str:
    return iso[:16].replace("T", " ")
