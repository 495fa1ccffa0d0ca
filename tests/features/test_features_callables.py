from __future__ import annotations

import functools
from pathlib import Path

import pytest

from flyball.errors import IntegrityError
from flyball.features import callables
from flyball.features.callables import known, remember
from flyball.features.spec import CodeRef
from flyball.registry.code import load_definitions

MODULE = """
import numpy as np
import helpers
from helpers import shift

FACTOR = 2
UNUSED = 1

def scale(x):
    return x * FACTOR

def f(x, by=1):
    return shift(scale(x)) + by

def g(x):
    return helpers.other(x)

def late(x):
    from more import inner
    return inner(x)

pair = (lambda x: x + 1, lambda x: x - 1)
"""
HELPERS = "def shift(x):\n    return x + 10\n\ndef other(x):\n    return x\n"
MORE = "def inner(x):\n    return x\n"


def _module(folder: Path, module: str = MODULE, helpers: str = HELPERS, more: str = MORE) -> object:
    folder.mkdir()
    for name, text in (("definitions.py", module), ("helpers.py", helpers), ("more.py", more)):
        (folder / name).write_text(text)
    return load_definitions(folder, "definitions.py")


def _digest(function: object) -> str:
    return remember(function).digest  # type: ignore[arg-type]


@pytest.fixture
def first(tmp_path: Path) -> object:
    return _module(tmp_path / "first")


@pytest.mark.parametrize(
    ("name", "part", "old", "new", "changes"),
    [
        ("f", "module", "FACTOR = 2", "FACTOR = 3", True),
        ("f", "module", "x * FACTOR", "x / FACTOR", True),
        ("f", "module", "by=1", "by=2", True),
        ("f", "helpers", "x + 10", "x + 11", True),
        ("f", "module", "UNUSED = 1", "UNUSED = 2", False),
        ("f", "helpers", "return x\n", "return -x\n", False),
        ("g", "helpers", "return x\n", "return -x\n", True),
        ("g", "helpers", "x + 10", "x + 11", False),
        ("late", "more", "return x", "return -x", True),
        ("late", "module", "FACTOR = 2", "FACTOR = 3", False),
    ],
)
def test_a_digest_covers_what_is_reached_and_nothing_else(
    tmp_path: Path, first: object, name: str, part: str, old: str, new: str, changes: bool
) -> None:
    texts = {"module": MODULE, "helpers": HELPERS, "more": MORE}
    assert old in texts[part]
    second = _module(tmp_path / "second", **texts | {part: texts[part].replace(old, new)})
    assert (_digest(getattr(first, name)) != _digest(getattr(second, name))) is changes


def test_the_name_is_the_same_in_a_folder_and_its_snapshot(first: object) -> None:
    assert remember(first.f).name == "definitions:f"  # type: ignore[attr-defined]


def test_two_lambdas_of_one_line_differ(first: object) -> None:
    up, down = first.pair  # type: ignore[attr-defined]
    assert _digest(up) != _digest(down)
    assert known(remember(up))(1) == 2 and known(remember(down))(1) == 0


def test_arguments_of_a_partial_and_state_of_an_object_count() -> None:
    class Adder:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, x: int) -> int:
            return x + self.by

    assert _digest(Adder(1)) == _digest(Adder(1)) != _digest(Adder(2))
    assert _digest(functools.partial(pow, 2)) != _digest(functools.partial(pow, 3))
    assert _digest(Adder(1).__call__) != _digest(Adder(2).__call__)


def test_recursion_and_cycles_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n > 0 and even(n - 1)

    assert _digest(even) == _digest(even) != _digest(odd)


def test_what_nobody_declares_is_refused() -> None:
    with pytest.raises(IntegrityError, match="flyball apply"):
        known(CodeRef("definitions:f", "0" * 32))


def test_a_finder_is_asked_once_for_what_is_not_known() -> None:
    asked: list[CodeRef] = []

    def find(ref: CodeRef) -> bool:
        asked.append(ref)
        found = remember(len)
        return found == ref

    ref = remember(len)
    wrong = CodeRef("definitions:gone", "1" * 32)
    callables.find_with("here", find)
    try:
        assert known(ref) is len
        with pytest.raises(IntegrityError):
            known(wrong)
    finally:
        callables.find_with("here", None)
    assert asked == [wrong]
