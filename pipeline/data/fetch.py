"""Requests to a file system of fsspec that end: each has a time limit and is tried again when that may help."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from pipeline.config.schema import CacheConfig
from pipeline.config.urls import join, without_secrets
from pipeline.data.manifest import DATASET_NAME
from pipeline.errors import ConfigError, GstError, ShardError

_LONGEST_WAIT_S = 30.0
_WORTH_ANOTHER_TRY = (408, 425, 429)  # of the HTTP answers 4xx; the others mean that we ask wrongly
_BUGS = (TypeError, AttributeError, NameError, AssertionError)
_CREDENTIALS = "give credentials in the way of this protocol's fsspec package, for example by environment variables"

_log = logging.getLogger(__name__)
_jitter = random.Random()  # of waits only; takes nothing from any other generator
_Result = TypeVar("_Result")


class Fetcher:
    """Reads files below a URL; safe in many threads.

    Every method raises ShardError when the store does not answer or refuses access, and FileNotFoundError (never tried
    again) for what is not there.

    Args:
        url: of a folder.
        options: time limits and number of tries.

    Raises:
        ConfigError: the protocol is unknown or needs a package that is not installed, or the URL has a query.
    """

    def __init__(self, url: str, options: CacheConfig) -> None:
        self.shown = without_secrets(url)
        self._options = options
        if "?" in url:
            raise ConfigError("a folder's URL has no query", where={"key": "data.shards"}, got=self.shown)
        self._fs, root = self._try(self.shown, lambda: self._open(url))
        self._root = root.rstrip("/")
        self._fs.invalidate_cache()  # of listings: the store may have changed since this process last looked

    def document(self, name: str) -> bytes:
        """All bytes of a file that holds one JSON object."""
        return self._try(self.place(name), lambda: self._ask_document(name))

    def range(self, name: str, offset: int, size: int, *, or_more: bool = False) -> bytes:
        """`size` bytes of a file from byte `offset`.

        Args:
            or_more: allow all bytes from `offset` to the end: that is what comes of servers that send whole files only.
        """
        return self._try(self.place(name), lambda: self._ask_range(name, offset, size, or_more))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where the store does not tell."""
        n_bytes = self._try(self.place(name), lambda: self._call(self._fs.info, name)).get("size")
        return None if n_bytes is None else int(n_bytes)

    def folders(self) -> list[str]:
        """Folders here that may be datasets."""
        found = self._try(self.shown, lambda: self._call(self._fs.ls, "", detail=True))
        names = {each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory"}
        return sorted(filter(DATASET_NAME.fullmatch, names))

    def place(self, name: str) -> str:
        """The URL of a file, for messages."""
        return join(self.shown, name)

    def _ask_document(self, name: str) -> bytes:
        """One request for `document`; ConnectionError, worth another try, when the answer was cut."""
        content: bytes = self._call(self._fs.cat_file, name)
        if not content.rstrip().endswith(b"}"):  # not every server says how long an answer is
            raise ConnectionError(f"{len(content)} bytes came, and these are no whole JSON object")
        return content

    def _ask_range(self, name: str, offset: int, size: int, or_more: bool) -> bytes:
        """One request for `range`.

        Raises:
            ConnectionError: worth another try: the answer was cut.
            ShardError: a server that sends whole files, and not `or_more`.
        """
        content: bytes = self._call(self._fs.cat_file, name, start=offset, end=offset + size)
        if len(content) > size:
            if not or_more:
                raise ShardError(
                    "this server sends whole files where a part was asked",
                    where={"url": self.place(name)},
                    got=f"{len(content)} bytes",
                    expected=f"{size} bytes",
                    hint="copy whole shards: data.cache.mode=shards",
                )
            content = content[offset:]
        if len(content) < size:
            raise ConnectionError(f"{len(content)} bytes came instead of {size}")
        return content

    def _call(self, function: Callable[..., Any], name: str, **options: Any) -> Any:
        """`function` of the file system, with the file's own name there."""
        if getattr(self._fs, "async_impl", False):  # ends the request itself too, which a thread left alone does not
            options["timeout"] = self._options.timeout_s
        return function(f"{self._root}/{name}", **options)

    def _open(self, url: str) -> tuple[Any, str]:
        try:
            return url_to_fs(url)
        except ImportError as error:
            raise _missing_package(url, error) from None
        except FileNotFoundError:
            raise ShardError("no such shard folder", where={"url": self.shown}) from None
        except ValueError as error:
            raise ConfigError(
                "these shards cannot be opened",
                where={"key": "data.shards", "url": self.shown},
                got=without_secrets(str(error)),
                hint="a local folder, or a URL of a protocol that fsspec knows",
            ) from None

    def _try(self, place: str, call: Callable[[], _Result]) -> _Result:
        """`call`, again and again; what it raises last is told with all that was tried."""
        options, started = self._options, time.monotonic()
        failures: list[str] = []
        while True:
            left_s = options.give_up_s - (time.monotonic() - started)
            try:
                return _within(min(options.timeout_s, left_s), call)
            except (GstError, *_BUGS):
                raise
            except Exception as error:
                _raise_if_final(error, place)
                failures.append(_describe(error, options.timeout_s))
            wait_s = min(options.wait_s * 2 ** (len(failures) - 1), _LONGEST_WAIT_S) * _jitter.uniform(0.5, 1.5)
            passed_s = time.monotonic() - started
            if len(failures) >= options.tries or passed_s + wait_s >= options.give_up_s:
                raise ShardError(
                    "a store of shards does not give what was asked",
                    where={"url": place, "tried": f"{len(failures)} times in {passed_s:.1f} s"},
                    got="; ".join(dict.fromkeys(failures)),
                    hint=f"check the network and the store, then start again (a run resumes); {_CREDENTIALS}",
                )
            _log.info("%s: %s; another try in %.1f s", place, failures[-1], wait_s)
            time.sleep(wait_s)


def _within(limit_s: float, call: Callable[[], _Result]) -> _Result:
    """What `call` returns or raises, TimeoutError after `limit_s`.

    The thread of a call that hangs is left alone: a pool would wait for it when the process ends.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="gst-fetch", daemon=True).start()
    return done.result(timeout=max(limit_s, 0.0))


def _raise_if_final(error: Exception, place: str) -> None:
    """Raise FileNotFoundError or ShardError where another try is of no use."""
    cause = _real_cause(error)
    status = _status(cause)
    if isinstance(cause, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(place) from None
    is_our_fault = status is not None and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY
    if isinstance(cause, PermissionError) or is_our_fault:
        raise ShardError(
            "a store of shards refuses a request",
            where={"url": place},
            got=_describe(cause),
            hint="check that the shards did not change" if status == 416 else _CREDENTIALS,
        ) from None


def _real_cause(error: Exception) -> Exception:
    """fsspec's HTTP says FileNotFoundError of whatever goes wrong when it asks for a file's size; the cause tells."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        is_http = type(cause).__module__.startswith("aiohttp")
        return cause if is_http or isinstance(cause, TimeoutError | ConnectionError) else error
    return error


def _status(error: Exception) -> int | None:
    """The HTTP status in an error of aiohttp, gcsfs and others."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _describe(error: Exception, timeout_s: float | None = None) -> str:
    if isinstance(error, TimeoutError) and timeout_s is not None:
        return f"no answer within {timeout_s:g} s"
    error = _real_cause(error)
    return without_secrets(f"{type(error).__name__}: {error}")[:300]


def _missing_package(url: str, error: ImportError) -> ConfigError:
    protocol = url.rpartition("::")[2].partition("://")[0]
    module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    package = f"'fsspec[{protocol}]'" if module in ("", "fsspec") else module
    return ConfigError(
        f"reading {protocol}:// needs another package",
        where={"key": "data.shards", "url": without_secrets(url)},
        got=str(error),
        hint=f"pip install {package}",
    )
