"""Read fenced blocks out of pages and run them as a reader would: one shell session, one Python namespace."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^##? .*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the heading it stands under and its line."""

    language: str
    text: str
    heading: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page that are in one of the languages, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        above = _HEADING.findall(text[: match.start()])
        heading = above[-1].lstrip("# ") if above else ""
        found.append(Block(match["language"], match["text"], heading, text[: match.start()].count("\n") + 1))
    return [b for b in found if not languages or b.language in languages]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now.

    They lie below the range from which the kernel gives out ports of connections: such a port may be taken between this
    call and the server's start, minutes later.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(15_000, 30_000), 200):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"found {len(found)} of {count} free ports among 200 from 15000 to 30000")


def run_session(steps: Sequence[Block], folder: Path, *, seconds: float) -> str:
    """Run shell and Python blocks in their order, in one shell, and return what they printed.

    Ports 8080 and 8081 become free ones. What the session leaves in the background is ended by its pid.
    """
    server, control = free_ports(2)
    body = "\n".join(_as_shell(b) for b in steps).replace("8080", str(server)).replace("8081", str(control))
    script = folder / ".session.sh"
    ended = "trap 'status=$?; for pid in $(jobs -p); do kill -TERM $pid; done 2>/dev/null; wait; exit $status' EXIT"
    script.write_text(f"set -e\n{ended}\n{body}\nwait\n", encoding="utf-8")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLYBALL_SERVER__PORT": str(server),
        "FLYBALL_CONTROL__PORT": str(control),
    }
    with (folder / ".session.out").open("w+", encoding="utf-8") as out:
        session = subprocess.Popen(["bash", str(script)], cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            code = session.wait(seconds)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            if session.poll() is None:
                session.send_signal(signal.SIGTERM)  # its trap ends what it started
                session.wait(20)
        out.seek(0)
        said = out.read()
    assert code == 0, f"the session ended with {code}:\n{said}"
    return said


def run_python(steps: Sequence[Block], page: Path) -> dict[str, object]:
    """Run Python blocks in one namespace and return it; a failure points at the line of the page."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in steps:
        code = compile("\n" * block.line + block.text, str(page), "exec")
        exec(code, namespace)  # the page's own examples
    return namespace


def missing_output(page: Path, said: str) -> list[str]:
    """Return what the page's `text` blocks show and the session did not print; a line `...` stands for any lines."""
    printed = "\n".join(line.rstrip() for line in said.splitlines())
    shown = [
        "\n".join(line.rstrip() for line in part.strip("\n").splitlines())
        for block in blocks(page, "text")
        for part in re.split(r"^\.\.\.\n", block.text, flags=re.MULTILINE)
    ]
    return [part for part in shown if f"\n{part}\n" not in f"\n{printed}\n"]


def _as_shell(block: Block) -> str:
    """Return what the reader does with a block: save it ("# name.py"), append it ("..., continued"), or run it."""
    if block.language == "shell":
        return block.text
    saved = re.match(r"# (?P<file>[\w.]+\.(?:py|toml))(?P<more>, continued)?\n", block.text)
    if saved:
        redirect = ">>" if saved["more"] else ">"
        return f"cat {redirect} {shlex.quote(saved['file'])} <<'END_OF_FILE'\n{block.text}\nEND_OF_FILE"
    return f"{shlex.quote(sys.executable)} - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON"
