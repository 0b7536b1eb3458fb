"""Run the project's real commands and the real launcher from tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.dist import free_port

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TIMEOUT_S = 240


def environment(gpu: bool = False) -> dict[str, str]:
    """The tests' environment with one thread per process, CPU only but for `gpu`, this checkout's commands first."""
    device = {} if gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        **device,
    }


def run_command(*words: object, timeout_s: float = TIMEOUT_S, gpu: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one of the installed commands to its end."""
    command = [str(word) for word in words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(gpu), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def launch_command(module: str, *words: object, ranks: int = 2) -> list[str]:
    """The command line that starts `module` on `ranks` ranks with the deepspeed launcher."""
    launcher = [str(BIN / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", str(free_port())]
    return [*launcher, "--module", module, *(str(word) for word in words)]


def run_ranks(
    module: str, *words: object, ranks: int = 2, timeout_s: float = TIMEOUT_S, gpu: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `module` on real ranks to its end."""
    return run_command(*launch_command(module, *words, ranks=ranks), timeout_s=timeout_s, gpu=gpu)


def start_ranks(module: str, *words: object, ranks: int = 2) -> subprocess.Popen[str]:
    """Start `module` on real ranks in a process group of its own, to be killed with `kill_all`."""
    return start_command(*launch_command(module, *words, ranks=ranks))


def start_command(*words: object) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; all that it says comes through `stdout`."""
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, children first."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL the launcher and every rank at once, as a power cut would."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
