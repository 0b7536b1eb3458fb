"""Where prepared data lies: a local folder, or a URL that fsspec can open."""

from __future__ import annotations

import re
from pathlib import Path

_HTTP_USER = re.compile(r"(https?://)[^/\s]*@")
_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/\s]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")


def is_url(place: str) -> bool:
    """Whether this is for fsspec: `s3://bucket/shards`, `memory://x`, or a chain like `simplecache::s3://bucket/x`."""
    return "://" in place or "::" in place


def without_secrets(text: str) -> str:
    """`text` with the passwords, HTTP users (often tokens) and query strings (often signatures) of its URLs left out.

    A name before `@` stays for other protocols: in `abfs://container@account/path` it is part of the place.
    """
    return _QUERY.sub(r"\1...", _PASSWORD.sub(r"\1@", _HTTP_USER.sub(r"\1", text)))


def join(place: str, name: str) -> str:
    """What lies in `place` under `name`."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)
