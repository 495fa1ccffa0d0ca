"""Whether a request's attributes are what a segment asks for: conditions compiled to one function.

Pure. The surprise: nothing in here can fail. An absent attribute, one of another type, a list where a number was
expected: each has an answer, because a caller's odd attribute must not become an error of the router.

- An attribute that is absent or null fits no condition but "!=" and "not in".
- Numbers compare with numbers, texts with texts, true and false only with themselves (true is not 1).
- Of an attribute that is a list, "in" and "==" want one fitting element, "!=" and "not in" none; order wants a scalar.
"""

from __future__ import annotations

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
    if len(tests) == 1:
        return tests[0]
    return lambda attributes: all(test(attributes) for test in tests)


def _compile(condition: Condition) -> Test:
    name, op = condition.attribute, condition.op
    if op in _ORDER:
        return _ordered(name, op, condition.values)
    if op == "starts with":
        starts = tuple(v for v in condition.values if isinstance(v, str))
        return lambda attributes: isinstance(value := attributes.get(name), str) and value.startswith(starts)
    known = frozenset(map(_tagged, condition.values))
    wanted = op not in _NEGATIVE
    return lambda attributes: _among(attributes.get(name), known) is wanted


def _ordered(name: str, op: str, values: tuple[Scalar, ...]) -> Test:
    compare = _ORDER[op]
    texts = [v for v in values if isinstance(v, str)]
    numbers = [v for v in values if _is_number(v)]

    def holds(attributes: Attributes) -> bool:
        value: Any = attributes.get(name)
        bounds: Sequence[Any] = texts if isinstance(value, str) else numbers if _is_number(value) else ()
        return any(compare(value, bound) for bound in bounds)

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
    return isinstance(value, int | float) and not isinstance(value, bool)
