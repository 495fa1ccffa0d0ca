"""What a user says about serving: `Serving(...)` of a model, `Segment(...)` of its traffic, and `Flag(...)`.

The surprise: they return values of the routing table, which travel to every worker as they are; texts such as "30s",
"20%" and ">= 18" end here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import get_args

import msgspec

from flyball import units
from flyball.errors import DefinitionError, DuplicateName
from flyball.rollout.routing import BUCKETS, Protection, Scalar, ServingSpec, conditions, cut
from flyball.rollout.routing import Flag as RoutedFlag
from flyball.rollout.routing import Segment as RoutedSegment

__all__ = ["Flag", "Segment", "Serving", "flag_cuts"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


def Serving(
    *,
    deadline: str | timedelta | None = None,
    cache: str | timedelta | None = None,
    cache_in_experiments: bool = False,
    hosted: bool = False,
    personal: Mapping[str, Protection] | None = None,
    retention: str | timedelta | None = None,
    max_rows: int = 0,
    segments: Sequence[RoutedSegment] = (),
    holdout: str | float = 0.0,
    testers: bool = False,
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
        segments: Which requests go to which arm, from `fb.Segment`; the first that fits decides.
        holdout: Share of units that always get the champion and no shadow ("5%").
        testers: Whether the header `x-flyball-arm` may choose an arm.

    Raises:
        DuplicateName: two segments share a name.
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
        segments=_distinct(segments),
        holdout=cut(units.share(holdout)),
        testers=testers,
    )


def Segment(
    name: str,
    *,
    where: Mapping[str, object],
    to: Scalar,
    share: str | float = 1.0,
) -> RoutedSegment:
    """Name requests by their attributes, and say what becomes of them.

    Args:
        name: What it is called in the log and in explanations.
        where: What each attribute must be; all must hold. A value means equality and a list one of it; a text may
            begin with an operator ("!= DE", ">= 18", "not in DE, AT", "starts with pro-") and join several with " and "
            (">= 18 and < 65"). An absent attribute fits "!=" and "not in" only.
        to: "champion", "candidate" or a variant; of a flag's segment, one of its values.
        share: Share of the segment's units that it applies to; the others fall through to the next rule.

    Raises:
        DefinitionError: a condition does not make sense.

    Example:
        >>> Segment("adults", where={"age": ">= 18", "country": ["DE", "AT"]}, to="candidate", share="20%").cut
        200000
    """
    _check_name("segment", name)
    if not where:
        raise DefinitionError(f"segment {name!r} has no condition; write where={{'country': ['DE', 'AT']}}")
    text = to if isinstance(to, str) else json.dumps(to)
    return RoutedSegment(name, conditions(f"segment {name!r}", where), text, cut(units.share(share)))


def Flag(
    name: str,
    *,
    values: Mapping[Scalar, str | float] | None = None,
    default: Scalar = False,
    share: str | float | None = None,
    segments: Sequence[RoutedSegment] = (),
    on: bool = True,
    personal: Protection | None = None,
) -> RoutedFlag:
    """Define a feature flag, decided by the same hash as arms are.

    Args:
        name: What `fb.flag` asks for.
        values: Value -> share of units that get it, such as {"blue": "10%", "green": "10%"}.
        default: What all other units get, and everybody while the flag is off.
        share: Short form of `values={True: share}`.
        segments: Whose value is decided first; `to` is a value.
        on: Whether it is on when it is first applied; `flyball flag set` switches it later.
        personal: Says that its units are personal, "hash": the log keeps a keyed hash of each that an experiment on the
            flag exposes. It does so too where any model of the project protects its "unit".

    Raises:
        DefinitionError: shares above 100 % together, both `values` and `share`, a segment to what is no value.

    Example:
        >>> Flag("new_map", share="10%").cuts
        (100000,)
    """
    _check_name("flag", name)
    if values is not None and share is not None:
        raise DefinitionError(
            f"flag {name!r} has values and a share; share is the short form of values={{True: share}}"
        )
    given = dict(values) if values is not None else {True: 0.0 if share is None else share}
    cuts = flag_cuts(name, [units.share(s) for s in given.values()])
    known = [*given, default]
    rules = tuple(replace(s, to=_value_text(name, s, known)) for s in _distinct(segments))
    if personal is not None and personal not in get_args(Protection):
        known_kinds = ", ".join(get_args(Protection))
        raise DefinitionError(f"units of flag {name!r} are to be kept as {personal!r}; choose one of: {known_kinds}")
    made = RoutedFlag(name, f"flag:{name}:", default, tuple(given), cuts, rules, on)
    return replace(made, defined=_digest(made, personal), personal=personal)


def _digest(flag: RoutedFlag, personal: Protection | None) -> str:
    """Return what tells definitions apart; what a definition does not say is left out, as in flyballs before."""
    said = msgspec.to_builtins(flag)
    del said["experiment"], said["personal"]
    if personal is not None:
        said["personal"] = personal
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:16]  # in the order of declaration, as before


def flag_cuts(name: str, shares: Sequence[float]) -> tuple[int, ...]:
    """Return rising cut points of the shares of a flag's values.

    Raises:
        DefinitionError: together they are more than all units.
    """
    cuts, total = [], 0
    for share in shares:
        total += cut(share)
        cuts.append(total)
    if total > BUCKETS:
        raise DefinitionError(
            f"the values of flag {name!r} have {total / BUCKETS:.0%} of the units; 100 % are the most"
        )
    return tuple(cuts)


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"{kind} name {name!r} is no plain word; use letters, digits, _ . and -")


def _distinct(segments: Sequence[RoutedSegment]) -> tuple[RoutedSegment, ...]:
    names = [segment.name for segment in segments]
    for name in names:
        if names.count(name) > 1:
            raise DuplicateName(f"{names.count(name)} segments are named {name!r}; rename one of them")
    return tuple(segments)


def _value_text(flag: str, segment: RoutedSegment, known: Sequence[Scalar]) -> str:
    """Return the JSON text of the value that a flag's segment gives."""
    for value in known:
        if segment.to in {value if isinstance(value, str) else None, json.dumps(value)}:
            return json.dumps(value)
    texts = ", ".join(json.dumps(value) for value in known)
    raise DefinitionError(f"segment {segment.name!r} of flag {flag!r} goes to {segment.to!r}; its values are {texts}")
