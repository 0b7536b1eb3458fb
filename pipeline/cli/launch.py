"""Ranks: `--ranks N` starts a command under the `deepspeed` launcher; the launcher runs its module on every rank."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from pipeline.cli.errors import run_guarded
from pipeline.dist import free_port
from pipeline.errors import ConfigError


def launch(module: str, arguments: Sequence[str], ranks: int) -> None:
    """Replace this process by `deepspeed --num_accelerators <ranks> --module <module> <arguments>`.

    For several machines call the launcher yourself, with `--hostfile`.

    Raises:
        ConfigError: no launcher on the path, or a number of ranks below 1.
    """
    if ranks < 1:
        raise ConfigError("the number of ranks must be at least 1", got=ranks)
    launcher = shutil.which("deepspeed") or str(Path(sys.executable).with_name("deepspeed"))
    if not Path(launcher).is_file():
        raise ConfigError("the `deepspeed` launcher is not installed", hint="pip install -e . in this environment")
    environment = {**os.environ}
    if not _has_gpu():
        environment.setdefault("DS_ACCELERATOR", "cpu")
        environment.setdefault("OMP_NUM_THREADS", "1")
    command = [launcher, "--num_accelerators", str(ranks), "--master_port", str(free_port()), "--module", module]
    sys.stdout.flush()
    os.execve(launcher, [*command, *arguments], environment)


def run_as_module(command: Callable[..., None]) -> None:
    """What `python -m pipeline.cli.<verb>` does on each rank: the verb alone, failing as every command fails."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_guarded(app)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
