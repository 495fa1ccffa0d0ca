"""Write an LMDB folder anew, so that nothing deleted is left in its file.

The surprise: LMDB keeps the bytes of what was deleted, in free pages and in the gaps of pages in use, and its own
compacting copy keeps the gaps. So every key is written into a new file, which takes the place of the old one. That is
safe only while nobody has the old file open: openers hold a shared lock on the folder while they open, whoever replaces
the file an exclusive one, and an environment that is open anywhere holds LMDB's lock on `lock.mdb`. A marker in the
folder asks for it; the first opener who finds itself alone does it, so it is done at the latest at the next start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import lmdb

from flyball.disk import sync

__all__ = ["is_due", "opening", "request"]

_MARKER = "compact"
_AT_ONCE = 10_000  # keys of one transaction
_MAP = 1 << 20


def request(folder: Path) -> None:
    """Ask for it, durably."""
    (folder / _MARKER).touch()
    sync(folder)


def is_due(folder: Path) -> bool:
    """Whether it was asked for and not done yet."""
    return (folder / _MARKER).exists()


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Hold the folder while an environment is opened, compacted first where that is due and nobody has it open.

    This process must not have it open. A full disk leaves it as it was, still due.
    """
    if not folder.is_dir():
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        if is_due(folder):
            fcntl.flock(held, fcntl.LOCK_EX)
            _compact(folder)
        fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)


def _compact(folder: Path) -> None:
    with _alone(folder) as alone:
        if not alone or not is_due(folder):  # another was first
            return
        making = folder / "compacting"
        shutil.rmtree(making, ignore_errors=True)
        try:
            if (folder / "data.mdb").exists():
                _rewrite(folder, making)
            (folder / _MARKER).unlink()
            sync(folder)
        except (OSError, lmdb.Error):
            pass  # still due; the store is whole, and whoever opens it must not fail for this
        shutil.rmtree(making, ignore_errors=True)


def _rewrite(folder: Path, making: Path) -> None:
    with (
        lmdb.open(str(folder), map_size=0, readonly=True, lock=False, create=False) as old,
        old.begin() as txn,
        txn.cursor() as cursor,
    ):
        info = old.info()
        size = max(info["map_size"], 2 * (info["last_pgno"] + 1) * old.stat()["psize"], _MAP)
        with lmdb.open(str(making), map_size=size, sync=False) as new:
            items = iter(cursor)
            while some := list(islice(items, _AT_ONCE)):
                with new.begin(write=True) as into, into.cursor() as to:
                    to.putmulti(some, append=True)
            if new.stat()["entries"] != old.stat()["entries"]:
                raise OSError("the copy is not whole")
            new.sync(True)
    made, place = making / "data.mdb", folder / "data.mdb"
    made.chmod(place.stat().st_mode & 0o777)
    sync(made)
    made.replace(place)
    sync(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no process has the environment open; nobody can open it meanwhile."""
    try:
        lock = os.open(folder / "lock.mdb", os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    except OSError:  # a folder that this user may only read
        yield False
        return
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)  # the byte that LMDB holds shared while it is open
    except OSError:
        alone = False
    else:
        alone = True
    try:
        yield alone
    finally:
        os.close(lock)
