"""Token files: who may read and who may write. Tokens are never on a command line and never in a log.

A file holds lines `read <token>` and `write <token>`; empty lines and lines that start with `#` are passed over. A job
may use the same file, or one that holds its token alone. Files that others than their owner can read are refused.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import AccessError

Right = Literal["read", "write"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # what a Bearer header may hold (RFC 6750), long enough not to guess
_FORM = "lines `read <token>` and `write <token>`; a token has 16 to 512 letters, digits or ._~+/=-"
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Tokens:
    """The tokens of a service. A token for writing may also read."""

    read: tuple[str, ...] = field(default=(), repr=False)
    write: tuple[str, ...] = field(default=(), repr=False)

    def right_of(self, token: str) -> Right | None:
        """What `token` allows; takes as long for a wrong token as for a right one of the same length."""
        given = token.encode("utf-8", "replace")
        reads = [hmac.compare_digest(given, known.encode()) for known in self.read]
        writes = [hmac.compare_digest(given, known.encode()) for known in self.write]
        if any(writes):
            return "write"
        return "read" if any(reads) else None


def load_tokens(path: Path) -> Tokens:
    """The tokens in a service's token file.

    Raises:
        AccessError: no such file, others can read it, or a line is not a token.
    """
    rights: dict[str, list[str]] = {"read": [], "write": []}
    for number, line in _lines(path):
        right, _, token = line.partition(" ")
        if right not in rights or not _TOKEN.fullmatch(token.strip()):
            raise AccessError("a line of the token file is not a token", where=_at(path, number), expected=_FORM)
        rights[right].append(token.strip())
    if not (rights["read"] or rights["write"]):
        raise AccessError("the token file holds no token", where={"file": path}, expected=_FORM)
    return Tokens(read=tuple(rights["read"]), write=tuple(rights["write"]))


def client_token(path: Path) -> str:
    """The token a job sends: the first one for writing, else for reading, else the file's only word.

    Raises:
        AccessError: as `load_tokens`.
    """
    lines = _lines(path)
    if len(lines) == 1 and _TOKEN.fullmatch(lines[0][1]):
        return lines[0][1]
    tokens = load_tokens(path)
    return (tokens.write or tokens.read)[0]


def write_new_tokens(path: Path) -> None:
    """Make a token file with one new token for reading and one for writing, readable by its owner alone.

    Raises:
        AccessError: a file is there already (its tokens may be in use), or it cannot be written.
    """
    content = f"read {secrets.token_urlsafe(32)}\nwrite {secrets.token_urlsafe(32)}\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise AccessError(
            "there is a file already; its tokens may be in use", where={"file": path}, hint="choose another name"
        ) from None
    except OSError as error:
        raise AccessError(f"cannot write the token file: {error.strerror}", where={"file": path}) from error
    with open(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[tuple[int, str]]:
    """The file's lines that say something, with their numbers, from 1."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
                raise AccessError("the token file is not a plain small file", where={"file": path})
            if status.st_mode & 0o077:
                raise AccessError(
                    "others can read or change the token file",
                    where={"file": path},
                    got=f"mode {stat.S_IMODE(status.st_mode):o}",
                    expected="mode 600",
                    hint=f"chmod 600 {path}; if others had access to it, make new tokens with `gst serve --new-tokens`",
                )
            text = file.read().decode("ascii")
    except OSError as error:
        raise AccessError(f"cannot read the token file: {error.strerror}", where={"file": path}) from error
    except UnicodeDecodeError as error:
        raise AccessError("the token file holds characters that no token has", where={"file": path}) from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _at(path: Path, number: int) -> dict[str, object]:
    return {"file": path, "line": number}
