"""What a service is told at its start."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline.affinity.service.tokens import Tokens
from pipeline.errors import AccessError

MIB = 2**20
VERSION = pipeline.__version__


@dataclass(frozen=True)
class ServiceSettings:
    """How the service behaves; the store comes apart from it.

    Attributes:
        host: address it listens on.
        tokens: who may read and write; None: everybody who can reach it, which only loopback allows.
        experiment: an experiment folder whose run logs are followed; None: only what was pushed.
        max_body_bytes: larger requests are refused.
        body_timeout_s: a request body that takes longer to arrive is refused.
        rate: requests per client address, in the words of the `limits` library.
        compute_wait_s: how long a computation may wait for the one before it.
        compute_queue: how many may wait.
    """

    host: str = "127.0.0.1"
    tokens: Tokens | None = None
    experiment: Path | None = None
    max_body_bytes: int = 64 * MIB
    body_timeout_s: float = 120.0
    rate: str = "100/second"
    compute_wait_s: float = 60.0
    compute_queue: int = 8

    def __post_init__(self) -> None:
        if self.tokens is None and not is_loopback(self.host):
            raise AccessError(
                "a service that other machines can reach needs tokens",
                where={"host": self.host},
                hint="write a token file with `gst serve --new-tokens FILE`, then give it with --token-file FILE",
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
