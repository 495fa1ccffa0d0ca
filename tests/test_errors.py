from __future__ import annotations

import inspect
import re

import pytest

from flyball import errors
from flyball.errors import BadRequest, DeadlineExceeded, FlyballError, MissingExtra, UnknownName, first_line, nearest

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, FlyballError)]


def test_the_exported_names_are_the_tree() -> None:
    assert set(errors.__all__) == {c.__name__ for c in CLASSES} | {"nearest"}


def test_the_tree_drawn_at_the_top_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines()[2:]:
        if match := re.match(r"([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
        elif line.startswith("`exit_code`"):
            break
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_each_error_has_an_exit_code_and_a_sentence_of_what_it_says(error: type[FlyballError]) -> None:
    assert error.exit_code in {1, 2, 3}
    assert (error.__doc__ or "").startswith(("Say ", "Be "))


def test_errors_are_caught_as_the_builtin_they_fit() -> None:
    assert issubclass(UnknownName, KeyError)
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(MissingExtra, ImportError)


def test_an_unknown_name_reads_as_a_sentence_not_as_a_repr() -> None:
    error = UnknownName.of("feature view", "zone_trafic", ["zone_traffic", "other"])
    assert str(error) == "there is no feature view named 'zone_trafic'; did you mean zone_traffic?"
    assert str(UnknownName.of("view", "x", [])) == "there is no view named 'x'; known: none."
    assert str(UnknownName.of("view", "x", ["b", "a"])) == "there is no view named 'x'; known: a, b."


def test_a_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtra.of("Redis", "redis")).endswith("pip install 'flyball[redis]'")


def test_a_bad_request_carries_its_status() -> None:
    assert BadRequest("no").status == 400
    assert BadRequest("gone", 410).status == 410


def test_an_error_without_a_message_prints_nothing() -> None:
    assert str(FlyballError()) == ""


def test_nearest_gives_best_first_and_nothing_far() -> None:
    assert nearest("prot", ["port", "host", "part"])[0] in {"port", "part"}
    assert nearest("zzz", ["port"]) == []


def test_the_first_line_of_a_foreign_error_is_the_first_that_says_something() -> None:
    assert first_line(ValueError("\n  no such column\nLINE 1: select")) == "no such column"
    assert first_line(ValueError("x" * 999), most=5) == "xxxxx"
    assert first_line(KeyError()) == "KeyError"
