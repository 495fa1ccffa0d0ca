"""What is measured outside the log, and the split: values that are compared as they are.

The surprise: a value that is not known holds the ramp as firmly as a bad one. Silence is no evidence.
"""

from __future__ import annotations

import math

from flyball.rollout.definitions.guards import NO_MARGIN
from flyball.rollout.types import GuardrailEvidence, GuardrailSpec, Measured

__all__ = ["measured", "split"]


def measured(rail: GuardrailSpec, found: Measured | None) -> GuardrailEvidence:
    """Judge a value of drift, resources or a custom function; for resources, the worst share of its limits."""
    limit = 1.0 if rail.kind == "resources" else rail.limit if rail.limit is not None else NO_MARGIN
    value = None if found is None else found.value
    if value is None or not math.isfinite(value):
        why = found.text if found is not None and found.text else "nothing was measured yet"
        text = f"{rail.name} is not known ({why}); the ramp holds"
        return GuardrailEvidence(
            rail.name, breached=False, safe=False, limit=limit, text=text, action=rail.action, holds=True
        )
    over = value > limit
    shown = f" ({found.text})" if found is not None and found.text else ""
    text = f"{rail.name} is {value:.4g}{shown}, {'above' if over else 'within'} max={limit:g}"
    return GuardrailEvidence(
        rail.name, breached=over, safe=not over, limit=limit, harm=value, samples=1, text=text, action=rail.action,
        holds=over and rail.action == "hold",
    )  # fmt: skip


def split(rail: GuardrailSpec, e_value: float, limit: float, counts: tuple[int, int]) -> GuardrailEvidence:
    """Judge the split of the present allocation by its sequential e-value."""
    broken = e_value >= limit
    text = f"{counts[0]} units of the candidate and {counts[1]} of the control arrived, "
    text += "in other shares than the table says" if broken else "as the table says"
    return GuardrailEvidence(
        rail.name, breached=broken, safe=not broken, e_value=e_value, limit=limit, samples=sum(counts), text=text,
        action="hold", holds=broken,
    )  # fmt: skip
