"""The registry's key, and signatures of files whose loading can run code.

The surprise: who only reads has an empty key when none was ever made, which fits no signature.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flyball.disk import made_once
from flyball.errors import IntegrityError, Untrusted
from flyball.layout import Layout

__all__ = ["ensure_signing_key", "known_signing_key", "require_signature", "sign"]


def sign(data: bytes, key: bytes) -> str:
    """Return the HMAC-SHA256 of a model file under the registry's key, in hex."""
    return hmac.new(key, b"flyball-pickle-1\0" + hashlib.sha256(data).digest(), hashlib.sha256).hexdigest()


def require_signature(what: str, data: bytes, signature: str, key: bytes) -> None:
    """Raise Untrusted unless this registry signed the file."""
    if not key or not hmac.compare_digest(sign(data, key), signature):
        raise Untrusted(f"this {what} was not signed by this project's registry; train the model here, or use skops")


def ensure_signing_key(layout: Layout) -> bytes:
    """Return the registry's key, made once with mode 0600; of several processes the first wins.

    Raises:
        IntegrityError: the file exists but is too short to be a key.
    """
    path = layout.signing_key
    key = made_once(path, secrets.token_bytes(32))
    if len(key) < 32:
        raise IntegrityError(f"{path.name} holds {len(key)} bytes, a key has 32; restore it from a backup")
    return key


def known_signing_key(layout: Layout) -> bytes:
    """Return the registry's key, empty when none was made: for processes that load models and never sign one."""
    try:
        return layout.signing_key.read_bytes()
    except FileNotFoundError:
        return b""
