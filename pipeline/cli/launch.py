"""Ranks: `--ranks N` starts a command under the `deepspeed` launcher; the launcher runs its module on every rank."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from pipeline.cli.errors import run_guarded
from pipeline.cli.supervise import supervise
from pipeline.dist import free_port
from pipeline.errors import ConfigError


def launch(module: str, arguments: Sequence[str], ranks: int) -> None:
    """Run the launcher with `ranks` ranks on this machine and exit as it does; raises what `launch_command` does.

    For several machines call the launcher yourself, with `--hostfile`.
    """
    command = launch_command(module, arguments, ranks)
    prepare_environment()
    sys.stdout.flush()
    raise typer.Exit(supervise(command))


def launch_command(module: str, arguments: Sequence[str], ranks: int, launcher: str | None = None) -> list[str]:
    """`deepspeed --num_accelerators <ranks> --module <module> <arguments>`, with a free port.

    Args:
        launcher: words to use instead of those before `--module`, such as `deepspeed --hostfile H`.

    Raises:
        ConfigError: no launcher on the path, or a number of ranks below 1.
    """
    if ranks < 1:
        raise ConfigError("the number of ranks must be at least 1", got=ranks)
    program, *options = shlex.split(launcher) if launcher else ["deepspeed", "--num_accelerators", str(ranks)]
    found = shutil.which(program) or str(Path(sys.executable).with_name(program))
    if not Path(found).is_file():
        raise ConfigError(f"the launcher `{program}` is not installed", hint="pip install -e . in this environment")
    if launcher is None:
        options += ["--master_port", str(free_port())]
    return [found, *options, "--module", module, *arguments]


def prepare_environment() -> None:
    """Without a GPU: what DeepSpeed and two ranks on few cores need, unless the user has set it."""
    if not _has_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def run_as_module(command: Callable[..., None]) -> None:
    """What `python -m pipeline.cli.<verb>` does on each rank: the verb alone, failing as every command fails."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_guarded(app)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
