"""Whether a request's attributes are what a segment asks for: conditions compiled to one function.

Pure. The surprise: nothing in here can fail. An absent attribute, one of another type, a list where a number was
expected: each has an answer, because a caller's odd attribute must not become an error of the router.

- An attribute that is absent or null fits no condition but "!=" and "not in".
- Numbers compare with numbers, texts with texts, true and false only with themselves (true is not 1).
- Of an attribute that is a list, "in" and "==" want one fitting element, "!=" and "not in" none; order wants a scalar.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flyball.rollout.routing import Condition, Scalar

__all__ = ["Attributes", "Test", "compile_where"]

Attributes = Mapping[str, Any]
Test = Callable[[Attributes], bool]
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NEGATIVE = {"!=", "not in"}


def compile_where(where: Sequence[Condition]) -> Test:
    """Return a function that says whether all conditions hold of a request's attributes; none always hold."""
    tests = [_compile(condition) for condition in where]
    match tests:
        case [test]:
            return test
        case [first, second]:
            return lambda attributes: first(attributes) and second(attributes)
        case _:
            return lambda attributes: all(test(attributes) for test in tests)


def _compile(condition: Condition) -> Test:
    name, op = condition.attribute, condition.op
    if op in _ORDER:
        return _ordered(name, op, condition.values)
    if op == "starts with":
        return _starting(name, tuple(v for v in condition.values if isinstance(v, str)))
    return _equal(name, condition.values, wanted=op not in _NEGATIVE)


def _equal(name: str, values: tuple[Scalar, ...], *, wanted: bool) -> Test:
    known = frozenset(map(_tagged, values))

    def holds(attributes: Attributes) -> bool:
        value = attributes.get(name)
        if type(value) is str:  # what attributes mostly are
            return (value in known) is wanted
        return _among(value, known) is wanted

    return holds


def _starting(name: str, starts: tuple[str, ...]) -> Test:
    def holds(attributes: Attributes) -> bool:
        value = attributes.get(name)
        return isinstance(value, str) and value.startswith(starts)

    return holds


def _ordered(name: str, op: str, values: tuple[Scalar, ...]) -> Test:
    """Any of several bounds is met when the loosest is."""
    compare, loosest = _ORDER[op], max if op in {"<", "<="} else min
    text: Any = loosest((v for v in values if isinstance(v, str)), default=None)
    numbers = (v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and not math.isnan(v))
    number: Any = loosest(numbers, default=None)

    def holds(attributes: Attributes) -> bool:
        value: Any = attributes.get(name)
        kind = type(value)
        if kind is int or kind is float:  # what is ordered mostly
            return number is not None and compare(value, number)
        bound = text if isinstance(value, str) else number if _is_number(value) else None
        return bound is not None and compare(value, bound)

    return holds


def _among(value: Any, known: frozenset[Any]) -> bool:
    if isinstance(value, list | tuple):
        return any(_tagged(element) in known for element in value)
    return _tagged(value) in known


def _tagged(value: Any) -> Any:
    """Return what makes true differ from 1 and is hashable whatever came; None for what equals nothing."""
    if isinstance(value, bool):
        return ("bool", value)
    return value if isinstance(value, str | int | float) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
