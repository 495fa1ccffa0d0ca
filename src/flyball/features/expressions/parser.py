"""Text becomes a tree: recursive descent over or, and, not, comparison, sum, product, sign, atom.

The surprise: `between`, `in` and `is not null` leave no node of their own; they become comparisons, `or` and `not`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from flyball import units
from flyball.errors import ExpressionError, UnitError
from flyball.features.expressions.functions import FUNCTIONS, OWN
from flyball.features.expressions.tree import COMPARE, INT_MAX, Binary, Call, Constant, Expr, Name, Unary

__all__ = ["parse"]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)(?P<unit>[A-Za-zµ]+)?"
    r"|(?P<string>'(?:[^']|'')*')|(?P<word>[A-Za-z_]\w*)|(?P<op><=|>=|<>|!=|==|//|[-+*/%()=<>,]))"
)
_KEYWORDS = {"and", "or", "not", "between", "in", "is", "null", "true", "false"}


@lru_cache(maxsize=1024)
def parse(text: str) -> Expr:
    """Parse an expression; the same text gives the same (immutable) tree.

    Raises:
        ExpressionError: it does not parse; the message shows where.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent: or, and, not, comparison, sum, product, sign, atom."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(at + len(text[at:]) - len(text[at:].lstrip()))
            self._tokens.append(_token(match))
            at = match.end()

    def parse(self) -> Expr:
        expr = self._or()
        if self._next < len(self._tokens):
            raise self._error(self._tokens[self._next][2])
        return expr

    def _error(self, at: int) -> ExpressionError:
        if at >= len(self._text.rstrip()):
            return ExpressionError(f"expression {self._text!r} ends too early; a value is missing at its end")
        return ExpressionError(
            f"expression {self._text!r} does not parse at {self._text[at:].strip()[:20]!r} (character {at + 1}); "
            "it may use names, numbers, 'texts', durations such as 1h, + - * / // %, functions, comparisons, between, "
            "in, is null, and, or, not and parentheses"
        )

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next][:2] if self._next < len(self._tokens) else ("end", "")

    def _here(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _take(self, *wanted: str) -> str | None:
        kind, value = self._peek()
        if kind in {"op", "keyword"} and value in wanted:
            self._next += 1
            return value
        return None

    def _need(self, wanted: str) -> None:
        if self._take(wanted) is None:
            raise self._error(self._here())

    def _or(self) -> Expr:
        left = self._and()
        while self._take("or"):
            left = Binary("or", left, self._and())
        return left

    def _and(self) -> Expr:
        left = self._not()
        while self._take("and"):
            left = Binary("and", left, self._not())
        return left

    def _not(self) -> Expr:
        return Unary("not", self._not()) if self._take("not") else self._comparison()

    def _comparison(self) -> Expr:
        left = self._sum()
        if op := self._take(*COMPARE, "==", "!="):
            return Binary({"==": "=", "!=": "<>"}.get(op, op), left, self._sum())
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return Unary("not", Unary("is null", left)) if negated else Unary("is null", left)
        negated = self._take("not")
        if self._take("between"):
            low = self._sum()
            self._need("and")
            found: Expr = Binary("and", Binary(">=", left, low), Binary("<=", left, self._sum()))
        elif self._take("in"):
            found = self._members(left)
        elif negated:
            raise self._error(self._here())
        else:
            return left
        return Unary("not", found) if negated else found

    def _members(self, left: Expr) -> Expr:
        self._need("(")
        found: Expr = Binary("=", left, self._sum())
        while self._take(","):
            found = Binary("or", found, Binary("=", left, self._sum()))
        self._need(")")
        return found

    def _sum(self) -> Expr:
        left = self._product()
        while op := self._take("+", "-"):
            left = Binary(op, left, self._product())
        return left

    def _product(self) -> Expr:
        left = self._sign()
        while op := self._take("*", "//", "/", "%"):
            left = Binary(op, left, self._sign())
        return left

    def _sign(self) -> Expr:
        if self._take("-"):
            return Unary("-", self._sign())
        return self._sign() if self._take("+") else self._atom()

    def _atom(self) -> Expr:
        kind, value = self._peek()
        at = self._here()
        if self._take("("):
            inner = self._or()
            self._need(")")
            return inner
        self._next += 1
        match kind:
            case "name" if self._peek() == ("op", "("):
                return self._call(value, at)
            case "name":
                return Name(value)
            case "string":
                return Constant(value[1:-1].replace("''", "'"), "string")
            case "keyword" if value in {"true", "false"}:
                return Constant(value == "true", "bool")
            case "number":
                return _number(value)
            case "duration":
                return self._duration(value)
        raise self._error(at)

    def _call(self, name: str, at: int) -> Expr:
        self._need("(")
        args = [self._or()]
        while self._take(","):
            args.append(self._or())
        self._need(")")
        if name.lower() == "time":
            return self._time(args)
        if name.lower() not in {*FUNCTIONS, *OWN}:
            known = ", ".join(sorted([*FUNCTIONS, *OWN, "time"]))
            raise ExpressionError(f"there is no function {name!r} (character {at + 1}); use {known}")
        return Call(name.lower(), tuple(args))

    def _time(self, args: list[Expr]) -> Expr:
        """Read time('2020-01-31T12:00:00Z'), a constant; without an offset it is UTC."""
        text = args[0].value if len(args) == 1 and isinstance(args[0], Constant) else None
        try:
            found = datetime.fromisoformat(str(text)) if isinstance(text, str) else None
        except ValueError:
            found = None
        if found is None:
            raise ExpressionError(f"time needs one ISO text, such as time('2020-01-31T12:00:00Z') ({self._text!r})")
        return Constant(units.to_micros(found if found.tzinfo else found.replace(tzinfo=UTC)), "timestamp")

    def _duration(self, text: str) -> Expr:
        try:
            return Constant(units.micros(units.duration(text)), "duration")
        except UnitError as error:
            raise ExpressionError(f"{error} (in expression {self._text!r})") from error


def _token(match: re.Match[str]) -> tuple[str, str, int]:
    at = match.end() - len(match.group().lstrip())
    if number := match["number"]:
        return ("duration", number + match["unit"], at) if match["unit"] else ("number", number, at)
    if match["string"]:
        return "string", match["string"], at
    if word := match["word"]:
        return ("keyword", word.lower(), at) if word.lower() in _KEYWORDS else ("name", word, at)
    return "op", match["op"], at


def _number(text: str) -> Expr:
    if text.isdigit() and int(text) <= INT_MAX:
        return Constant(int(text), "int64")
    return Constant(float(text), "float64")
