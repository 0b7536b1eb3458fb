"""Which store is behind `data.shards`."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import CacheConfig
from pipeline.config.urls import is_url
from pipeline.data.storage import LocalStore, ShardStore


def open_store(shards: Path | str, cache: CacheConfig | None = None) -> ShardStore:
    """The store of a folder or URL; `cache` says how a remote one is read, None: by the defaults.

    Raises:
        ConfigError: a URL whose protocol is unknown or needs a package that is not installed.
        ShardError: a store that cannot be reached.
    """
    place = str(shards)
    for prefix in ("file://", "local://"):
        place = place.removeprefix(prefix)
    if not is_url(place):
        return LocalStore(Path(place))
    from pipeline.data.remote import RemoteStore  # fsspec is not for those who have a folder

    return RemoteStore(place, cache or CacheConfig())
