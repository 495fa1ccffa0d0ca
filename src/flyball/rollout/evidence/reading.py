"""What guardrails read: which columns and after which delay, and which answers of a record can be judged at all."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeGuard

import xxhash

from flyball.rollout.evidence.closed import Answer
from flyball.rollout.types import GuardrailSpec, RolloutSpec

__all__ = ["answer_of", "columns_of", "delays_of", "is_late", "is_number", "number_of", "reads_rows", "unit_hash"]


def columns_of(spec: RolloutSpec) -> list[str]:
    """Return the request's columns that guardrails read, sorted."""
    rails = (*spec.guardrails, *((spec.primary,) if spec.primary else ()))
    return sorted({name for rail in rails for name in (rail.over, rail.covariate) if name})


def delays_of(spec: RolloutSpec) -> list[timedelta]:
    """Return the distinct delays of metrics, shortest first; a row's `group` is an index into them."""
    rails = (*spec.guardrails, *((spec.primary,) if spec.primary else ()))
    return sorted({rail.delay for rail in rails if rail.kind == "metric" and rail.metric != "prediction"})


def unit_hash(unit: str) -> int:
    """Return a unit's 63-bit hash; never 0, which means that the request is its own unit."""
    return (xxhash.xxh3_64_intdigest(unit.encode()) >> 1) or 1


def reads_rows(rail: GuardrailSpec) -> bool:
    """Tell whether a guardrail reads rows: answers, with their outcomes or without."""
    return rail.kind in {"metric", "shift"}


def is_late(error: str) -> bool:
    """Tell whether a failure's text, which begins with the error's class, tells of time that ran out."""
    return error.split(":", 1)[0].strip().endswith(("DeadlineExceeded", "TimeoutError", "Timeout"))


def answer_of(value: object) -> Answer | None:
    """Return an answer that can be judged: a finite number, or one for each class; None for anything else."""
    if isinstance(value, list | tuple):
        return [float(v) for v in value] if value and all(is_number(v) for v in value) else None
    return float(value) if is_number(value) else None


def number_of(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    return float(value) if is_number(value) else None


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number."""
    return isinstance(value, float | int) and math.isfinite(value)
