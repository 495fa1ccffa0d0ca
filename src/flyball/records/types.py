"""The rows that flow: predictions, shadow answers, outcomes, exposures, pushed events.

All times are int microseconds since 1970 UTC. They travel as msgpack arrays with a tag, so a log frame is a
list of any of them; `encode` and `decode` are the only way in and out.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "DeadLetter",
    "Erased",
    "Event",
    "Exposure",
    "Outcome",
    "Prediction",
    "Published",
    "Record",
    "Shadow",
    "decode",
    "encode",
]


class Prediction(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """One answered row.

    `arm` is the arm the router assigned ("champion", "candidate" or a variant's name); when the assigned arm failed
    and the champion answered, `fallback` is True and `error` holds the cause; `version` is who answered. `error`
    without `fallback` means that the caller got an error. `features` are the served values in the order of the
    assigned version's columns (null as NaN), `statuses` one byte each (features.spec.Status).
    """

    id: str
    model: str
    version: str
    arm: str
    table: int
    unit: str
    at: int
    inputs: dict[str, Any]
    features: list[float]
    statuses: bytes
    value: float | list[float] | None
    error: str | None = None
    fallback: bool = False
    stages: tuple[int, int, int, int] = (0, 0, 0, 0)  # microseconds: parse, features, wait in the batcher, model
    total: int = 0  # microseconds from admission to answer
    control: bool = False  # unit lies in the control cohort
    why: str = ""  # how the arm was chosen: "share", "control", "champion", "header", "veto", "kill switch"
    read: str = ""  # "stale" or "defaulted" when the online store was away: no evidence about skew
    cached: bool = False  # the value is one that this worker gave to equal features before
    protected: str = ""  # names of inputs (or "unit") that are masked, hashed or encrypted here, comma-separated


class Shadow(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A discarded answer to the same row by the other arm (`id` is the prediction's).

    In a shadow phase `version` is the candidate; in a canary, when the candidate answered, it is the champion ("pair").
    """

    id: str
    model: str
    version: str
    table: int
    unit: str
    at: int
    value: float | list[float] | None
    error: str | None = None
    total: int = 0
    agreed: bool | None = None  # whether both arms said the same; None when one of them did not answer
    shift: float | None = None  # score of the candidate less that of the champion


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """The later truth about a prediction; a higher `revision` replaces a lower one."""

    id: str
    value: float
    event: int
    received: int
    source: str = "api"
    revision: int = 0


class Exposure(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A unit was served an arm of an experiment where no prediction tells of it: a flag's value, or elsewhere.

    `arm` is what was served: the JSON text of a flag's value, or the arm's own name. Of a unit the first one counts, so
    that saying it again changes nothing.
    """

    id: str
    experiment: str
    unit: str
    arm: str
    at: int
    table: int = 0
    source: str = "flag"  # "flag": decided here; "api": somebody else's assignment
    protected: str = ""  # "unit" when it is hashed or encrypted here


class Event(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """A batch of rows pushed to a source: raw columns as sent, one arrival, consecutive sequence numbers."""

    source: str
    sequence: int  # of the first row; row k has sequence + k
    arrival: int
    rows: list[dict[str, Any]]
    origin: tuple[tuple[str, str, str], ...] = ()  # (stream, partition, position): where a consumer stands after these


class Published(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """A correction: rows [first, last] of a source could be read from `at` on, not from their arrival on."""

    source: str
    first: int
    last: int
    at: int


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """A message of a stream that is no row of its source; kept with the reason."""

    source: str
    stream: str
    partition: str
    position: str
    at: int
    payload: bytes
    error: str


class Erased(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """Where records of an erased subject were: as many bytes as they took, so that offsets in the segment stay."""

    filler: bytes = b""
    bump: int = 0


Record = Prediction | Shadow | Outcome | Event | Erased | Published | DeadLetter | Exposure

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])


def encode(records: list[Record]) -> bytes:
    """Return the payload of one log frame."""
    return _encoder.encode(records)


def decode(payload: bytes | memoryview) -> list[Record]:
    """Return the records of one log frame.

    Raises:
        msgspec.DecodeError: the payload is not a list of records.
    """
    return _decoder.decode(payload)
