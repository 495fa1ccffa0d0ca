"""The settings of flyball.toml as frozen values; `config` reads them and knows where each came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

__all__ = [
    "CacheSettings", "CatalogSettings", "ClockSettings", "ControlSettings", "IngestSettings", "LogSettings",
    "OfflineSettings", "OnlineSettings", "ProjectSettings", "ServerSettings", "Settings", "SparkSettings",
    "TrackingSettings", "TrainingSettings", "WebhookSettings",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """What the project is called, where its definitions and its state are (relative to flyball.toml)."""

    name: str = "project"
    definitions: str = "definitions.py"
    state: str = ".flyball"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The gateway. `key` is a reference (env:NAME or file:PATH) to the key callers must send, empty for none.

    `slow_client` is the time a caller may take to send a request; `rate` are requests a second that a key without a
    rate of its own may make, 0 for no limit. `origins` lists what browsers may call from, separated by spaces.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    deadline: timedelta = timedelta(seconds=1)
    max_body: int = 8_000_000
    key: str = ""
    host_memory: int = 4_000_000_000  # bytes of private memory of a host process, 0 for no limit
    max_rows: int = 10_000  # of one request
    max_depth: int = 32  # of nested JSON
    max_waiting: int = 4_096  # requests under way in one worker
    model_memory: int = 0  # bytes that loaded models of one worker may take, 0 for no limit
    slow_client: timedelta = timedelta(seconds=10)
    idle_client: timedelta = timedelta(seconds=75)
    rate: float = 0.0
    origins: str = ""
    tls_certificate: str = ""  # PEM files; empty for plain HTTP
    tls_key: str = ""
    grpc_port: int = 0  # 0: no gRPC
    access_log: bool = False
    encryption_key: str = ""  # reference to the key of fields that the prediction log keeps encrypted


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control process. `database` empty means SQLite in the state folder."""

    host: str = "127.0.0.1"
    port: int = 8081
    database: str = ""
    interval: timedelta = timedelta(seconds=1)
    lease: timedelta = timedelta(seconds=15)
    key: str = ""  # reference to the key that callers of the admin API must send, empty for none


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """The online store. `url` is a reference (env:NAME or file:PATH) or an address without a password.

    What follows `namespace` is how the gateway reads a remote store: time of one read, failures in a row that make it
    stop asking for `pause`, what it answers then, and how old values read before may be used meanwhile.
    """

    store: Literal["lmdb", "redis", "postgres"] = "lmdb"
    map_size: int = 64_000_000  # bytes to begin with; grows
    url: str = ""
    namespace: str = ""  # empty: the project's name
    budget: timedelta = timedelta(milliseconds=25)
    failures: int = 5
    pause: timedelta = timedelta(seconds=1)
    on_failure: Literal["default", "error"] = "error"
    stale_limit: timedelta = timedelta(0)  # 0: values read before are never used


@dataclass(frozen=True, slots=True)
class OfflineSettings:
    """The engine that reads sources and answers history."""

    engine: Literal["duckdb", "spark"] = "duckdb"


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """Where Spark runs, with which further options ("spark.NAME=VALUE; ...")."""

    master: str = "local[*]"
    options: str = ""


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Pushes and streams. Event ids are remembered for `dedup` at least."""

    dedup: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The prediction log, where its segments go as Parquet, and how much of the disk it may take.

    `ship_to` is an address by fsspec, empty for the state folder; segments are kept for `keep_segments` once they are
    shipped and no rollout reads them. `kafka` is "BROKERS/TOPIC" of a further copy.
    """

    mode: Literal["async", "durable", "sync"] = "durable"
    full: Literal["fail_open", "fail_closed"] = "fail_open"
    ship_to: str = ""
    ship_every: timedelta = timedelta(minutes=5)
    keep_segments: timedelta = timedelta(days=7)
    budget: int = 0  # bytes of segments and Parquet on this machine's disk, 0 for no limit
    kafka: str = ""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Answers kept by each worker, for models that ask for it."""

    memory: int = 64_000_000  # bytes of one worker


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """MLflow. `uri` empty means SQLite and files in the state folder; `enabled` false tracks nothing."""

    uri: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Limits of a stage child."""

    threads: int = 1
    timeout: timedelta = timedelta(minutes=30)
    memory: int = 8_000_000_000


@dataclass(frozen=True, slots=True)
class CatalogSettings:
    """Feature views shared with other projects. `url` empty means none."""

    url: str = ""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Addresses that are told of events of rollouts and experiments by POST.

    `url` holds addresses separated by spaces, or is a reference (env:NAME or file:PATH) to them; `secret` is a
    reference to the key that signs each message; `kinds` are the events to tell, separated by spaces, empty for all.
    """

    url: str = ""
    secret: str = ""
    kinds: str = ""
    timeout: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class ClockSettings:
    """Domain time: the machine's, or stepped by POST /v1/clock from `start` (ISO 8601, UTC)."""

    domain: Literal["system", "simulated"] = "system"
    start: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything flyball.toml can say."""

    project: ProjectSettings = field(default_factory=ProjectSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    offline: OfflineSettings = field(default_factory=OfflineSettings)
    spark: SparkSettings = field(default_factory=SparkSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    log: LogSettings = field(default_factory=LogSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    clock: ClockSettings = field(default_factory=ClockSettings)
