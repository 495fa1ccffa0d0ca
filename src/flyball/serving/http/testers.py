"""The arm that a tester asks for by a header, so that a new version can be seen before chance shows it to anybody."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from flyball.errors import BadRequest
from flyball.serving.http.access import ADMIN
from flyball.serving.routing.plan import ModelPlan

__all__ = ["HEADER", "TESTER", "asked_arm"]

HEADER = b"x-flyball-arm"
TESTER = "tester"


def asked_arm(scope: MutableMapping[str, Any], plan: ModelPlan) -> str:
    """Return the arm that a request's `x-flyball-arm` names, "" for none.

    "candidate" is known also while there is none: the champion answers then, so that a test page need not change.

    Raises:
        BadRequest: 403 where keys have roles and the caller's is neither admin nor tester; 400 for an unknown arm.
    """
    found = next((bytes(value) for name, value in scope["headers"] if name == HEADER), None)
    if found is None:
        return ""
    role = scope.get("flyball.role")
    if role not in {None, ADMIN, TESTER}:
        raise BadRequest(f"role {role!r} may not choose an arm; that takes a key of role {TESTER!r} or {ADMIN!r}", 403)
    arm = found.decode("latin-1").strip()
    known = {"champion", "candidate", *plan.arms, *(v.name for v in plan.route.variants)}
    if arm not in known:
        raise BadRequest(f"there is no arm {arm!r:.100} of {plan.route.model}; it has {', '.join(sorted(known))}")
    return arm
