"""Whether to try again, and when: a pure decision over what went wrong.

The surprise: a refusal with Retry-After is tried again also where sending twice would count twice, because a gateway
refuses before it takes anything; but not for events, whose 503 leaves open what was taken.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

__all__ = ["Trouble", "pause", "seconds"]

_FIRST = 0.05  # seconds before the second try; doubled each time
_LONGEST = 2.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong: nobody was reached, the connection broke after sending, or an answer of `status`."""

    kind: Literal["unreached", "broken", "status"]
    status: int = 0
    retry_after: float | None = None


def pause(
    trouble: Trouble, *, tried: int, retries: int, repeatable: bool, left: float, rng: random.Random
) -> float | None:
    """Return the seconds to wait before the next try, None to give up.

    Args:
        trouble: What went wrong.
        tried: Tries so far, 1 or more.
        retries: Further tries allowed in all.
        repeatable: Whether the gateway counts this call once however often it comes.
        left: Seconds of the call's time that are left.
        rng: Spreads the tries of many clients.
    """
    if tried > retries or not _may(trouble, repeatable):
        return None
    wait = min(_FIRST * 2 ** (tried - 1), _LONGEST) * rng.uniform(0.5, 1.0)
    if trouble.retry_after is not None:
        wait = max(wait, trouble.retry_after)
    return wait if wait < left else None


def _may(trouble: Trouble, repeatable: bool) -> bool:
    match trouble.kind:
        case "unreached":
            return True
        case "broken":
            return repeatable
        case "status":
            if trouble.status == 429:
                return True
            return repeatable and trouble.status >= 500


def seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header; a date or nonsense counts as none."""
    try:
        found = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return found if 0.0 <= found < 86_400.0 else None
