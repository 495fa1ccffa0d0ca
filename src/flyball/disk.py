"""Write files so that a reader finds the old bytes or the new ones, never a part; after a power cut too if asked.

The surprise: a file that was synced can be gone after a power cut, because its name was not. So a durable write brings
the file to the disk, renames it, then brings its folder to the disk.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["made_once", "replacing", "sync", "write_atomically"]


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put bytes in the place of a file; its folder is made.

    Args:
        path: The file, there or not.
        data: Its whole content.
        durable: Return when it is on the disk.

    Raises:
        OSError: the disk did not take it; the file is as it was.
    """
    with replacing(path, durable=durable) as draft:
        draft.write_bytes(data)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a hidden path beside a file to write to, which then takes the file's place at once, mode kept.

    When the block fails, the file stays as it was and the draft is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as draft:
        ...         _ = draft.write_text("new")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield draft
        with suppress(FileNotFoundError):
            draft.chmod(path.stat().st_mode & 0o777)
        if durable:
            sync(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def made_once(path: Path, data: bytes) -> bytes:
    """Return the bytes of a file that only its owner may read; it is made with `data` when it is not there.

    Several processes may do so at once: one is first, and no reader sees half of it.
    """
    with suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_bytes()


def sync(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
