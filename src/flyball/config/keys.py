"""Which settings there are: every key with its type, default and meaning; unknown ones get the nearest names."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from functools import cache
from typing import Any, get_type_hints

from flyball.errors import ConfigError, nearest
from flyball.settings import Settings

__all__ = ["ADDRESSES", "FILE", "SECRETS", "SIZES", "ZERO", "Setting", "hint", "schema", "split_key", "types_of"]

FILE = "flyball.toml"
SIZES = frozenset({
    "server.max_body", "server.host_memory", "server.model_memory", "online.map_size", "training.memory",
    "cache.memory", "log.budget",
})  # fmt: skip
SECRETS = frozenset({"server.key", "server.encryption_key", "control.key", "webhooks.secret"})
ADDRESSES = frozenset({  # with a password: by reference
    "control.database", "tracking.uri", "online.url", "catalog.url", "webhooks.url",
})  # fmt: skip
ZERO = frozenset({"online.stale_limit"})  # durations that may be none
_DOCS = {
    "project.name": "what the project is called",
    "project.definitions": "the Python file that says what exists",
    "project.state": "the folder flyball writes to",
    "server.host": "address the gateway listens on",
    "server.port": "port the gateway listens on",
    "server.workers": "worker processes on that port",
    "server.deadline": "time for a whole request",
    "server.max_body": "largest request body",
    "server.key": "reference (env:NAME or file:PATH) to the key callers must send; empty for none",
    "server.host_memory": "memory limit of a host process, 0 for none",
    "server.max_rows": "most rows of one request",
    "server.max_depth": "deepest nesting of a request's JSON",
    "server.max_waiting": "most requests under way in one worker; more are answered 503",
    "server.model_memory": "memory that the loaded models of one worker may take, 0 for no limit; the least used leave",
    "server.slow_client": "time a caller may take to send one request",
    "server.idle_client": "how long a connection without a request is kept open",
    "server.rate": "requests a second of a key that has no rate of its own, 0 for no limit",
    "server.origins": "web origins that browsers may call from, separated by spaces; empty for none",
    "server.tls_certificate": "PEM file of the certificate; empty for plain HTTP",
    "server.tls_key": "PEM file of the certificate's key",
    "server.grpc_port": "port of gRPC, 0 for none; needs flyball[grpc]",
    "server.access_log": "whether each request is written to the worker's log, without personal data",
    "server.encryption_key": "reference to the key of fields that the prediction log keeps encrypted",
    "control.host": "address of the control API and pages",
    "control.port": "port of the control API and pages",
    "control.database": "sqlite:///PATH or postgresql://USER@HOST/NAME; empty for SQLite in the state folder",
    "control.key": "reference (env:NAME or file:PATH) to the key of the control API; empty for none",
    "control.interval": "time between two passes",
    "control.lease": "how long a silent control process keeps its lease",
    "online.store": "where newest values are kept: LMDB on this machine, Redis or PostgreSQL",
    "online.map_size": "size of LMDB's memory map to begin with; it grows",
    "online.url": "address of Redis or PostgreSQL without a password, or a reference (env:NAME, file:PATH) to one",
    "online.namespace": "what this project's keys begin with in a shared store; empty for the project's name",
    "online.budget": "longest time of one read of a remote store while serving",
    "online.failures": "failed reads in a row after which a remote store is left alone",
    "online.pause": "how long a failing remote store is left alone before one read tries again",
    "online.on_failure": "when a remote store fails: default (declared defaults, the answer says so) or error (503)",
    "online.stale_limit": "age up to which values read before serve while a remote store is away; 0s for never",
    "offline.engine": "what reads sources and answers history: DuckDB in this process, or Spark",
    "spark.master": "where Spark runs: local[2], yarn, spark://HOST:7077; workers need the project's folder",
    "spark.options": "further options for starting Spark: spark.NAME=VALUE, separated by semicolons",
    "ingest.dedup": "how long event ids are remembered at least; a redelivery later than that counts as a new row",
    "log.mode": "when a prediction's log record is written: async, durable or sync",
    "log.full": "what happens when the disk is full: fail_open (count drops) or fail_closed (503)",
    "log.ship_to": "where segments go as Parquet: a folder, s3://..., gs://...; empty for the state folder",
    "log.ship_every": "time between two shipments",
    "log.keep_segments": "how long a segment is kept after it was shipped",
    "log.budget": "most disk space of segments and local Parquet, 0 for no limit",
    "log.kafka": "BROKERS/TOPIC that gets a copy of each record; empty for none; needs flyball[kafka]",
    "cache.memory": "memory of one worker for answers that may be used again",
    "tracking.uri": "MLflow's address; empty for SQLite in the state folder",
    "tracking.enabled": "whether runs are tracked in MLflow",
    "training.threads": "threads of a stage",
    "training.timeout": "longest time of a stage",
    "training.memory": "memory limit of a stage",
    "catalog.url": "where views are shared: postgresql://HOST/NAME, a folder, s3://..., or a reference to one",
    "webhooks.url": "addresses that get events by POST, separated by spaces, or a reference to them; empty for none",
    "webhooks.secret": "reference (env:NAME or file:PATH) to the key that signs each message; empty for unsigned",
    "webhooks.kinds": "events to tell, such as GuardrailBreached RolledBack Promoted; empty for all",
    "webhooks.timeout": "longest time of one POST",
    "clock.domain": "the machine's time, or a simulated one that POST /v1/clock steps",
    "clock.start": "where a simulated clock begins, ISO 8601 in UTC",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key flyball.toml may hold."""

    key: str
    type: str
    default: str
    doc: str
    choices: tuple[str, ...] = ()


