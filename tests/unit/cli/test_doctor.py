"""`gst doctor` against real conditions: no compiler, no room, no port, an old package, a server that is down."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.checks import devices, machine, software
from pipeline.cli.checks.row import Row, worst
from pipeline.cli.doctor import examine
from pipeline.dist import free_port
from tests.launching import ROOT, environment

MIB = 2**20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_every_package_of_setup_py_is_looked_at_and_fits() -> None:
    rows = {row.check: row for row in software.package_rows()}
    for name in ("torch", "deepspeed", "transformers", "peft", "mlflow"):
        assert (rows[name].state, rows[name].found) == ("ok", importlib.metadata.version(name))
    assert "ray" not in rows  # an extra


def test_a_version_outside_the_range_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("torch", "2.1.0"), ("peft", "0.99")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = {row.check: row for row in software.package_rows()}
    assert rows["torch"].state == "bad" and rows["torch"].found == "2.1.0, outside >=2.5"
    assert rows["torch"].advice == "pip install 'torch>=2.5'"
    assert rows["peft"].state == "ok"


def test_without_compilers_a_gpu_machine_is_bad_and_a_cpu_machine_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with_gpu = {row.check: row for row in software.compiler_rows(has_gpu=True)}
    assert with_gpu["gcc"].state == with_gpu["g++"].state == "bad" and "build-essential" in with_gpu["gcc"].advice
    assert with_gpu["ninja"].state == "warn"
    assert {row.state for row in software.compiler_rows(has_gpu=False)} == {"ok", "warn"}


def test_a_compiler_that_does_not_answer_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gcc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    rows = {row.check: row for row in software.compiler_rows(has_gpu=True)}
    assert rows["gcc"].state == "bad"


def test_a_taken_port_is_bad_when_it_is_wanted() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert machine.port_row(port, wanted=True).state == "bad"
        assert machine.port_row(port, wanted=False).state == "warn"
    assert machine.port_row(free_port(), wanted=True).state == "ok"


def test_a_full_disk_and_small_shared_memory_are_seen(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    rows = {row.check: row for row in machine.disk_rows(tiny_disk / "runs" / "deep", tiny_disk)}
    assert rows["disk of runs"].state == rows["disk of TMPDIR"].state == "bad"
    assert rows["disk of the cache"].state == "warn"
    assert "out=DIR" in rows["disk of runs"].advice and "TMPDIR" in rows["disk of TMPDIR"].advice
    assert machine.shared_memory_row(tiny_disk, gpus=2).state == "bad"
    assert machine.shared_memory_row(tiny_disk).state == "warn"
    assert machine.shared_memory_row(tmp_path / "none", gpus=8).state == "bad"


def test_few_open_files_are_seen() -> None:
    code = "from pipeline.cli.checks.machine import open_files_row as r; print(r().state)"
    for limit, state in ((128, "bad"), (1024, "warn"), (8192, "ok")):
        command = f"ulimit -n {limit} && exec {sys.executable} -c '{code}'"
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == state, done.stderr


def test_a_tracking_store_is_reached_or_named_without_its_password(tmp_path: Path) -> None:
    assert machine.tracking_row(None, tmp_path / "not-there-yet").state == "ok"
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 50)
    broken = machine.tracking_row(None, tmp_path)
    assert broken.state == "warn" and "not a database" in broken.found
    (tmp_path / "mlflow.db").unlink()
    sqlite3.connect(tmp_path / "mlflow.db").close()
    assert machine.tracking_row(f"sqlite:///{tmp_path}/mlflow.db", Path("elsewhere")).state == "ok"
    down = machine.tracking_row(f"http://me:secret@127.0.0.1:{free_port()}", tmp_path)
    assert down.state == "warn" and "secret" not in down.found
    database = machine.tracking_row(f"postgresql://me:secret@127.0.0.1:{free_port()}/db", tmp_path)
    assert database.state == "warn" and "secret" not in database.found


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        row = machine.tracking_row(f"http://127.0.0.1:{silent.getsockname()[1]}", Path())
    assert row.state == "warn"


def test_a_gpu_that_torch_cannot_use_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if devices.has_gpu():
        pytest.skip("torch uses the GPU here")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [row.state for row in devices.device_rows()] == ["ok"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 550.54.15\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (row,) = devices.device_rows()
    assert row.state == "bad" and "550.54.15" in row.found and "CUDA" in row.advice


def test_extensions_are_listed_and_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    text = " ".join(row.found for row in software.op_rows())
    assert "cpu_adam" in text and not (tmp_path / "built").exists()


def test_the_worst_row_decides() -> None:
    rows = [Row("a", "ok", ""), Row("b", "warn", "")]
    assert (worst(rows[:1]), worst(rows), worst([*rows, Row("c", "bad", "")])) == ("ok", "warn", "bad")


@pytest.mark.slow
def test_the_command_says_it_in_json_and_by_its_exit_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        words = ["gst", "doctor", "--json", "--port", str(taken.getsockname()[1]), "-c", "mini", f"out={tmp_path}"]
        done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["state"] == "bad"
    bad = [row for row in told["rows"] if row["state"] == "bad"]
    assert [row["check"].split()[0] for row in bad] == ["port"] and all(row["advice"] for row in bad)
    checks = {row["check"] for row in told["rows"]}
    assert {"torch", "gcc", "gpus", "shared memory", "open files", "host name", "mlflow store", "ssh", "pdsh"} <= checks


def test_a_machine_is_examined_without_a_recipe() -> None:
    rows = {row.check: row for row in examine(None, [])}
    assert rows["disk of runs"].found.startswith("runs:") and f"port {machine.LAUNCHER_PORT}" in rows
    assert shutil.which("deepspeed") is None or rows["deepspeed launcher"].found == shutil.which("deepspeed")
    assert rows["cpu cores"].found == str(len(os.sched_getaffinity(0)))
