"""Run the `$ curl ...` lines of a page against a real node, and compare what they print with what the page shows.

Real curl runs where it is installed; elsewhere a small reader of its options asks by http.client, so that the examples
are tried everywhere. The surprise: answers are compared as text. What differs from call to call (ids, times) is masked
on both sides, numbers are rounded, and `...` on a page stands for anything.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from docs_kit import Block, blocks

_VOLATILE = re.compile(
    r'("(?:id|prediction_id|prediction_ids|latency_ms|rows_per_second|uptime|requests|table_version)":)'
    r'(?:"[^"]*"|\[[^\]]*\]|[-+.\deE]+)'
)
_NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")
_VERSION = re.compile(r"(curl|flyball)/[\d.]+")


@dataclass(frozen=True)
class Command:
    """One command of a page: its text, what the page shows under it, and the line it begins at."""

    text: str
    shown: str
    line: int


def commands(page: Path) -> list[Command]:
    """Return the commands of the console blocks in which curl is called."""
    return [c for block in blocks(page, "console") if "$ curl" in block.text for c in _of(block)]


def _of(block: Block) -> list[Command]:
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), block.line + 1))
    for number, line in lines:
        if not line.startswith("$ "):
            assert found, f"line {number}: an answer without a command"
            found[-1] = Command(found[-1].text, found[-1].shown + line + "\n", found[-1].line)
            continue
        text = line[2:]
        while not _whole(text):
            text += "\n" + next(lines)[1]
        found.append(Command(text, "", number))
    return found


def _whole(text: str) -> bool:
    """Return whether the shell would run this instead of asking for another line."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return not text.endswith("\\")


def run(command: Command, *, ports: dict[str, str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command with other ports, and return what it printed."""
    text = command.text
    for shown, real in ports.items():
        text = text.replace(shown, real)
    if text.startswith("curl ") and not shutil.which("curl", path=environment.get("PATH")):
        return ask(shlex.split(text.replace("\\\n", " "))[1:], folder)
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"line {command.line}: {command.text}\nended with {done.returncode}: {done.stderr}"
    return done.stdout


def ask(arguments: list[str], folder: Path) -> str:
    """Do what curl does with the options that our pages use; any other one is refused."""
    method, url, headers, body, show_head = "", "", {"accept": "*/*"}, None, False
    words = iter(arguments)
    for word in words:
        match word:
            case "-s":
                pass
            case "-i":
                show_head = True
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(":")
                headers[name.strip().lower()] = value.strip()
            case "-d" | "--data-binary" | "--json":
                given = next(words)
                body = (folder / given[1:]).read_bytes() if given.startswith("@") else given.encode()
                kind = "application/json" if word == "--json" else "application/x-www-form-urlencoded"
                headers.setdefault("content-type", kind)
            case _ if word.startswith("-"):
                raise AssertionError(f"teach this kit curl's option {word}, or leave it out of the page")
            case _:
                url = word if "//" in word else f"http://{word}"
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method or ("GET" if body is None else "POST"), path or "/", body, headers)
    answer = connection.getresponse()
    head = f"HTTP/1.1 {answer.status} {answer.reason}\n" + "".join(f"{k}: {v}\n" for k, v in answer.getheaders()) + "\n"
    text = answer.read().decode()
    connection.close()
    return head + text if show_head else text


def masked(text: str) -> str:
    """Return a text without what differs from call to call, numbers rounded to four digits."""
    text = _VOLATILE.sub(r"\1*", text.replace("\r", ""))
    return _NUMBER.sub(lambda found: f"{float(found[0]):.4g}", text)


def differs(shown: str, printed: str) -> str:
    """Return "" when a page shows what was printed, else the first part that was not; a page may leave parts out."""
    rest = masked(printed)
    for part in masked(shown).split("..."):
        wanted = part.strip("\n").strip()
        at = rest.find(wanted)
        if at < 0:
            return f"{wanted!r} is not in {rest!r}"
        rest = rest[at + len(wanted) :]
    return ""
