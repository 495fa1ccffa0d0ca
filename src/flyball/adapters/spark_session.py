"""One Spark per process, and a session of it whose settings nobody else can touch.

The surprise: the session is a `newSession` of whatever Spark runs here, so a notebook's time zone, ANSI mode or shuffle
partitions change nothing in ours, and ours nothing in theirs. Spark itself allows one context per process; master and
options count for whoever starts it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyball import errors
from flyball.errors import ConfigError, FlyballError, MissingExtra, SourceError, Unavailable, first_line

__all__ = ["need_java", "parse_options", "start", "translated"]

_lock = threading.Lock()
_LOCAL = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
}
_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.filterPushdown": "true",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(1 << 17),
    "spark.sql.execution.arrow.useLargeVarTypes": "true",  # a bucket's blocks may be more than 2 GB
    "spark.sql.execution.pythonUDF.arrow.enabled": "false",
}


def parse_options(text: str) -> dict[str, str]:
    """Return the options of "spark.executor.memory=4g; spark.executor.instances=8".

    Raises:
        ConfigError: a part is no spark.NAME=VALUE.
    """
    found = {}
    for part in re.split(r"[;\n]", text):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals or not name.strip().startswith("spark."):
            raise ConfigError(
                f"spark.options has {part.strip()!r}; write spark.NAME=VALUE, separated by semicolons, such as "
                "spark.executor.memory=4g; spark.executor.instances=8"
            )
        found[name.strip()] = value.strip()
    return found


def start(master: str, options: Mapping[str, str]) -> Any:
    """Start Spark in this process, or join the one that runs, and return a session of our own.

    Raises:
        MissingExtra: pyspark is not installed.
        Unavailable: there is no Java, or Spark does not start.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtra.of("the Spark engine", "spark") from error
    with _lock:
        running = SparkSession.getActiveSession()
        if running is None:
            need_java()
            if master.startswith("local"):
                os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.appName("flyball").master(master)
        defaults = _LOCAL if master.startswith("local") else {}
        warehouse = str(Path(tempfile.gettempdir()) / "flyball-spark")
        for name, value in {"spark.sql.warehouse.dir": warehouse, **defaults, **options}.items():
            builder = builder.config(name, value)
        try:
            shared = running or builder.getOrCreate()
            session = shared.newSession()
        except (PySparkException, OSError, RuntimeError) as error:
            raise Unavailable(
                f"Spark does not start at {master} ({first_line(error)}); look at what it printed, at "
                'spark.master and spark.options, or set [offline] engine = "duckdb"'
            ) from error
        if running is None:
            session.sparkContext.setLogLevel("ERROR")
    for name, value in _SESSION.items():
        session.conf.set(name, value)
    if "spark.sql.shuffle.partitions" not in options:
        session.conf.set("spark.sql.shuffle.partitions", str(session.sparkContext.defaultParallelism))
    return session


def need_java() -> None:
    """Raise Unavailable when no Java is in sight."""
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        return
    if home:
        raise Unavailable(f"Spark needs Java 17 or newer, and JAVA_HOME ({home}) holds no bin/java; correct JAVA_HOME")
    if shutil.which("java") is None:
        raise Unavailable(
            "Spark needs Java 17 or newer: JAVA_HOME is not set and there is no java on the PATH; install a Java "
            'runtime (Debian: openjdk-17-jre-headless), or set [offline] engine = "duckdb"'
        )


def translated(error: Exception, source: str) -> FlyballError:
    """Return what failed in a task as the error it was there; else say that the source cannot be read."""
    text = str(error)
    found = re.findall(r"^flyball\.errors\.(\w+): (.*)$", text, re.MULTILINE)
    for name, message in reversed(found):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, FlyballError):
            return kind(message)
    return SourceError(f"source {source!r} cannot be read by Spark: {_cause(text)}")


def _cause(text: str) -> str:
    """Return the line that says most: the innermost cause, else the first."""
    causes = re.findall(r"^(?:Caused by: )?([A-Za-z_][\w.$]*\.\w+: \S.*)$", text, re.MULTILINE)
    return (causes[-1] if causes else first_line(text))[:300]
