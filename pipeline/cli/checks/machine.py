"""Ports, disks, shared memory, limits, names and the tracking store of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.cli.checks.row import Row, State
from pipeline.config.memory import GIB

MIB = 2**20
LAUNCHER_PORT = 29_500  # of `deepspeed` and `torchrun` when nobody says another
ANSWER_S = 3.0
Answer = TypeVar("Answer")
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def cpu_rows() -> Iterator[Row]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Row("cpu cores", "ok", str(len(os.sched_getaffinity(0))))
    yield Row("memory", "ok", f"{pages / GIB:.1f} GiB")


def port_row(port: int, *, wanted: bool) -> Row:
    """Whether a TCP port can be listened on.

    Args:
        wanted: the user will use this port; else another can be taken.
    """
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            state: State = "bad" if wanted else "warn"
            return Row(name, state, error.strerror or "taken", "give the launcher another --master_port; gst finds one")
    return Row(name, "ok", "free")


def disk_rows(out: Path, cache: Path) -> Iterator[Row]:
    """Space where runs, the cache of shards and temporary files go."""
    yield _disk_row("disk of runs", out, least=GIB, enough=20 * GIB, advice="set out=DIR on a larger disk")
    yield _disk_row("disk of the cache", cache, least=0, enough=10 * GIB, advice="set data.cache.folder=DIR")
    temporary = Path(tempfile.gettempdir())
    yield _disk_row("disk of TMPDIR", temporary, least=100 * MIB, enough=2 * GIB, advice="set TMPDIR to a larger disk")


def _disk_row(name: str, folder: Path, *, least: int, enough: int, advice: str) -> Row:
    there = existing(folder)
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if not os.access(there, os.W_OK):
        return Row(name, "bad", f"{there} is not writable", advice)
    state: State = "bad" if free < least else "warn" if free < enough else "ok"
    return Row(name, state, found, "" if state == "ok" else advice)


def existing(folder: Path) -> Path:
    """The nearest folder above, or itself, that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def shared_memory_row(folder: Path = Path("/dev/shm"), *, gpus: int = 0) -> Row:
    """NCCL and gloo exchange data between ranks of a machine through it; containers often give 64 MiB."""
    name, advice = "shared memory", "docker run --shm-size=16g, or --ipc=host"
    if not folder.is_dir():
        return Row(name, "bad" if gpus > 1 else "warn", f"no {folder}", advice)
    free = shutil.disk_usage(folder).free
    small = free < GIB
    state: State = "ok" if not small else "bad" if gpus > 1 else "warn"
    return Row(name, state, f"{folder}: {free / MIB:.0f} MiB free", advice if small else "")


def open_files_row() -> Row:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return Row("open files", "ok", shown)
    state: State = "bad" if soft < 256 else "warn"
    return Row("open files", state, f"{shown} (hard limit {hard})", "ulimit -n 65536 before training: shards, sockets")


def ssh_rows() -> Iterator[Row]:
    """What `deepspeed --hostfile` needs; one machine, and SLURM, do without."""
    for program in ("ssh", "pdsh"):
        path = shutil.which(program)
        yield Row(program, "ok", path or "not on PATH", "" if path else "deepspeed --hostfile needs it; SLURM does not")


def host_row() -> Row:
    """Ranks on other machines find this one by its name."""
    name = socket.gethostname()
    try:
        address = in_time(lambda: socket.gethostbyname(name))
    except (OSError, NotInTime) as error:
        found = f"{name} is not resolved ({type(error).__name__})"
        return Row("host name", "warn", found, "add it to /etc/hosts; several machines: --master_addr ADDRESS")
    if address.startswith("127."):
        return Row("host name", "ok", f"{name} -> {address}", "several machines: --master_addr ADDRESS, not this name")
    return Row("host name", "ok", f"{name} -> {address}")


def tracking_row(uri: str | None, out: Path) -> Row:
    """The MLflow store that a run would log to.

    Args:
        uri: `logging.tracking_uri`; None: the SQLite file in `out`.
    """
    advice = "training goes on without it; set logging.tracking_uri, and send later with gst report RUN --sync"
    shown = uri or f"sqlite:///{out}/mlflow.db"
    url = urlsplit(shown)
    if url.password:
        shown = shown.replace(f":{url.password}@", ":***@")
    try:
        in_time(lambda: _reach(uri, url.scheme.split("+")[0], out))
    except (OSError, sqlite3.Error, ValueError, NotInTime) as error:
        text = str(error) or type(error).__name__
        return Row("mlflow store", "warn", f"{shown}: {text.splitlines()[0][:200]}", advice)
    return Row("mlflow store", "ok", shown)


def _reach(uri: str | None, scheme: str, out: Path) -> None:
    """OSError, sqlite3.Error or ValueError when the store does not answer."""
    import requests

    url = urlsplit(uri or "")
    if uri is not None and scheme in ("http", "https"):
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_S).raise_for_status()
    elif uri is not None and scheme in DATABASE_PORTS:
        socket.create_connection((url.hostname or "", url.port or DATABASE_PORTS[scheme]), timeout=ANSWER_S).close()
    elif uri is None or scheme == "sqlite":
        file = out / "mlflow.db" if uri is None else Path(uri.partition("///")[2])
        if file.exists():
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=ANSWER_S)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.close()
        elif not os.access(existing(file.parent), os.W_OK):
            raise PermissionError(f"{file.parent} is not writable")


def in_time(question: Callable[[], Answer], timeout_s: float = 2 * ANSWER_S) -> Answer:
    """The answer; TimeoutError when it takes longer: resolvers and servers that hang would hold the doctor up."""
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()  # a pool's thread would be waited for when the program ends
    return answer.result(timeout=timeout_s)
