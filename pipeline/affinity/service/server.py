"""The running service: a socket, the store's lock, and uvicorn until somebody stops it."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from pipeline.affinity.service.app import build_app
from pipeline.affinity.service.settings import ServiceSettings
from pipeline.affinity.store.store import open_store
from pipeline.errors import ConfigError

LOCK_WAIT_S = 3.0  # a training job holds the store only for moments
STOP_S = 10  # for requests that are under way when the service is stopped
MAX_CONNECTIONS = 500


@dataclass(frozen=True)
class Certificate:
    """For https: a certificate chain and its key, both PEM files."""

    chain: Path
    key: Path


def run_service(folder: Path, settings: ServiceSettings, port: int, certificate: Certificate | None = None) -> None:
    """Serve `folder`/affinity until SIGTERM or SIGINT; prints the address when it can be asked.

    The port is taken before the store is, so that of two services started at once one has both.

    Raises:
        ConfigError: the port is in use, or the address or certificate cannot be used.
        StoreBusyError: another process holds the store.
    """
    with _listen(settings.host, port) as listener:
        url = _url(settings.host, listener, is_secure=certificate is not None)
        with open_store(folder / "affinity", wait_s=LOCK_WAIT_S, url=url) as store:
            server = uvicorn.Server(_config(build_app(store, settings), settings, certificate))
            # The server takes these over while it runs, and raises them once more when it has stopped. Then they must
            # not end the process, which still has the store to close.
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, lambda *_: None)
            print(f"affinity service of {folder}: {url}", flush=True)
            server.run(sockets=[listener])
    print("stopped; the store is closed", flush=True)


def _config(app: object, settings: ServiceSettings, certificate: Certificate | None) -> uvicorn.Config:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=settings.tokens is not None,  # who asks, when a proxy on this machine stands in front
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=None if certificate is None else certificate.chain,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        assert certificate is not None
        raise ConfigError(
            f"the certificate cannot be used: {error}", where={"file": certificate.chain, "key": certificate.key}
        ) from error
    return config


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen there: {error.strerror or error}",
            where={"host": host, "port": port},
            hint="is a service running already? --port 0 takes a free port",
        ) from error
    return listener


def _url(host: str, listener: socket.socket, *, is_secure: bool) -> str:
    """Where others reach the service; an address that stands for all interfaces becomes this machine's name."""
    scheme, port = "https" if is_secure else "http", listener.getsockname()[1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"{scheme}://{host}:{port}"
    name = socket.gethostname() if address.is_unspecified else str(address)
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"
