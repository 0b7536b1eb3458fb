"""The processes of `gst bench loader`: one for each loader, which reads when it is asked and stands still otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from tests.bench.loader_peers.contract import AHEAD
from tests.bench.loader_peers.serve import ANSWER
from tests.launching import environment

# In batches: more than any loader reads ahead, so that nothing that was read between two turns counts.
WARM_UP = 4 * (AHEAD + 2)
SETTLE_S = 0.5  # after a turn, for what a loader reads ahead
LIMIT_S = 900.0  # of one answer


class LoaderFailed(Exception):
    """A loader is not installed, ended, or gave something else than it should; says what it said last."""


def pythons(given: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """Peer -> its Python, from options `PATH` for all and `PEER=PATH` for one.

    Raises:
        ConfigError: an unknown peer, or no such program.
    """
    found = dict.fromkeys(names, sys.executable)
    for option in sorted(given, key=lambda text: "=" in text):  # what is said of one wins
        name, _, path = option.rpartition("=")
        if (name and name not in found) or not Path(path).is_file():
            raise ConfigError(
                "no Python for a peer",
                where={"option": "--python"},
                got=option,
                expected=f"PATH or {'|'.join(found)}=PATH",
            )
        found |= {name: path} if name else dict.fromkeys(found, path)
    return found


def convert(module: str, shards: Path, target: Path, python: str, log_folder: Path) -> str:
    """Let a loader write our shards in its own form; returns its version."""
    with _Process(module, "convert", shards, python, log_folder, module, ["--target", target]) as process:
        return str(process.ask("")["version"])


class Loader:
    """One loader that serves batches in a process of its own.

    Args:
        module: in loader_peers.
        folder: its data.
        name: of its log.
        model: also encode for the model in this folder.
    """

    def __init__(
        self,
        module: str,
        folder: Path,
        *,
        micro_batch: int,
        seed: int,
        log_folder: Path,
        name: str = "",
        python: str = sys.executable,
        model: Path | None = None,
    ) -> None:
        words = ["--micro-batch", micro_batch, "--seed", seed]
        self._log_folder, self._name = log_folder, name or module
        self._process = _Process(module, "serve", folder, python, log_folder, self._name, words, model)

    def __enter__(self) -> Loader:
        self._process.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()

    def check(self, expected: Mapping[str, str]) -> int:
        """Clips read until all had come as expected; raises LoaderFailed otherwise."""
        path = self._log_folder / "expected.json"
        path.write_text(json.dumps(dict(expected)))
        return int(self._process.ask(f"check {path}")["read"])

    def clips_per_second(self, n: int) -> float:
        """Over `n` clips, after batches that do not count."""
        got = self._process.ask(f"measure {n} {WARM_UP}")
        time.sleep(SETTLE_S)
        return float(got["clips"] / got["seconds"])


class _Process:
    """`python -m tests.bench.loader_peers.serve` and all that it starts, gone at the end."""

    def __init__(
        self,
        module: str,
        action: str,
        folder: Path,
        python: str,
        log_folder: Path,
        name: str,
        words: Sequence[object],
        model: Path | None = None,
    ) -> None:
        self._words = [python, "-m", "tests.bench.loader_peers.serve", module, action, folder, *words]
        self._env = {**environment(), "TOKENIZERS_PARALLELISM": "false", "LITDATA_DISABLE_VERSION_CHECK": "1"}
        if model is not None:
            self._env["GST_BENCH_MODEL"] = str(model)
        self._log = log_folder / f"{name}-{action}.log"

    def __enter__(self) -> _Process:
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                list(map(str, self._words)),
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command (nothing for ""), wait for its answer; raises LoaderFailed when there is none."""
        assert self._process.stdin and self._process.stdout
        watch = threading.Timer(LIMIT_S, self._kill)
        watch.start()
        try:
            if command:
                self._process.stdin.write(command + "\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(ANSWER):
                    answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                    return answer
        except BrokenPipeError:
            pass
        finally:
            watch.cancel()
        raise LoaderFailed(self._last_words())

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"ended, or no answer within {LIMIT_S:.0f} s"
