"""`--ranks N`: start the same command under the `deepspeed` launcher."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

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
    command = [launcher, "--num_accelerators", str(ranks), "--master_port", _free_port(), "--module", module]
    sys.stdout.flush()
    os.execve(launcher, [*command, *arguments], environment)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
