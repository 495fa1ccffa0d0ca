"""What the prediction log keeps of fields that are personal: nothing, a keyed hash, or an encrypted text.

A hash is BLAKE2b with a key of this project (32 random bytes, made once), so equal values stay equal, joins and unit
episodes work, and nobody without the key can try values out. Encryption is AES-SIV (RFC 5297; Rogaway and Shrimpton
2006), which is deterministic for the same reason. The surprise: a personal field goes out of the logged features too.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.disk import made_once
from flyball.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    from flyball.features.spec import FeatureService
    from flyball.rollout.routing import Protection

__all__ = ["MASK", "PersonalKeys", "Protector", "reveal"]

MASK = "***"
_HASHED, _ENCRYPTED = "h:", "e:"
log = logging.getLogger("flyball.serving")


@dataclass(frozen=True, slots=True)
class PersonalKeys:
    """The keys: of hashes, and of encryption (None where the project has none)."""

    hashing: bytes
    encryption: bytes | None = None

    @classmethod
    def load(cls, path: Path, encryption: str | None = None) -> PersonalKeys:
        """Read the hashing key, or make it (mode 0600); several processes may do so at once.

        Args:
            path: Its file.
            encryption: The text of `server.encryption_key`, from which the key of encryption is derived.
        """
        cipher = None if not encryption else hashlib.blake2b(encryption.encode(), person=b"flyball-personal").digest()
        return cls(made_once(path, secrets.token_bytes(32)), cipher)

    def hashed(self, value: Any) -> str:
        """Return what stands for a value; equal values give equal texts, 1 and 1.0 too."""
        digest = hashlib.blake2b(_plain(value).encode(), digest_size=16, key=self.hashing).hexdigest()
        return _HASHED + digest

    def encrypted(self, name: str, value: Any) -> str:
        """Return a value so that `decrypted` gives it back; equal values of one field give equal texts.

        Raises:
            InputError: the project has no key of encryption.
            MissingExtra: the library is not installed.
        """
        sealed = self._cipher().encrypt(_plain(value).encode(), [name.encode()])
        return _ENCRYPTED + base64.urlsafe_b64encode(sealed).decode()

    def decrypted(self, name: str, text: str) -> Any:
        """Return the value that `encrypted` took.

        Raises:
            InputError: there is no key, or the text was encrypted with another one or for another field.
            MissingExtra: the library is not installed.
        """
        try:
            plain = self._cipher().decrypt(base64.urlsafe_b64decode(text[len(_ENCRYPTED) :]), [name.encode()])
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{name} cannot be decrypted: server.encryption_key is another one than when it was written"
            ) from error
        return msgspec.json.decode(plain)

    def forms(self, name: str, value: Any) -> tuple[str, ...]:
        """Return the texts that may stand for a value in the log."""
        found = [self.hashed(value)]
        if self.encryption is not None:
            with suppress(MissingExtra):
                found.append(self.encrypted(name, value))
        return tuple(found)

    def _cipher(self) -> AESSIV:
        if self.encryption is None:
            raise InputError("there is no key of encryption; set server.encryption_key (env:NAME or file:PATH)")
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV
        except ImportError as error:
            raise MissingExtra.of("encrypting fields of the prediction log", "crypto") from error
        return AESSIV(self.encryption)


class Protector:
    """Keep what one model declared personal out of its records.

    Args:
        personal: What `fb.Serving(personal=...)` says, by field, "unit" or attribute.
        keys: The project's keys. A field that shall be encrypted is masked where that is not possible.
    """

    __slots__ = ("_keys", "_kinds", "_positions", "_unit", "names")

    def __init__(self, personal: Mapping[str, Protection], keys: PersonalKeys) -> None:
        self._keys = keys
        self._kinds: dict[str, str] = {n: _possible(n, kind, keys) for n, kind in personal.items() if n != "unit"}
        self._unit = None if "unit" not in personal else _possible("unit", personal["unit"], keys)
        self._positions: dict[int, tuple[FeatureService, tuple[int, ...]]] = {}
        self.names = ",".join(sorted(personal))

    def inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of one row as they may be kept; absent and null values stay so."""
        kinds = self._kinds
        return {n: v if v is None or n not in kinds else self._kept(n, kinds[n], v) for n, v in inputs.items()}

    def unit(self, unit: str) -> str:
        """Return a unit that a caller named as it may be kept: one text for one unit."""
        if self._unit is None:
            return unit
        return self._keys.hashed(unit) if self._unit == "mask" else self._kept("unit", self._unit, unit)

    def features(self, service: FeatureService, row: list[float]) -> list[float]:
        """Return a served vector without the values of personal fields, which become NaN."""
        known = self._positions.get(id(service))
        if known is None or known[0] is not service:
            known = self._positions[id(service)] = (service, tuple(self._columns(service)))
        for at in known[1]:
            row[at] = float("nan")
        return row

    def _columns(self, service: FeatureService) -> list[int]:
        found: list[int] = []
        at = 0
        for column in service.columns:
            if column.kind == "field" and column.name in self._kinds:
                found += range(at, at + column.width)
            at += column.width
        return found

    def _kept(self, name: str, kind: str, value: Any) -> str:
        if kind == "hash":
            return self._keys.hashed(value)
        return self._keys.encrypted(name, value) if kind == "encrypt" else MASK


def reveal(inputs: Mapping[str, Any], keys: PersonalKeys) -> dict[str, Any]:
    """Return inputs (or {"unit": unit}) with what is encrypted in plain.

    Raises:
        InputError: the key is missing or another one.
        MissingExtra: the library is not installed.
    """
    return {n: keys.decrypted(n, v) if isinstance(v, str) and v.startswith(_ENCRYPTED) else v
            for n, v in inputs.items()}  # fmt: skip


def _possible(name: str, kind: str, keys: PersonalKeys) -> str:
    if kind == "encrypt":
        try:
            keys.encrypted(name, "")
        except (InputError, MissingExtra) as error:
            log.error("personal field masked, not encrypted: %s", error, extra={"field": name})
            return "mask"
    return kind


def _plain(value: Any) -> str:
    """Return one text for equal values: whole floats as whole numbers, lists of one as their value."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value).decode()
