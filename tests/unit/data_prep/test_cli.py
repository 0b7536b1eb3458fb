"""The commands as a user runs them: real processes, killed ones too."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prep_corpora import line, tree, write_corpus, write_lines

from data_prep import cli
from data_prep.planning.corpora import find_corpora
from pipeline.errors import ConfigError, CorpusError

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "data_prep.cli", *map(str, arguments)]


def gst_data(*arguments: object, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **how)  # type: ignore[call-overload]


def main(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The entry point in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["gst-data", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=100, val=10, test=10, seconds=2.0, rate_hz=44_100)


@pytest.fixture(scope="module")
def clean(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one uninterrupted process writes."""
    out = tmp_path_factory.mktemp("clean")
    result = gst_data(*prepare_arguments(corpus, out, jobs=1))
    assert result.returncode == 0, result.stderr
    assert "complete" in result.stdout and "ok 120" in result.stdout and "120/120 clips" in result.stderr
    return tree(out)


def prepare_arguments(corpus: Path, out: Path, *, jobs: int = 2) -> list[object]:
    where = ["--root", corpus, "--out", out, "--corpus", "jsonl"]
    return ["prepare", *where, "--jobs", jobs, "--max-clips-per-shard", 3]


def start_and_wait_for_shards(corpus: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command(*prepare_arguments(corpus, out)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("noises/*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    return process


def kill_main(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def kill_worker(process: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "a worker process died" in errors and "noises-" in errors and "Traceback" not in errors


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes in /proc")
@pytest.mark.parametrize("kill", [kill_main, kill_worker])
def test_killed_and_restarted_gives_the_bytes_of_a_clean_run(
    corpus: Path, clean: dict[str, bytes], tmp_path: Path, kill: Callable[[subprocess.Popen[str]], None]
) -> None:
    out = tmp_path / "out"
    kill(start_and_wait_for_shards(corpus, out))
    assert not (out / "noises/manifest.json").exists(), "it was to be killed in the middle"
    result = gst_data(*prepare_arguments(corpus, out))
    assert result.returncode == 0, result.stderr
    assert tree(out) == clean


def test_full_disk_is_a_clear_error_and_leaves_nothing_half_written(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = gst_data(
        *prepare_arguments(corpus, out, jobs=1),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert result.returncode == 2
    assert "error: a shard cannot be written" in result.stderr and "Traceback" not in result.stderr
    assert all(name.startswith("noises/plan/") for name in tree(out)), "the plan is whole, no shard is there"


def test_verbs_and_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    where = ["--root", tmp_path, "--out", out]
    assert main("prepare", *where, "--jobs", 1, "--only", "noises", monkeypatch=monkeypatch) == 0
    assert "8 / 2 / 2" in capsys.readouterr().out
    assert main("info", out, monkeypatch=monkeypatch) == 0
    assert "not stated" in capsys.readouterr().out
    assert main("lint", out, "--decode", monkeypatch=monkeypatch) == 0
    (out / "noises/noises-val-000000.tar").unlink()
    assert main("lint", out, monkeypatch=monkeypatch) == 1
    assert "noises-val-000000.tar: the tar is missing" in capsys.readouterr().out
    (corpus / "audio/000.wav").write_bytes(b"")
    assert main("prepare", *where, "--jobs", 1, monkeypatch=monkeypatch) == 2
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and "too many clips of a corpus are damaged" in captured.err
    assert main("prepare", "--root", tmp_path / "none", "--out", out, monkeypatch=monkeypatch) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_finding_corpora(tmp_path: Path) -> None:
    for name in ("birds", "dogs"):
        write_lines(tmp_path / name, [line(0, "train", dataset=name)])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/metadata.jsonl").write_text('{"file_name": "a.wav", "text": "of another kind"}\n')
    assert [adapter.name for adapter, _ in find_corpora(tmp_path)] == ["birds", "dogs"]
    assert find_corpora(tmp_path, only=["dogs"])[0][1] == tmp_path / "dogs"
    with pytest.raises(ConfigError, match="did you mean 'dogs'"):
        find_corpora(tmp_path, only=["dog"])
    with pytest.raises(ConfigError, match="did you mean 'clotho'"):
        find_corpora(tmp_path, "cloto")
    with pytest.raises(CorpusError, match="no corpus found"):
        find_corpora(tmp_path, "clotho")
    with pytest.raises(CorpusError, match="no such corpora folder"):
        find_corpora(tmp_path / "none")
    with pytest.raises(CorpusError, match="no line of an annotation file"):
        find_corpora(tmp_path, "jsonl")
