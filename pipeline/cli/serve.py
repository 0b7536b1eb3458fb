"""`gst serve`: the affinity service over a folder, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.affinity.service.settings import MIB, ServiceSettings
from pipeline.affinity.service.tokens import load_tokens, write_new_tokens
from pipeline.errors import ConfigError

FolderArgument = Annotated[Path | None, typer.Argument(help="Experiment folder, or any folder for a shared service.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on; beyond this machine, tokens are needed.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
TokenOption = Annotated[Path | None, typer.Option(help="Who may read and write; a file of mode 600.")]
NewOption = Annotated[Path | None, typer.Option(help="Write new tokens to this file, and end.")]
BodyOption = Annotated[int, typer.Option(min=1, max=4096, help="Largest request, in MiB.")]
RateOption = Annotated[str, typer.Option(help="Requests that one client address may send, such as 100/second.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Seconds a computation may wait for the one before it.")]
CertOption = Annotated[Path | None, typer.Option(help="Certificate chain for https (PEM).")]
KeyOption = Annotated[Path | None, typer.Option(help="Its private key (PEM).")]


def serve(
    folder: FolderArgument = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8377,
    token_file: TokenOption = None,
    new_tokens: NewOption = None,
    max_body_mb: BodyOption = 64,
    rate: RateOption = "100/second",
    compute_wait_s: WaitOption = 60.0,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Serve the affinity store FOLDER/affinity, follow the runs below FOLDER/arms, and show the page."""
    if new_tokens is not None:
        write_new_tokens(new_tokens)
        print(f"{new_tokens}: one token for reading, one for writing; give the file to the service with --token-file")
        return
    if folder is None or not folder.is_dir():
        raise ConfigError(
            "there is no such folder to serve",
            got=folder,
            expected="an experiment folder, or any existing folder for a shared service",
        )
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("https needs both --tls-cert and --tls-key")
    settings = ServiceSettings(
        host=host,
        tokens=None if token_file is None else load_tokens(token_file),
        experiment=folder,
        max_body_bytes=max_body_mb * MIB,
        rate=rate,
        compute_wait_s=compute_wait_s,
    )
    from pipeline.affinity.service.server import Certificate, run_service  # FastAPI, which no other verb needs

    run_service(folder, settings, port, Certificate(tls_cert, tls_key) if tls_cert and tls_key else None)
