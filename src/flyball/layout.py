"""Where a project keeps what: every path below the project's root and its state folder, in one place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CATALOG_LOCK", "Layout"]

CATALOG_LOCK = "flyball.catalog.lock"
"""Beside flyball.toml: what imported feature views are; a part of the code."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one project. `root` is the folder of flyball.toml, `state` what flyball itself writes."""

    root: Path
    state: Path

    @property
    def artifacts(self) -> Path:
        """artifacts/MODEL/VERSION/manifest.json and the model's files."""
        return self.state / "artifacts"

    @property
    def code(self) -> Path:
        """code/DIGEST/: snapshots of the project's Python files."""
        return self.state / "code"

    @property
    def datasets(self) -> Path:
        """datasets/DIGEST.parquet."""
        return self.state / "datasets"

    @property
    def runs(self) -> Path:
        """runs/RUN/STAGE/: what each stage wrote."""
        return self.state / "runs"

    @property
    def online(self) -> Path:
        """The LMDB environment."""
        return self.state / "online"

    @property
    def ingest(self) -> Path:
        """The ingest log."""
        return self.state / "ingest"

    @property
    def log(self) -> Path:
        """log/WORKER/*.seg: the prediction log."""
        return self.state / "log"

    @property
    def shipped(self) -> Path:
        """shipped/KIND/model=M/date=D/*.parquet: the prediction log as Parquet, unless log.ship_to says otherwise."""
        return self.state / "shipped"

    @property
    def evidence(self) -> Path:
        """evidence/ROLLOUT/*.seg: closed bins of each rollout."""
        return self.state / "evidence"

    @property
    def routing(self) -> Path:
        """routing/000000000012.json: every routing table ever in force."""
        return self.state / "routing"

    @property
    def access(self) -> Path:
        """Who may do what: hashes of keys, roles of views and sources; mode 0600."""
        return self.state / "access.json"

    @property
    def map(self) -> Path:
        """The shared map."""
        return self.state / "map"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.state / "mlflow"

    @property
    def signing_key(self) -> Path:
        """The registry's HMAC key, mode 0600."""
        return self.state / "keys" / "registry.key"

    @property
    def personal_key(self) -> Path:
        """The key by which personal fields are hashed in the prediction log, mode 0600."""
        return self.state / "keys" / "personal.key"

    @property
    def rates(self) -> Path:
        """Token buckets of keys over all workers; the number of workers follows the name."""
        return self.state / "rates"

    def table(self, version: int) -> Path:
        """Return the file of a routing table."""
        return self.routing / f"{version:012d}.json"

    def socket(self, name: str) -> Path:
        """Return the path of a unix socket; outside of `state` because such paths are limited to about 100 bytes."""
        digest = hashlib.sha256(str(self.state.resolve()).encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"flyball-{os.getuid()}-{digest}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{name}.sock"
