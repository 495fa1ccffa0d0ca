"""What both clients do at the network's edge: addresses, headers, and what an error of httpx means.

The surprise: only errors of connecting say that nothing was sent; every other one may come after the gateway had read
the request.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urlsplit

from flyball.client.conversation import Failure, Reply, Send, Wait
from flyball.errors import InputError, MissingExtra, first_line

if TYPE_CHECKING:
    import httpx

__all__ = ["Done", "address_of", "failure", "headers_of", "httpx_module", "outcome", "reply"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A call's answer."""

    value: T


def httpx_module() -> ModuleType:
    """Return httpx, imported late.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra.of("the client", "standard") from error
    return httpx


def address_of(url: str) -> str:
    """Return a gateway's address without a slash at its end; raises InputError when it is none."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InputError(f"{url!r} is no address of a gateway; write something like http://127.0.0.1:8080")
    return url.rstrip("/")


def headers_of(key: str | None) -> dict[str, str]:
    """Return what every request carries."""
    return {"authorization": f"Bearer {key}"} if key else {}


def reply(response: httpx.Response) -> Reply:
    """Return an answer without its library."""
    return Reply(response.status_code, response.headers, response.content)


def failure(error: Exception) -> Failure:
    """Return what an error of sending means; re-raises what is none of httpx's."""
    import httpx

    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Failure("unreached", first_line(error))
        case httpx.TimeoutException() | TimeoutError():
            return Failure("late", "")
        case httpx.TransportError():
            return Failure("broken", first_line(error))
        case _:
            raise error


def outcome(
    talk: Generator[Send | Wait, Reply | Failure | None, T], told: Reply | Failure | None
) -> Send | Wait | Done[T]:
    """Tell a conversation what came of its last step; return the next step, or its answer."""
    try:
        return talk.send(told)
    except StopIteration as end:
        return Done(end.value)
