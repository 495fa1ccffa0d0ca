"""Post one event as JSON to an address, signed, and say what came of it.

The surprise: a redirect is a failure. The signature was made for the address that was configured, and a message must
not follow whoever answers there to another one.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import urllib.error
import urllib.request
from enum import StrEnum
from typing import IO, Any

from flyball.errors import ConfigError

__all__ = ["Told", "check_url", "post", "signature"]

_AGAIN = frozenset({408, 425, 429})


class Told(StrEnum):
    """What a receiver made of a message."""

    TAKEN = "taken"
    REFUSED = "refused"  # for ever: the same message would be refused again
    LATER = "later"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Follow nobody."""


def check_url(url: str) -> str:
    """Return an address that can be posted to; raises ConfigError (without repeating it: it may hold a token)."""
    if not url.startswith(("https://", "http://")) or len(url) < 10:
        raise ConfigError(
            "webhooks.url has an address that does not begin with https:// or http://; write "
            "https://HOST/PATH, several separated by spaces, or env:NAME"
        )
    return url


def signature(secret: str, stamp: int, body: bytes) -> str:
    """Return the value of the header `X-Flyball-Signature`: `t=STAMP,v1=HEX`.

    HEX is HMAC-SHA256 over the stamp (seconds since 1970), a dot and the body; a receiver computes the same, compares
    in constant time, and refuses stamps that are minutes old.

    Example:
        >>> signature("key", 1, b"{}")[:13]
        't=1,v1=a91062'
    """
    mac = hmac.new(secret.encode(), b"%d." % stamp + body, hashlib.sha256)
    return f"t={stamp},v1={mac.hexdigest()}"


def post(url: str, body: bytes, *, id: str, kind: str, stamp: int, secret: str = "", timeout: float = 5.0) -> Told:
    """Post one message and return what came of it; raises nothing that a network can do.

    Args:
        url: Where to.
        body: JSON.
        id: The message's own id, the same each time it is sent; receivers drop what they have seen.
        kind: The event's kind.
        stamp: Seconds since 1970, signed with the body.
        secret: Key of the signature, empty for none.
        timeout: Seconds.
    """
    headers = {"content-type": "application/json", "x-flyball-id": id, "x-flyball-event": kind,
               "user-agent": "flyball"}  # fmt: skip
    if secret:
        headers["x-flyball-signature"] = signature(secret, stamp, body)
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout) as answer:
            return Told.TAKEN if 200 <= answer.status < 300 else Told.LATER
    except urllib.error.HTTPError as error:
        error.close()
        return Told.REFUSED if 400 <= error.code < 500 and error.code not in _AGAIN else Told.LATER
    except (OSError, http.client.HTTPException, ValueError):  # refused, too slow, no answer, half an answer
        return Told.LATER
