"""What a user says about serving a model: `Serving(...)`.

The surprise: it returns a `ServingSpec`, which travels to every worker in the routing table; texts such as "30s" end
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import get_args

from flyball import units
from flyball.errors import DefinitionError
from flyball.rollout.routing import Protection, ServingSpec

__all__ = ["Serving"]


def Serving(
    *,
    deadline: str | timedelta | None = None,
    cache: str | timedelta | None = None,
    cache_in_experiments: bool = False,
    hosted: bool = False,
    personal: Mapping[str, Protection] | None = None,
    retention: str | timedelta | None = None,
    max_rows: int = 0,
) -> ServingSpec:
    """Say how a model is served.

    Args:
        deadline: Time a whole request may take ("200ms"); None takes `server.deadline`.
        cache: How long an answer to equal inputs may be used again ("30s"); None never.
        cache_in_experiments: Whether it may also while units are split at random; off by default, because an answer
            of the past is then no fresh evidence about its arm.
        hosted: Whether the version is kept in a process of its own as champion too.
        personal: Request fields, attributes or "unit" that the prediction log keeps only by "mask", "hash" or
            "encrypt".
        retention: How long predictions are kept ("90d"); None for ever.
        max_rows: Rows of one request; 0 takes `server.max_rows`.

    Raises:
        DefinitionError: a kind of protection is unknown, or a number is below zero.
        UnitError: a text is no duration.
    """
    for name, kind in (personal or {}).items():
        if kind not in get_args(Protection):
            known = ", ".join(get_args(Protection))
            raise DefinitionError(f"personal field {name!r} is to be kept as {kind!r}; choose one of: {known}")
    if max_rows < 0:
        raise DefinitionError(f"max_rows is {max_rows}; write a number of rows, or 0 for the server's limit")
    return ServingSpec(
        deadline=None if deadline is None else units.duration(deadline).total_seconds(),
        cache=0.0 if cache is None else units.duration(cache).total_seconds(),
        cache_in_experiments=cache_in_experiments,
        hosted=hosted,
        personal=dict(personal or {}),
        retention=0.0 if retention is None else units.duration(retention).total_seconds(),
        max_rows=max_rows,
    )