def schema() -> tuple[Setting, ...]:
    """Return every key of flyball.toml with type, default and meaning, in order."""
    found = []
    for section in fields(Settings):
        kind = _section_type(section.name)
        hints = types_of(section.name)
        for item in fields(kind):
            key = f"{section.name}.{item.name}"
            choices = tuple(str(c) for c in getattr(hints[item.name], "__args__", ()))
            found.append(
                Setting(key, _type_name(key, hints[item.name]), _show(item.default), _DOCS.get(key, ""), choices)
            )
    return tuple(found)


def split_key(key: str, where: str | None) -> tuple[str, str]:
    """Return (section, name) of a known key, else raise ConfigError that names the nearest one."""
    section, _, name = key.partition(".")
    known = _keys()
    if key not in known:
        said = f"{where} has an unknown setting {key}" if where else f"there is no setting {key}"
        raise ConfigError(f"{said}; {hint(key, sorted(known), section)}")
    return section, name


def hint(name: str, known: list[str], section: str = "") -> str:
    """Return what to try instead of an unknown name: near names, else those of its section, else all."""
    close = nearest(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    same = [k for k in known if section and k.startswith(f"{section}.")]
    return f"known: {', '.join(same or known) or 'none'}"


@cache
def types_of(section: str) -> dict[str, Any]:
    """Return the type of each setting of a section, as annotated in `settings`."""
    return get_type_hints(_section_type(section))


@cache
def _keys() -> frozenset[str]:
    return frozenset(f"{f.name}.{item.name}" for f in fields(Settings) for item in fields(_section_type(f.name)))


@cache
def _section_type(section: str) -> type[Any]:
    kind: type[Any] = get_type_hints(Settings)[section]
    return kind


def _type_name(key: str, hint: Any) -> str:
    if key in SECRETS:
        return "reference"
    if key in SIZES:
        return "size"
    return {str: "text", int: "number", bool: "true or false", timedelta: "duration"}.get(hint, "choice")


def _show(default: Any) -> str:
    if default is MISSING:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default.total_seconds():g}s" if isinstance(default, timedelta) else str(default)
