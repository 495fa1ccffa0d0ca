"""Keep a process that runs unknown code from signalling or tracing the processes that started it.

A host runs under the same user as the supervisor, so the kernel would let one `os.kill(os.getppid(), 9)` in a model end
the whole node. A seccomp filter refuses that. The surprise: it goes by numbers alone. What was there before has a
smaller pid, what this process starts itself has a larger one, so a model may still end its own helpers. Where pids have
wrapped around, older processes with larger ones are refused by name, ancestors first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["confine", "program"]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06  # of the classic BPF machine
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # EPERM
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; of the first argument the lower half
_NEGATIVE, _X32 = 0x80000000, 0x40000000
_SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
            "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261)}  # fmt: skip
_NEVER = {"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
          "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438)}  # fmt: skip
_NAMED = 40  # processes that a filter names at most: its jumps reach 255 instructions
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def confine() -> bool:
    """Refuse this process and its children, for good, to signal or trace what was there before it.

    Call it while there is one thread. Returns False where the kernel or the machine has no such filter.
    """
    found = _MACHINES.get(platform.machine())
    if found is None or sys.byteorder != "little":
        return False
    own = os.getpid()
    code = program(*found, own=own, others=[os.getppid(), *_larger(own)][:_NAMED])
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return bool(prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(filter_), 0, 0) == 0)


def _larger(own: int) -> list[int]:
    """Return processes, and groups of processes, that are there and have larger numbers than this one."""
    found: dict[int, int] = {}  # pid to its parent
    groups: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                after = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                found[int(entry)] = int(after[1])
                groups.add(int(after[2]))
    ancestors, pid = [], found.get(own, 0)
    while pid > 1 and pid not in ancestors:
        ancestors.append(pid)
        pid = found.get(pid, 0)
    mine = os.getpgrp()
    return [n for n in dict.fromkeys([*ancestors, *sorted(groups | found.keys())]) if n > own and n != mine]


def program(column: int, arch: int, *, own: int, others: Sequence[int]) -> bytes:
    """Return the filter as instructions of the kernel.

    Args:
        column: Which number of a system call is this machine's.
        arch: AUDIT_ARCH of the machine; calls of another one are refused.
        own: This process; what it may signal has this pid or a larger one.
        others: Processes, or groups of them, that may not be signalled although their numbers are larger.
    """
    # (opcode, operand, where to when true, where to when false); None is the next instruction
    signals = [numbers[column] for numbers in _SIGNALS.values()]
    never = [numbers[column] for numbers in _NEVER.values()]
    lines: list[tuple[int, int, str | None, str | None]] = [
        (_LOAD, _ARCH, None, None),
        (_EQUAL, arch, None, "refuse"),
        (_LOAD, _NUMBER, None, None),
        (_AT_LEAST, _X32, "refuse", None),
        *[(_EQUAL, number, "refuse", None) for number in never],
        *[(_EQUAL, number, "signal", None) for number in signals],
        (_RETURN, _ALLOW, None, None),
    ]
    places = {"signal": len(lines)}
    lines += [
        (_LOAD, _FIRST, None, None),
        (_EQUAL, 0, "allow", None),  # this process, or its group
        *[(_EQUAL, number & 0xFFFFFFFF, "refuse", None) for other in others for number in (other, -other)],
        (_AT_LEAST, _NEGATIVE, "group", None),
        (_AT_LEAST, own, "allow", "refuse"),
    ]
    places["group"] = len(lines)
    lines += [(_ABOVE, -own & 0xFFFFFFFF, "refuse", "allow")]  # -1 is everybody
    places["allow"] = len(lines)
    lines += [(_RETURN, _ALLOW, None, None)]
    places["refuse"] = len(lines)
    lines += [(_RETURN, _REFUSE, None, None)]
    return b"".join(
        struct.pack("<HBBI", op, *(0 if to is None else places[to] - at - 1 for to in (yes, no)), operand)
        for at, (op, operand, yes, no) in enumerate(lines)
    )
